"""A norm hands on one bf16 copy to the products that share its result: the same forward, nearly the same gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_model
import torch
from tiny_model import IMAGE, PICTURE
from torch import Tensor

from mm15.model import MM15ForConditionalGeneration

SHARING = ({"q_proj", "k_proj", "v_proj"}, {"query", "key", "value"}, {"gate_proj", "up_proj"})
"""Layers that take the same norm's result, by what transformers calls them."""
PAIRS = [("clip", "llama"), ("siglip", "qwen3_moe"), ("dinov2", "qwen3"), ("siglip", "qwen2"), ("clip", "mistral")]


def taken(model: Any, *, bf16: bool) -> tuple[dict[str, Tensor], Tensor]:
    """What each linear layer and router was given in a training forward, by its path; and the loss."""
    seen: dict[str, Tensor] = {}

    def note(path: str) -> Any:
        return lambda _module, given: seen.update({path: given[0]})

    hooks = [
        module.register_forward_pre_hook(note(path))
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Router"
    ]
    ids = torch.tensor([[*PICTURE, *tiny_model.text(20)]])
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(
            input_ids=ids,
            position_ids=torch.arange(ids.shape[1])[None],
            pixel_values=tiny_model.tiles(1),
            shift_labels=ids.masked_fill(ids == IMAGE, -100),
            use_cache=False,
        ).loss
    for hook in hooks:
        hook.remove()
    return seen, loss


def layers_that_share(seen: dict[str, Tensor]) -> list[list[str]]:
    """Paths of linear layers that take one result, together."""
    found: dict[tuple[str, int], list[str]] = {}
    for path in seen:
        parent, _, name = path.rpartition(".")
        for i, names in enumerate(SHARING):
            if name in names and not path.startswith("connector"):
                found.setdefault((parent, i), []).append(path)
    return list(found.values())


@pytest.mark.parametrize(("vision", "decoder"), PAIRS)
def test_layers_share_one_copy_under_autocast(vision: str, decoder: str, tmp_path: Path) -> None:
    """Of a model that was built and of one that was read from a folder; routers take fp32."""
    built = tiny_model.make(vision, decoder)
    built.save_pretrained(tmp_path)
    for model in (built, MM15ForConditionalGeneration.from_pretrained(tmp_path)):
        seen, _ = taken(model.train(), bf16=True)
        groups = layers_that_share(seen)
        dense = 1 if decoder == "qwen3_moe" else 2
        assert sorted(len(group) for group in groups) == [2] * dense + [3] * 4
        for group in groups:
            assert {(seen[path].dtype, seen[path].data_ptr()) for path in group} == {
                (torch.bfloat16, seen[group[0]].data_ptr())
            }
        routers = [x for path, x in seen.items() if path.endswith("mlp.gate")]
        assert [x.dtype for x in routers] == [torch.float32] * (2 - dense)


def gradients(model: Any, *, bf16: bool) -> tuple[float, Tensor]:
    """Loss, and all gradients in one vector."""
    _, loss = taken(model, bf16=bf16)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(("vision", "decoder"), PAIRS)
def test_the_forward_is_autocasts_own(vision: str, decoder: str) -> None:
    """Bit for bit. Gradients are added up in bf16, so they may be further from fp32's than autocast's own, but not by
    more than that explains: three numbers that were rounded to bf16 have three errors of variance v; adding them in
    bf16 makes two more, of up to 2v and 3v. The root of 8v / 3v is 1.63.
    """
    ours, plain, exact = (tiny_model.make(vision, decoder).train() for _ in range(3))
    for module in plain.modules():
        module._forward_hooks.clear()
    (loss, found), (expected, summed), (_, right) = (
        gradients(model, bf16=model is not exact) for model in (ours, plain, exact)
    )
    assert loss == expected
    assert not torch.equal(found, summed)  # or nothing was added up in another way
    assert (found - right).norm() <= 1.63 * (summed - right).norm() <= 0.1 * right.norm()


def test_outside_autocast_all_is_fp32() -> None:
    seen, _ = taken(tiny_model.make().train(), bf16=False)
    assert {x.dtype for x in seen.values()} == {torch.float32}


def test_on_devices_that_have_no_autocast() -> None:
    vision = tiny_model.make().to("meta").vision
    assert vision(torch.zeros(1, 3, tiny_model.TILE, tiny_model.TILE, device="meta")).shape == (1, 16, 32)
