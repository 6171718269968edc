"""Mixture-of-experts decoders: equal to a dense one with equal experts, and the two router losses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_model import PICTURE, make, text, tiles

from mm15.model import MM15ForConditionalGeneration
from mm15.model.moe import gates, router_losses
from mm15.model.routing import GROUPED


def sparse(**changes: Any) -> MM15ForConditionalGeneration:
    """Four layers, every second with 4 experts, 2 of them a token."""
    return make(decoder="qwen3_moe", decoder_shape={"num_hidden_layers": 4, **changes})


def test_layout_is_the_papers() -> None:
    """Experts instead of every second feed-forward, as large as it; top-2, renormalised; 64 by default."""
    model = sparse()
    kinds = [hasattr(layer.mlp, "experts") for layer in model.decoder.model.layers]
    config = model.config.text_config
    assert kinds == [False, True, False, True]
    assert (config.num_experts_per_tok, config.norm_topk_prob) == (2, True)
    assert config.moe_intermediate_size == config.intermediate_size
    from mm15.model.decoder import scratch_config

    assert scratch_config("qwen3_moe", {}, 100).num_experts == 64


def test_identical_experts_equal_the_dense_model() -> None:
    """With every expert a copy of the dense feed-forward, routing cannot matter: logits equal to 1e-5."""
    dense, moe = make(decoder="qwen3", decoder_shape={"num_hidden_layers": 4}), sparse()
    state = dense.state_dict()
    with torch.no_grad():
        for name, parameter in moe.named_parameters():
            if ".mlp.experts.gate_up_proj" in name:
                stem = name.removesuffix("experts.gate_up_proj")
                both = torch.cat([state[f"{stem}gate_proj.weight"], state[f"{stem}up_proj.weight"]])
                parameter.copy_(both.expand_as(parameter))
            elif ".mlp.experts.down_proj" in name:
                stem = name.removesuffix("experts.down_proj")
                parameter.copy_(state[f"{stem}down_proj.weight"].expand_as(parameter))
            elif ".mlp.gate.weight" not in name:
                parameter.copy_(state[name])
        ids, pixels = torch.tensor([text(5) + PICTURE + text(9, 1)]), tiles(1)
        torch.testing.assert_close(moe(ids, pixels).logits, dense(ids, pixels).logits, rtol=0, atol=1e-5)


def plain_losses(logits: torch.Tensor, top_k: int, real: list[bool]) -> tuple[float, float, list[int]]:
    """Balance, z and counts of one layer, token by token."""
    experts = logits.shape[1]
    counts, mass, z, tokens = [0] * experts, [0.0] * experts, 0.0, 0
    for row, is_real in zip(logits.tolist(), real, strict=True):
        if not is_real:
            continue
        tokens += 1
        total = sum(math.exp(v) for v in row)
        z += math.log(total) ** 2
        for expert in range(experts):
            mass[expert] += math.exp(row[expert]) / total
        for expert in sorted(range(experts), key=lambda e: -row[e])[:top_k]:
            counts[expert] += 1
    balance = experts * sum(c / (tokens * top_k) * m / tokens for c, m in zip(counts, mass, strict=True))
    return balance, z / tokens, counts


@pytest.mark.parametrize("top_k", [1, 2])
def test_losses_equal_a_plain_loop(top_k: int) -> None:
    """Per layer, padding left out, averaged over layers."""
    torch.manual_seed(0)
    layers = [torch.randn(11, 5) * 2, torch.randn(11, 5) - 1]
    real = [True] * 7 + [False] * 3 + [True]
    wanted = [plain_losses(layer, top_k, real) for layer in layers]
    with torch.no_grad():
        found = router_losses(layers, top_k, torch.tensor(real)[None])
    assert found.balance.item() == pytest.approx(sum(w[0] for w in wanted) / 2, rel=1e-5)
    assert found.z.item() == pytest.approx(sum(w[1] for w in wanted) / 2, rel=1e-5)
    assert found.expert_counts.tolist() == [w[2] for w in wanted]


def test_an_even_router_has_balance_one() -> None:
    """Whatever the number of experts; and opposite imbalances of two layers do not cancel."""
    with torch.no_grad():
        for experts in (4, 64):
            even = torch.eye(experts) * 20
            assert router_losses([even], 1).balance.item() == pytest.approx(1, rel=1e-3)
        left, right = torch.tensor([[9.0, 0.0]] * 4), torch.tensor([[0.0, 9.0]] * 4)
        assert router_losses([left, right], 1).balance.item() == pytest.approx(2, rel=1e-3)


def test_the_model_reports_the_losses_of_its_own_routers() -> None:
    """Logits are those of the gates on this forward; real tokens only; the loss adds both of every layer, weighted."""
    model = sparse()
    seen: list[torch.Tensor] = []
    for gate in gates(model.decoder):
        gate.register_forward_hook(lambda _m, _i, out: seen.append(out[0].detach()))
    ids = torch.tensor([text(9), [0, 0, 0, *text(6, 1)]])
    mask = (ids != 0).long()
    labels = torch.where(mask.bool(), ids, -100)
    with torch.no_grad():
        out = model(ids, attention_mask=mask, labels=labels)
    wanted = [plain_losses(layer, 2, mask.bool().flatten().tolist()) for layer in seen]
    assert len(wanted) == 2
    assert out.balance_loss.item() == pytest.approx(sum(w[0] for w in wanted) / 2, rel=1e-4)
    assert out.z_loss.item() == pytest.approx(sum(w[1] for w in wanted) / 2, rel=1e-4)
    assert out.expert_counts.tolist() == [w[2] for w in wanted]
    assert out.expert_counts.sum(1).tolist() == [15 * 2] * 2
    main = out.loss_sum / out.loss_count
    router = sum(0.01 * balance + 0.001 * z for balance, z, _ in wanted)
    assert out.loss.item() == pytest.approx(main.item() + router, rel=1e-5)


def test_padding_tail_of_a_pack_is_not_routed_for() -> None:
    """Documents of one token behind a pack are padding: losses and counts do not see them."""
    model = sparse()
    ids = torch.tensor([text(12)])
    positions = torch.tensor([[*range(7), *range(5)]])
    tail = torch.zeros(1, 4, dtype=torch.long)
    with torch.no_grad():
        short = model(ids, position_ids=positions)
        long = model(torch.cat([ids, tail], 1), position_ids=torch.cat([positions, tail], 1))
    torch.testing.assert_close(long.balance_loss, short.balance_loss)
    torch.testing.assert_close(long.z_loss, short.z_loss)
    assert torch.equal(long.expert_counts, short.expert_counts)


def gate_gradients(model: MM15ForConditionalGeneration) -> list[torch.Tensor]:
    """Gradients of the routers under a loss that is almost only the router losses."""
    model.config.router_balance, model.config.router_z = 10.0, 1.0
    model.train()
    model.zero_grad()
    ids = torch.tensor([text(6) + PICTURE + text(9, 1)])
    model(ids, tiles(1), shift_labels=ids.roll(-1, 1)).loss.backward()
    return [gate.weight.grad.clone() for gate in gates(model.decoder)]


def test_router_gradients_survive_activation_checkpointing() -> None:
    """Gradients with non-reentrant checkpointing equal those without, and are not only the main loss's."""
    model = sparse()
    wanted = gate_gradients(model)
    model.gradient_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in model.decoder.model.layers)
    for found, want in zip(gate_gradients(model), wanted, strict=True):
        assert want.abs().max() > 0
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-6)
    model.config.router_balance = model.config.router_z = 0.0
    ids = torch.tensor([text(6) + PICTURE + text(9, 1)])
    model.zero_grad()
    model(ids, tiles(1), shift_labels=ids.roll(-1, 1)).loss.backward()
    assert not torch.allclose(gates(model.decoder)[0].weight.grad, wanted[0], rtol=0.1)


