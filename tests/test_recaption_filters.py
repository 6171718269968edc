"""What is no caption, which captions are alike, and answers kept in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mm15.corpora.recaption import Filters
from mm15.corpora.recaption.alike import Alike, jaccard, shingles
from mm15.corpora.recaption.answers import Answers
from mm15.corpora.recaption.captioners import Answer
from mm15.corpora.recaption.filters import agreement, repetition, tokens
from mm15.errors import UserError


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("A red car stands before a house.", None),
        ("Un café à côté de l'église, près du pont.", None),
        ("一只猫坐在红色的沙发上看着窗外。", None),
        ("", "says nothing"),
        ("...", "says nothing"),
        ("a car", "fewer than 3 words"),
        ("word " * 301, "more than 300 words"),
        ("I'm sorry, but I can't see the image.", "refusal"),
        ("I\u2019m unable to view pictures.", "refusal"),
        ("Please provide an image to describe.", "refusal"),
        ("a dog and a dog and a dog and a dog and a dog", "repeats"),
        ("the the the the the the", "repeats"),
        ("very very very very very very large cat indeed", "repeats"),
        ("a nice \ufffd\ufffd picture", "damaged"),
        ("a nice \x07 picture", "damaged"),
        ("12 34 56 78 90 -- 12", "mostly letters"),
    ],
)
def test_what_is_no_caption(text: str, why: str | None) -> None:
    reason = Filters().reason(text)
    assert (reason is None) if why is None else why in str(reason)


def test_scripts_and_settings() -> None:
    latin = Filters(scripts=("latin",))
    assert latin.reason("a red car stands here") is None and "not latin" in str(latin.reason("a red машина стоит here"))
    for bad in ({"words": (0, 5)}, {"words": (5, 4)}, {"repeated": 1.5}, {"agree": -0.1}, {"alike": 0.0}):
        with pytest.raises(UserError):
            Filters(**bad)


def test_measures_by_hand() -> None:
    assert tokens("A Cat's 3 猫犬!") == ["a", "cat", "s", "3", "猫", "犬"]
    assert agreement("a red car", "the red car") == pytest.approx(2 * 2 / 6) and agreement("a", "") == 0
    assert agreement("a a b", "a b b") == pytest.approx(2 * 2 / 6)
    assert repetition(list("abcdef")) == 0 and repetition(list("abcabcabc")) == pytest.approx(4 / 7)


def test_near_duplicates_against_brute_force() -> None:
    """The same captions are kept as by comparing all pairs."""
    random = np.random.RandomState(0)
    words = [f"w{i}" for i in range(400)]
    texts = []
    for _ in range(60):
        base = list(random.choice(words, 40))
        for changes in (0, 1, 2, 4, 12):
            other = list(base)
            for at in random.choice(40, changes, replace=False):
                other[at] = random.choice(words)
            texts.append(" ".join(other))
    alike, kept = Alike(0.6), list[frozenset[int]]()
    for text in texts:
        runs = shingles(text)
        first = next((i for i, one in enumerate(kept) if jaccard(one, runs) >= 0.6), None)
        assert (alike.first(text) is None) == (first is None)
        kept += [runs] if first is None else []
    assert 60 < len(kept) < 250
    exact = Alike(1.0)
    assert [exact.first(t) for t in ("A b c d", "a B, c d", "a b c e", "a b", "a b")] == [None, 0, None, None, 2]


def test_answers_survive_odd_texts(tmp_path: Path) -> None:
    known = Answers(tmp_path / "a" / "answers.jsonl")
    for key, text in (("1", 'a "quoted"\nline\u2028'), ("2", "half \ud800 a pair"), ("3", "猫")):
        known.add(Answer(key, text))
    known.close()
    again = Answers(tmp_path / "a" / "answers.jsonl")
    assert again.known == known.known and again.known["1"].text == 'a "quoted"\nline\u2028'
    again.known["2"].text.encode()
