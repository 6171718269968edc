"""`packed_sdpa`: causal attention over a row of packed documents, one document at a time.

transformers isolates packed documents (positions that restart) by a dense [T, T] mask, which costs memory and the fast
kernels. This attention, registered with transformers under the name `packed_sdpa`, cuts the row at document starts and
runs PyTorch's causal attention on each piece without any mask. For a row of n documents of T/n tokens that is n times
less work: at T=1024, ten documents, 4 layers of width 128 on a CPU, forward and backward take 102 ms instead of 206.
It equals `sdpa` in every other case too (padding masks, cache, one document), to which it hands over. Encoders may use
it as well (no causality, no packing).

On CPUs PyTorch's fused kernels reach a tenth of the machine's bf16 rate. There documents up to `SHORT` tokens, and
encoders, are computed by `_BlockAttention`: matrix products around a softmax, block of queries by block of queries,
with a backward of its own that keeps the probabilities (T=512, 9 query and 3 key heads of 64, forward and backward:
3.2 ms against 12.3 of the fused bf16 kernel and 14.1 of the fp32 one).

`document_starts` reads the packing off the position ids; the model computes it once a forward and passes it down as
`documents`. Legend: B rows, T tokens, A query heads, K key heads, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_SDPA = "packed_sdpa"
SHORT = 2048
"""Longest sequence for which the fused kernels are passed over on a CPU; the probabilities kept for the backward grow
with the square of it."""
BLOCK = 128
"""Queries computed at one time; keys that all of them cannot see are left out."""


def document_starts(position_ids_BT: Tensor) -> Tensor:
    """True at [b, t] where a document starts: the first token of a row, and wherever positions do not go up by one."""
    starts_BT = torch.ones_like(position_ids_BT, dtype=torch.bool)
    starts_BT[:, 1:] = position_ids_BT[:, 1:] != position_ids_BT[:, :-1] + 1
    return starts_BT


def document_lengths(position_ids_BT: Tensor) -> list[list[int]]:
    """Lengths of the documents of each row, in order. Copies to the host once."""
    starts_BT = document_starts(position_ids_BT).cpu()
    length = starts_BT.shape[1]
    lengths = []
    for row_T in starts_BT:
        edges = [*row_T.nonzero().flatten().tolist(), length]
        lengths.append([b - a for a, b in pairwise(edges)])
    return lengths


def packed_documents(
    position_ids: Tensor | None, attention_mask: Tensor | None, shape: tuple[int, int], seen: int
) -> list[list[int]] | None:
    """Document lengths of each row of a batch of `shape` [B, T] when positions restart (a packed batch), else None.

    transformers joins packed documents silently when any attention mask or cache is given. The caller drops a mask of
    ones; a mask with zeros is a ValueError unless it only pads single documents.
    """
    if position_ids is None or seen or shape[1] == 1 or position_ids.ndim != 2:
        return None
    starts_BT = document_starts(position_ids)
    if attention_mask is None:
        restarts = int(starts_BT[:, 1:].sum())
    elif attention_mask.ndim != 2 or attention_mask.shape[1] != shape[1]:
        return None
    else:
        real_BT = attention_mask.bool()
        restarts = int((starts_BT[:, 1:] & real_BT[:, 1:] & real_BT[:, :-1]).sum())
        if restarts and not real_BT.all():
            raise ValueError(
                f"packed rows (positions restart {restarts} times) take attention_mask=None, "
                f"this one masks {int((~real_BT).sum())} tokens"
            )
    if not restarts:
        return None
    lengths = document_lengths(position_ids)
    return lengths * shape[0] if len(lengths) == 1 else lengths


def packed_arguments(attention: str | None, documents: list[list[int]]) -> dict[str, Any]:
    """What a decoder with this attention must be told of packed rows; refuses what it would join silently."""
    if "flash" in str(attention) and len(documents) > 1:
        raise ValueError(f"{attention} isolates packed documents in batches of one row; this one has {len(documents)}")
    return {"documents": documents} if attention == PACKED_SDPA else {}


def real_tokens(
    attention_mask: Tensor | None, documents: list[list[int]] | None, shape: tuple[int, int], device: torch.device
) -> Tensor:
    """[B, T], false at padding: where the mask is 0, and at packed documents of one token (the tail of a pack)."""
    if attention_mask is not None and attention_mask.ndim == 2:
        return attention_mask.bool()
    if documents is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    return torch.tensor([[n > 1 for n in lengths for _ in range(n)] for lengths in documents], device=device)


def packed_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [B, A, T, E], key and value [B, K, T, E] -> ([B, T, A, E], None)."""
    documents = kwargs.pop("documents", None)
    if attention_mask is not None or query.shape[2] != key.shape[2] or query.shape[2] == 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    causal = getattr(module, "is_causal", True)
    if causal and documents is None:
        positions = kwargs.get("position_ids")
        documents = [[query.shape[2]]] if positions is None else document_lengths(positions)
    if _in_blocks(value, documents, **kwargs):
        scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
        return _block_attention(query, key, value, scale, documents), None
    if not causal:  # an encoder: every token sees every other
        return sdpa_attention_forward(module, query, key, value, None, **kwargs)
    if len(documents) != len(query):
        documents = [documents[0]] * len(query)
    rows = []
    for b, lengths in enumerate(documents):
        pieces = zip(*(x[b : b + 1].split(lengths, dim=2) for x in (query, key, value)), strict=True)
        rows.append(torch.cat([_causal(*piece, **kwargs) for piece in pieces], dim=2))
    return torch.cat(rows).transpose(1, 2).contiguous(), None