def test_reentrant_checkpointing_is_refused() -> None:
    """It would cut the router losses off from the graph without a word."""
    model = sparse().train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    ids = torch.tensor([text(9)])
    with pytest.raises(RuntimeError, match="non-reentrant"):
        model(ids, shift_labels=ids.roll(-1, 1))


def test_router_losses_add_up_over_micro_batches() -> None:
    """z is a mean over the real tokens of the whole step when `num_tokens_in_batch` is given."""
    model = sparse()
    model.config.router_balance = 0.0
    rows = [torch.tensor([text(12, 1)]), torch.tensor([text(5, 2)])]
    targets = [
        row.masked_fill(torch.arange(row.shape[1]) < first, -100) for row, first in zip(rows, (9, 1), strict=True)
    ]
    packed = torch.cat(rows, 1)
    positions = torch.tensor([[*range(12), *range(5)]])
    with torch.no_grad():
        whole = model(packed, position_ids=positions, shift_labels=torch.cat(targets, 1))
        counts = {"num_items_in_batch": 3 + 4, "num_tokens_in_batch": 17}
        parts = [model(r, shift_labels=t, **counts).loss for r, t in zip(rows, targets, strict=True)]
    assert sum(parts).item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert whole.z_loss > 0.1


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_experts_implementations_agree(implementation: str) -> None:
    """Logits do not depend on how the experts are multiplied; the fastest on CPUs and GPUs alike is the default."""
    model = sparse()
    assert model.decoder.config._experts_implementation == GROUPED
    ids = torch.tensor([text(20)])
    with torch.no_grad():
        wanted = model(ids).logits
    model.set_experts_implementation(implementation)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, wanted, rtol=0, atol=1e-5)


def test_a_dense_decoder_reports_no_router_losses() -> None:
    """Nothing of the kind in the output."""
    out = make()(torch.tensor([text(5)]))
    assert out.balance_loss is None
    assert out.expert_counts is None
