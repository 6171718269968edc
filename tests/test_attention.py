"""Attention in blocks (bf16 on a CPU): as near to fp64 as PyTorch's own bf16 kernel, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mm15.model import attention
from mm15.model.attention import BLOCK, packed_sdpa

B16 = torch.bfloat16


class Decoder(nn.Module):
    """What transformers hands to an attention function."""

    is_causal = True


class Encoder(nn.Module):
    """The same of an encoder."""

    is_causal = False


def inputs(length: int, *, rows: int = 1, heads: int = 6, key_heads: int = 2, width: int = 16) -> list[Tensor]:
    """Query [B, A, T, E], key and value [B, K, T, E] in bf16, strided as projections leave them."""
    torch.manual_seed(0)
    shapes = [(rows, length, count, width) for count in (heads, key_heads, key_heads)]
    return [torch.randn(shape).to(B16).transpose(1, 2).requires_grad_() for shape in shapes]


def both(function: Callable[..., Tensor], tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Result [B, T, A, E] and the gradients of all inputs, in fp64."""
    own = [x.detach().to(dtype).requires_grad_() for x in tensors]
    out = function(*own)
    torch.manual_seed(1)
    found = [out, *torch.autograd.grad(out, own, torch.randn(out.shape).to(dtype))]
    return [x.detach().double() for x in found]


def reference(query: Tensor, key: Tensor, value: Tensor, documents: list[list[int]] | None) -> Tensor:
    """By PyTorch with a mask written out."""
    mask = None
    if documents is not None:
        blocks = [torch.block_diag(*(torch.ones(n, n).tril() for n in lengths)) for lengths in documents]
        mask = torch.stack(blocks)[:, None].bool()
    return F.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True).transpose(1, 2)


def error(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())


PACKINGS = {
    "one": [[7]],
    "over blocks": [[BLOCK + 60]],
    "short ones": [[50, 1, 3, 70, 90, 20]],
    "starts inside a block": [[100, 2 * BLOCK + 5, 1, 1]],
    "ends with a block": [[BLOCK, BLOCK]],
    "two rows": [[9, 4, 20], [33]],
}


@pytest.mark.parametrize("documents", PACKINGS.values(), ids=PACKINGS)
def test_packed_blocks_equal_a_written_mask(documents: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every document sees itself only and nothing later; result and gradients as near to fp64 as the fused kernel's."""
    called = []
    real = attention._block_attention
    monkeypatch.setattr(attention, "_block_attention", lambda *a: (called.append(1), real(*a))[1])
    tensors = inputs(sum(documents[0]), rows=len(documents))
    right = both(lambda *x: reference(*x, documents), tensors, torch.float64)
    fused = both(lambda *x: reference(*x, documents), tensors, B16)
    own = both(lambda *x: packed_sdpa(Decoder(), *x, None, documents=documents)[0], tensors, B16)
    assert called
    for mine, theirs, exact in zip(own, fused, right, strict=True):
        assert error(mine, exact) < max(1.5 * error(theirs, exact), 2**-8)


def test_encoder_blocks_equal_full_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every patch of a tile sees every other, and none of another tile."""
    monkeypatch.setattr(attention, "sdpa_attention_forward", None)
    tensors = inputs(40, rows=3, heads=4, key_heads=4)
    right = both(lambda *x: reference(*x, None), tensors, torch.float64)
    own = both(lambda *x: packed_sdpa(Encoder(), *x, None, scaling=16**-0.5)[0], tensors, B16)
    for mine, exact in zip(own, right, strict=True):
        assert error(mine, exact) < 2**-7


@pytest.mark.parametrize(
    "why",
    [{"dropout": 0.5}, {"sliding_window": 3}, {"short": 5}, {"dtype": torch.float32}],
    ids=lambda w: next(iter(w)),
)
def test_fused_kernels_elsewhere(why: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, a window, long documents and fp32 are left to PyTorch."""
    monkeypatch.setattr(attention, "_block_attention", None)
    monkeypatch.setattr(attention, "SHORT", why.pop("short", attention.SHORT))
    tensors = [x.detach().to(why.pop("dtype", B16)) if i == 0 else x for i, x in enumerate(inputs(8))]
    tensors = [x.detach().to(tensors[0].dtype) for x in tensors]
    assert packed_sdpa(Decoder(), *tensors, None, documents=[[8]], **why)[0].shape == (1, 8, 6, 16)


def test_query_in_fp32_is_taken_as_the_values_are() -> None:
    """Under autocast the rotary embedding leaves query and key in fp32; gradients come back in theirs."""
    query, key, value = (x.detach() for x in inputs(20))
    query, key = query.float().requires_grad_(), key.float().requires_grad_()
    out, _ = packed_sdpa(Decoder(), query, key, value, None, documents=[[20]])
    grads = torch.autograd.grad(out.sum(), (query, key))
    assert out.dtype == B16
    assert [g.dtype for g in grads] == [torch.float32, torch.float32]
