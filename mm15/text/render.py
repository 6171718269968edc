"""From segments to tokens: ids, labels and where each tile's placeholders stand.

Text between special tokens is tokenised in one piece (the tokenizer splits at special tokens anyway), with special
tokens switched off inside it: a user's text that spells ``<image>`` or ``<|im_end|>`` stays text. Each tile owns a
run of `tokens_per_tile` placeholders. Labels are already shifted inside the example, so packing can never create a
target that crosses two documents. Cost: one tokenizer call per chunk, about 20 microseconds each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from .chat import SPECIAL_TOKENS, Segment

IGNORE = -100
"""Label of a position that is not trained on."""


@dataclass(frozen=True, order=True)
class Ref:
    """Where an example comes from: its source, its index in it, and the epoch of that source."""

    source: str
    index: int
    epoch: int = 0


@dataclass(frozen=True, eq=False)
class Encoded:
    """One example as the model takes it.

    input_ids int64 [T]; labels int64 [T], shifted left by one, IGNORE where not trained on; tiles uint8 [N, 3, H, W];
    spans int64 [N], the first placeholder of each tile in `input_ids`; sizes, the pictures' (width, height) in pixels;
    overviews bool [N], which tiles are overviews (None: none is).
    """

    input_ids: np.ndarray
    labels: np.ndarray
    tiles: np.ndarray
    spans: np.ndarray
    sizes: tuple[tuple[int, int], ...] = ()
    ref: Ref | None = None
    overviews: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class PieceText:
    """The text of an indicator before and after one tile's placeholders; usually empty."""

    before: str = ""
    after: str = ""


class Renderer:
    """Tokens from segments, for one tokenizer. `image_token_id` is the placeholder's id."""

    def __init__(self, tokenizer: Tokenizer, *, image_token_id: int, tokens_per_tile: int) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._special: dict[str, Any] = {token: self._tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
        self.image_token_id = image_token_id
        self.tokens_per_tile = tokens_per_tile

    def render(
        self, segments: Sequence[Segment], pieces: Sequence[Sequence[PieceText]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(input_ids [T], labels [T], spans [N]); `pieces[i]` are the indicator texts of picture i's tiles in order."""
        ids: list[int] = []
        targets: list[bool] = []
        spans: list[int] = []
        chunk: list[tuple[str, bool]] = []

        def flush() -> None:
            new_ids, new_targets = self._tokens(chunk)
            ids.extend(new_ids)
            targets.extend(new_targets)
            chunk.clear()

        for segment in segments:
            if segment.image is not None:
                for piece in pieces[segment.image]:
                    chunk.append((piece.before, False))
                    flush()
                    spans.append(len(ids))
                    ids.extend([self.image_token_id] * self.tokens_per_tile)
                    targets.extend([False] * self.tokens_per_tile)
                    chunk.append((piece.after, False))
            elif segment.special:
                flush()
                ids.append(self._special[segment.text])
                targets.append(segment.target)
            else:
                chunk.append((segment.text, segment.target))
        flush()
        input_ids = np.array(ids, dtype=np.int64)
        labels = np.full(len(ids), IGNORE, dtype=np.int64)
        if len(ids) > 1:
            labels[:-1] = np.where(np.array(targets[1:]), input_ids[1:], IGNORE)
        return input_ids, labels, np.array(spans, dtype=np.int64)

    def _tokens(self, chunk: list[tuple[str, bool]]) -> tuple[list[int], list[bool]]:
        """Ids of a chunk's joined text; a token is a target when its last character lies in a target piece."""
        text = "".join(piece for piece, _ in chunk)
        if not text:
            return [], []
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if not any(target for _, target in chunk):
            return encoding.ids, [False] * len(encoding.ids)
        of_character = np.repeat([target for _, target in chunk], [len(piece) for piece, _ in chunk])
        return encoding.ids, [bool(of_character[max(end - 1, 0)]) for _, end in encoding.offsets]
