"""Drafts of what comes next, looked up in the text itself: what followed its last two tokens the time before.

    ... <box> 12 40 </box> ; <box> 12 | 40 </box> ;          drafted after the bar, with the length that proved right

Prompt lookup decoding (Saxena 2023; transformers' `prompt_lookup_num_tokens`). A decoder on a CPU waits for its
weights, not for its products: reading five tokens at once takes one and a half times as long as reading one, so that
one right token in a draft of four nearly pays for it. The decoder checks every drafted token: a draft changes how long
a text takes, never the text. Tables, lists, boxes and quotes gain most.
"""

from __future__ import annotations

from collections.abc import Iterable

FEWEST = 2


class Lookup:
    """Drafts for one text. Their length doubles after one that was all right, up to `most`, and halves otherwise."""

    def __init__(self, ids: Iterable[int], *, most: int) -> None:
        self.most = most
        self._length = min(FEWEST, most)
        self._ids: list[int] = []
        self._after: dict[tuple[int, int], int] = {}
        """Where the text went on after the newest occurrence of each pair of tokens."""
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        """The text goes on with these tokens."""
        for token in ids:
            if len(self._ids) > 1:
                self._after[self._ids[-2], self._ids[-1]] = len(self._ids)
            self._ids.append(token)

    def draft(self, most: int) -> list[int]:
        """Up to `most` tokens that may come next; none where the last two are new. A text that repeats itself is
        continued round and round."""
        start = self._after.get((self._ids[-2], self._ids[-1])) if len(self._ids) > 1 else None
        if start is None:
            return []
        drafted: list[int] = []
        period = len(self._ids) - start
        for i in range(min(most, self._length)):
            drafted.append(self._ids[start + i] if i < period else drafted[i - period])
        return drafted

    def learn(self, drafted: int, right: int) -> None:
        """How many of a draft's tokens were right decides the length of the next."""
        if drafted:
            length = self._length * 2 if right == drafted else self._length // 2
            self._length = max(min(length, self.most), min(FEWEST, self.most))
