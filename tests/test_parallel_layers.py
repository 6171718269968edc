"""Activation checkpointing and torch.compile change no loss, gradient or name; what is computed again is counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, partial

import pytest
import torch
from tiny_model import PICTURE, make, text, tiles
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface

from mm15 import recipe
from mm15.errors import UserError
from mm15.model import attention
from mm15.model.moe import gates
from mm15.train import layers

CPU = torch.device("cpu")


def row(lengths: list[int], pictures: int, seed: int = 0) -> dict:
    """A packed row of documents of so many tokens, the first `pictures` of them after a picture each."""
    ids: list[int] = []
    positions: list[int] = []
    for i, length in enumerate(lengths):
        document = (PICTURE if i < pictures else []) + text(length, seed + i)
        ids += document
        positions += range(len(document))
    labels = torch.full((1, len(ids)), -100)
    labels[0, 6::3] = 7
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "pixel_values": tiles(pictures, seed) if pictures else None,
        "shift_labels": labels,
        "use_cache": False,
    }


ROWS = [row([9, 5, 14], 2), row([30], 0), row([4, 6, 7, 8], 3), row([11, 3], 1), row([5, 9, 2, 2, 12, 3], 4)]


def model_of(decoder: str, **settings: object) -> torch.nn.Module:
    """A tiny model set up for training."""
    model = make("siglip", decoder).train()
    layers.set_up_layers(model, recipe.Parallel(**settings), CPU)
    return model


def gradients(model: torch.nn.Module, rows: list[dict]) -> dict[str, torch.Tensor]:
    """Losses of rows and the gradients of their sum."""
    found = {f"loss {i}": 0.0 for i in range(len(rows))}
    for i, inputs in enumerate(rows):
        out = model(**inputs)
        out.loss.backward()
        found[f"loss {i}"] = out.loss.detach()
    return {**found, **{name: p.grad for name, p in model.named_parameters()}}


@pytest.mark.parametrize("decoder", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("checkpointing", ["selective", "full"])
def test_checkpointing_changes_no_gradient_and_no_name(decoder: str, checkpointing: str) -> None:
    """Router losses included: theirs come from logits that a hook took in the forward."""
    plain, again = model_of(decoder), model_of(decoder, activation_checkpointing=checkpointing)
    assert list(again.state_dict()) == list(plain.state_dict())
    expected, found = gradients(plain, ROWS), gradients(again, ROWS)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    if decoder == "qwen3_moe":
        assert all(gate.weight.grad.abs().max() > 0 for gate in gates(again.decoder))


def test_routers_are_asked_once_though_they_run_twice() -> None:
    """The forward records each sparse layer once; the second run in the backward adds nothing to losses or counts."""
    plain, again = model_of("qwen3_moe"), model_of("qwen3_moe", activation_checkpointing="full")
    runs: list[torch.nn.Module] = []
    for gate in gates(again.decoder):
        gate.register_forward_hook(lambda module, _inputs, _out: runs.append(module))
    one, other = plain(**ROWS[2]), again(**ROWS[2])
    layers_ = len(gates(again.decoder))
    assert other.expert_counts.shape[0] == layers_ == len(runs)
    torch.testing.assert_close(other.balance_loss, one.balance_loss)
    other.loss.backward()
    assert len(runs) == 2 * layers_
    assert torch.equal(other.expert_counts, one.expert_counts)


def test_what_is_computed_again() -> None:
    """Full: the layers' forward, but for each layer's last product, which nothing waits for. Selective: no matrix
    product and no attention, which are all that has flops."""
    spent = {}
    for checkpointing in ("none", "selective", "full"):
        model = model_of("llama", activation_checkpointing=checkpointing)
        seen = []
        norm = model.decoder.model.layers[0].input_layernorm
        norm.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        loss = model(**ROWS[0]).loss
        with FlopCounterMode(display=False) as flops:
            loss.backward()
        spent[checkpointing] = (flops.get_total_flops(), len(seen))
    assert spent["none"][1] == 1 and spent["selective"][1] == spent["full"][1] == 2
    assert spent["selective"][0] == spent["none"][0]
    with FlopCounterMode(display=False) as flops:
        model_of("llama")(**ROWS[0])
    counts = flops.get_flop_counts().items()
    of_layers = sum(sum(count.values()) for name, count in counts if re.search(r"\.layers\.\d+$", name))
    assert 0.6 * of_layers < spent["full"][0] - spent["none"][0] < of_layers


def test_evaluation_runs_the_layers_as_they_are() -> None:
    model = model_of("llama", activation_checkpointing="full").eval()
    ids = torch.tensor([text(6)])
    first = model(input_ids=ids, use_cache=True)
    assert first.past_key_values.get_seq_length() == 6


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compiling without the code generator, which takes seconds a graph: graphs, guards and breaks are the same."""
    monkeypatch.setattr(layers, "_compiled", cache(partial(torch.compile, dynamic=True, backend="eager")))
    torch._dynamo.reset()
    counters.clear()
    yield
    AttentionInterface.register(attention.PACKED_SDPA, attention.packed_sdpa)
    torch._dynamo.reset()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(("decoder", "checkpointing"), [("llama", "none"), ("qwen3_moe", "full")])
def test_compiled_layers_equal_plain_ones(decoder: str, checkpointing: str) -> None:
    """Rows of any length, number of documents and number of tiles; no graph for each."""
    expected = gradients(model_of(decoder), ROWS)
    model = model_of(decoder, activation_checkpointing=checkpointing, compile=True)
    found = gradients(model, ROWS)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    graphs = counters["stats"]["unique_graphs"]
    model.zero_grad()
    gradients(model, [row([3, 8, 8, 4, 6], 2, seed=9), row([40, 2], 0, seed=9), row([2] * 9, 5, seed=9)])
    assert counters["stats"]["unique_graphs"] == graphs


def test_code_that_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the code generator, once: norms, residuals and feed-forward of a layer in C++, to 1e-5 in fp32."""
    torch._dynamo.reset()
    expected = gradients(model_of("llama"), ROWS[:1])
    monkeypatch.setattr(layers, "LAYERS", r"decoder\.model\.layers\.1")
    model = model_of("llama", compile=True)
    attended = model.decoder.model.layers[1].self_attn
    attended.forward = torch.compiler.disable(attended.forward)  # half as many files to compile
    found = gradients(model, ROWS[:1])
    AttentionInterface.register(attention.PACKED_SDPA, attention.packed_sdpa)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_no_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler, and 'no-such-compiler' is not found"):
        model_of("llama", compile=True)
