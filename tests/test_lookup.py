"""Drafts against a search through the whole text, and how their length is learnt."""

from __future__ import annotations

import random

import pytest

from mm15.generate.lookup import Lookup


def searched(ids: list[int], most: int) -> list[int]:
    """By brute force: what followed the newest earlier occurrence of the last two tokens, round and round."""
    for start in range(len(ids) - 1, 1, -1):
        if ids[start - 2 : start] == ids[-2:]:
            text = list(ids)
            for i in range(most):
                text.append(text[start + i])
            return text[len(ids) :]
    return []


@pytest.mark.parametrize("words", [2, 3, 6])
def test_a_draft_is_what_followed_the_last_two_tokens_before(words: int) -> None:
    chance, found = random.Random(words), 0
    for _ in range(300):
        ids = [chance.randrange(words) for _ in range(chance.randrange(0, 30))]
        lookup = Lookup(ids[:5], most=8)
        for _ in range(2):
            lookup.learn(1, 1)  # up to 8 at once
        lookup.extend(ids[5:])
        most = chance.randrange(9)
        assert lookup.draft(most) == searched(ids, most), ids
        found += bool(lookup.draft(8))
    assert found > 50


def test_the_length_doubles_after_a_right_draft_and_halves_after_a_wrong_one() -> None:
    lookup, lengths = Lookup([1, 2, 3, 1, 2], most=12), []
    for right in (True, True, True, True, False, False, False, False, True):
        drafted = lookup.draft(100)
        lengths.append(len(drafted))
        lookup.learn(len(drafted), len(drafted) if right else len(drafted) - 1)
    assert lengths == [2, 4, 8, 12, 12, 6, 3, 2, 2]
    lookup.learn(0, 0)  # nothing was drafted, nothing is learnt
    assert len(lookup.draft(100)) == 4


def test_no_draft_where_none_may_be_made_or_nothing_came_before() -> None:
    assert Lookup([1, 2, 1, 2], most=0).draft(8) == []
    assert Lookup([1, 2, 1, 2], most=8).draft(0) == []
    assert Lookup([1, 2, 3, 4], most=8).draft(8) == Lookup([1], most=8).draft(8) == Lookup([], most=8).draft(8) == []
