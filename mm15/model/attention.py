"""`packed_sdpa`: causal attention over a row of packed documents, one document at a time.

transformers isolates packed documents (positions that restart) by a dense [T, T] mask, which costs memory and the fast
kernels. This attention, registered with transformers under the name `packed_sdpa`, cuts the row at document starts and
runs PyTorch's causal attention on each piece without any mask. For a row of n documents of T/n tokens that is n times
less work: at T=1024, ten documents, 4 layers of width 128 on a CPU, forward and backward take 102 ms instead of 206.
It equals `sdpa` in every other case too (padding masks, cache, one document), to which it hands over. Encoders may use
it as well (no causality, no packing).

On CPUs PyTorch's fused bf16 kernel is several times slower than other ways for short sequences. There documents up to
`SHORT` tokens are computed by the fused fp32 kernel (20 documents in 1024 tokens, 4 heads of 32, forward and backward:
3.0 ms against 13.6) and encoders by two matrix products around a softmax (22 tiles of 64 patches, 4 heads of 24: 1.7 ms
against 11.8).

`document_starts` reads the packing off the position ids; the model computes it once a forward and passes it down as
`documents`. Legend: B rows, T tokens, A query heads, K key heads, E head width.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_SDPA = "packed_sdpa"
SHORT = 1024
"""Longest sequence for which the fused bf16 kernel is passed over on a CPU."""


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
    if not getattr(module, "is_causal", True):  # an encoder: every token sees every other
        if not _slow_bf16(value):
            return sdpa_attention_forward(module, query, key, value, None, **kwargs)
        return _products(query, key, value, kwargs.get("scaling")).transpose(1, 2).contiguous(), None
    if documents is None:
        positions = kwargs.get("position_ids")
        documents = [[query.shape[2]]] if positions is None else document_lengths(positions)
    if len(documents) != len(query):
        documents = [documents[0]] * len(query)
    rows = []
    for b, lengths in enumerate(documents):
        pieces = zip(*(x[b : b + 1].split(lengths, dim=2) for x in (query, key, value)), strict=True)
        rows.append(torch.cat([_causal(*piece, **kwargs) for piece in pieces], dim=2))
    return torch.cat(rows).transpose(1, 2).contiguous(), None


def _slow_bf16(value: Tensor) -> bool:
    """Whether the fused kernel is to be passed over: a short sequence in bf16 on a CPU.

    The value tells: under autocast the rotary embedding leaves query and key in fp32.
    """
    return value.device.type == "cpu" and value.dtype == torch.bfloat16 and value.shape[2] <= SHORT


def _products(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Attention of every token to every token as two matrix products around a softmax: [B, A, T, E]."""
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


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
    length, mask, dtype = query.shape[2], None, value.dtype
    if sliding_window is not None and sliding_window < length:
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - sliding_window)
    if _slow_bf16(value):
        query, key, value = query.float(), key.float(), value.float()
    attended = F.scaled_dot_product_attention(
        query,
        key,
        value,
        mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return attended.to(dtype)


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