def _in_blocks(
    value: Tensor,
    documents: list[list[int]] | None,
    *,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> bool:
    """Whether `_BlockAttention` is to be used: short sequences in bf16 on a CPU, without dropout or a window.

    The value tells the precision: under autocast the rotary embedding leaves query and key in fp32.
    """
    longest = value.shape[2] if documents is None else max(max(lengths) for lengths in documents)
    if value.device.type != "cpu" or value.dtype != torch.bfloat16 or longest > SHORT or dropout:
        return False
    return sliding_window is None or sliding_window >= longest


@torch.compiler.disable
def _block_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, documents: list[list[int]] | None
) -> Tensor:
    """[B, T, A, E] of query [B, A, T, E], key and value [B, K, T, E]; `documents` None: all see all."""
    if documents is None:
        plan = [_Block(slice(None), 0, query.shape[2], 0, None)]
    else:
        plan = [block for b in range(len(query)) for block in _blocks(b, tuple(documents[b % len(documents)]))]
    key, value = key.to(value.dtype).contiguous(), value.contiguous()  # or each product copies them
    return _BlockAttention.apply((query * scale).to(value.dtype), key, value, plan)


@dataclass(frozen=True)
class _Block:
    """Queries `start` to `end` of some rows, the first key they see, and what they see of the last keys ([q, k], bf16,
    -inf where nothing); None: all."""

    rows: slice
    start: int
    end: int
    first: int
    mask: Tensor | None


@lru_cache(maxsize=64)
def _blocks(row: int, lengths: tuple[int, ...]) -> list[_Block]:
    """The blocks of a packed row: up to `BLOCK` queries each, of one document or of several short ones."""
    starts_T = torch.repeat_interleave(torch.tensor([0, *accumulate(lengths[:-1])]), torch.tensor(lengths))
    found = []
    for start in range(0, len(starts_T), BLOCK):
        end = min(start + BLOCK, len(starts_T))
        first, alone = int(starts_T[start]), bool(starts_T[start] == starts_T[end - 1])
        keys_K = torch.arange(start if alone else first, end)  # before the block a document alone sees everything
        queries_Q = torch.arange(start, end)
        seen_QK = (keys_K <= queries_Q[:, None]) & (keys_K >= starts_T[start:end, None])
        mask_QK = torch.zeros(seen_QK.shape, dtype=torch.bfloat16).masked_fill(~seen_QK, float("-inf"))
        found.append(_Block(slice(row, row + 1), start, end, first, mask_QK))
    return found


