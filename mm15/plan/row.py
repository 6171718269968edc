"""What a row holds, which is what a step costs: documents, tiles and targets; and what a stage's are expected to hold.

Nothing is read from the data, so two rows stand for all: the `fullest` decides what must fit into memory (or, where
logits are most of it, the one that is `text_only`), the `typical` decides time. It is assumed, and `mm15 plan` says so:

    tokens     FILL of the budget
    tiles      FILL of their budget, or less where each has TEXT tokens of text beside its own (bench/packing.py with
               the paper's SFT shares: 187 tokens for each tile, of which 144 are the tile's)
    documents  of DOCUMENT tokens (shorter ones cost less attention)
    targets    TARGETS of the text (answers and captions; prompts and visual tokens are never trained on)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from ..errors import UserError
from ..recipe import Batch

FILL = 0.95
TEXT = 43
DOCUMENT = 1024
TARGETS = 0.5


@dataclass(frozen=True)
class Row:
    """One packed row: tokens of each document, tiles, and tokens that are trained on."""

    documents: tuple[int, ...]
    tiles: int
    targets: int

    @property
    def tokens(self) -> int:
        """Tokens of all documents."""
        return sum(self.documents)


def fullest(batch: Batch, tokens_per_tile: int) -> Row:
    """Both budgets full, one document, every token trained on that can be: no row takes more memory than this."""
    tiles = _tiles(batch, tokens_per_tile)
    return Row((batch.tokens,), tiles, batch.tokens - tiles * tokens_per_tile)


def text_only(batch: Batch) -> Row:
    """A row of text, all of it trained on: the most logits a row can have."""
    return Row((batch.tokens,), 0, batch.tokens)


def typical(batch: Batch, tokens_per_tile: int) -> Row:
    """What a row is assumed to hold on average; see the top of this file."""
    tokens = max(round(batch.tokens * FILL), 1)
    tiles = min(round(max(batch.tiles, 0) * FILL), tokens // (tokens_per_tile + TEXT))
    whole, rest = divmod(tokens, DOCUMENT)
    documents = (DOCUMENT,) * whole + ((rest,) if rest else ())
    return Row(documents, tiles, round((tokens - tiles * tokens_per_tile) * TARGETS))


def _tiles(batch: Batch, tokens_per_tile: int) -> int:
    if batch.tokens < 1:
        raise UserError(f"batch.tokens is {batch.tokens}; a row holds at least one token")
    return min(max(batch.tiles, 0), batch.tokens // tokens_per_tile)


def causal_pairs(documents: tuple[int, ...]) -> int:
    """Pairs of a token and one it sees, itself included: what attention inside documents has to multiply."""
    return sum(n * (n + 1) // 2 for n in documents)


def whole_pairs(documents: tuple[int, ...]) -> int:
    """Pairs of tokens of the same document: what PyTorch's counter books for causal attention too."""
    return sum(n * n for n in documents)


@lru_cache(maxsize=256)
def block_pairs(documents: tuple[int, ...], block: int) -> int:
    """Pairs that attention by blocks of queries computes, each block with all keys from its first document's start."""
    ends = list(accumulate(documents))
    total, which, length = 0, 0, ends[-1] if ends else 0
    for start in range(0, length, block):
        while ends[which] <= start:
            which += 1
        end = min(start + block, length)
        total += (end - start) * (end - (ends[which] - documents[which]))
    return total