class _BlockAttention(torch.autograd.Function):
    """Attention of blocks of queries that are scaled already; the probabilities are kept for the backward. Sums over
    blocks are in fp32."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: list[_Block]
    ) -> Tensor:
        out_BTAE = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        kept = []
        for block in plan:
            q, k, v = _queries(query, block, key.shape[1]), _keys(key, block), _keys(value, block)
            scores = torch.bmm(q, k.transpose(1, 2))
            if block.mask is not None:
                queries, last = block.mask.shape
                scores.unflatten(1, (-1, queries))[..., -last:].add_(block.mask)
            kept.append(scores.softmax(-1))
            _write(torch.bmm(kept[-1], v), out_BTAE, block)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.plan = plan
        return out_BTAE

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        grad_BATE = gradients[0].transpose(1, 2)
        to_query = torch.empty_like(query)
        to_key, to_value = (torch.zeros(key.shape, dtype=torch.float32, device=key.device) for _ in range(2))
        for block, probs in zip(ctx.plan, kept, strict=True):
            q, g = _queries(query, block, key.shape[1]), _queries(grad_BATE, block, key.shape[1])
            _keys(to_value, block).add_(torch.bmm(probs.transpose(1, 2), g))
            to_probs = torch.bmm(g, _keys(value, block).transpose(1, 2))
            to_scores = torch.ops.aten._softmax_backward_data(to_probs, probs, -1, probs.dtype)
            _write(torch.bmm(to_scores, _keys(key, block)), to_query.transpose(1, 2), block)
            _keys(to_key, block).add_(torch.bmm(to_scores.transpose(1, 2), q))
        return to_query, to_key.to(key.dtype), to_value.to(value.dtype), None


def _queries(x_BATE: Tensor, block: _Block, key_heads: int) -> Tensor:
    """Queries of a block, [rows * K, A/K * q, E]: those of heads that share a key head below each other."""
    x = x_BATE[block.rows, :, block.start : block.end]
    return x.reshape(len(x) * key_heads, -1, x.shape[-1])


def _keys(x_BKTE: Tensor, block: _Block) -> Tensor:
    """Keys or values that a block sees, [rows * K, k, E]; a view of a contiguous tensor."""
    return x_BKTE[block.rows, :, block.first : block.end].flatten(0, 1)


def _write(found: Tensor, out_BTAE: Tensor, block: _Block) -> None:
    """Puts what was computed in the order of `_queries` in its place in `out_BTAE`."""
    out_RQAE = out_BTAE[block.rows, block.start : block.end]
    rows, queries, heads, width = out_RQAE.shape
    groups = len(found) // rows
    found_RKGQE = found.view(rows, groups, heads // groups, queries, width)
    out_RQAE.unflatten(2, (groups, -1)).copy_(found_RKGQE.permute(0, 3, 1, 2, 4))


def _causal(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> Tensor:
    """Causal attention of one document, [1, A, T, E]; a sliding window counts only where it is shorter than T."""
    length, mask = query.shape[2], None
    if sliding_window is not None and sliding_window < length:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - sliding_window)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _packed_mask(
    *, q_length: int, kv_length: int, q_offset: int | Tensor = 0, attention_mask: Tensor | None = None, **kwargs: Any
) -> Tensor | None:
    """No mask where `packed_sdpa` cuts the row itself; otherwise the mask of plain sdpa."""
    plain = attention_mask is None and q_length == kv_length and not kwargs.get("use_vmap", False)
    if plain and isinstance(q_offset, int) and q_offset == 0:
        return None
    return sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,  # type: ignore[arg-type]
        attention_mask=attention_mask,
        **kwargs,
    )


AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionMaskInterface.register(PACKED_SDPA, _packed_mask)
