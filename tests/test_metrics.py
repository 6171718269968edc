"""The metrics against numbers worked out by hand, and against formulas written a second time here."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from mm15.evaluate.intervals import paired_difference, wilson
from mm15.evaluate.metrics import (
    MME_COGNITION,
    MME_PERCEPTION,
    Matching,
    MmeReply,
    anls,
    cider,
    exact_match,
    iou,
    mme,
    multiple_choice,
    pope,
    recall_at_iou,
    relaxed_accuracy,
    vqa_accuracy,
    vqa_normalise,
    yes_or_no,
)
from mm15.regions import Box

LENIENT = Matching.LENIENT


# --------------------------------------------------------------------------------------------------------- exact match


def test_exact_match_keeps_case_and_punctuation() -> None:
    assert exact_match(" Paris ", "Paris") == 1
    assert exact_match("paris", "Paris") == 0
    assert exact_match("Paris.", "Paris") == 0
    assert exact_match("Rome", ["Paris", "Rome"]) == 1
    with pytest.raises(ValueError, match="no answer"):
        exact_match("Rome", [])


def test_exact_match_lenient() -> None:
    assert exact_match("  PARIS,  france!", "Paris France", matching=LENIENT) == 1
    assert exact_match("Pari", "Paris", matching=LENIENT) == 0


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ("B", 1, 1),
        ("b", 0, 1),
        ("B.", 0, 1),
        ("(B)", 0, 1),
        ("B) a dog", 0, 1),
        ("The answer is B", 0, 1),
        ("A dog", 0, 1),
        ("C", 0, 0),
        ("A cat", 0, 0),
        ("Because", 0, 0),
        ("The answer is Bob", 0, 0),
        ("", 0, 0),
    ],
)
def test_multiple_choice(reply: str, strict: int, lenient: int) -> None:
    choices = {"A": "a cat", "B": "a dog", "C": "a fish"}
    assert multiple_choice(reply, "B", choices=choices) == strict
    assert multiple_choice(reply, "B", choices=choices, matching=LENIENT) == lenient


# -------------------------------------------------------------------------------------------------- ANLS, relaxed, VQA


def edit_distance(a: str, b: str) -> int:
    """Levenshtein by its recursive definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(edit_distance(a[1:], b) + 1, edit_distance(a, b[1:]) + 1, edit_distance(a[1:], b[1:]) + (a[0] != b[0]))


def test_anls_by_hand() -> None:
    assert anls("Hello  World", "hello world") == 1
    assert anls("helo", "hello") == pytest.approx(1 - 1 / 5)
    assert anls("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert anls("ab", "abcd") == 0.5, "exactly the threshold counts"
    assert anls("a", "abcd") == 0, "below the threshold nothing counts"
    assert anls("helo", ["completely else", "hello"]) == pytest.approx(0.8), "the best answer counts"
    assert anls("", "a") == 0
    assert anls("a", "abcd", threshold=0.2) == 0.25


def test_anls_against_the_definition() -> None:
    rng = random.Random(0)
    for _ in range(200):
        a, b = ("".join(rng.choices("abc", k=rng.randint(0, 5))) for _ in range(2))
        similarity = 1 - edit_distance(a, b) / max(len(a), len(b), 1)
        assert anls(a, b) == pytest.approx(similarity if similarity >= 0.5 else 0)


@pytest.mark.parametrize(
    ("reply", "answer", "score"),
    [
        ("105", "100", 1),
        ("95", "100", 1),
        ("105.1", "100", 0),
        ("94.9", "100", 0),
        ("-104", "-100", 1),
        ("-100", "100", 0),
        ("0.125", "12%", 1),
        ("12", "12%", 0),
        ("0", "0", 1),
        ("0.01", "0", 0),
        ("Blue", "blue", 1),
        ("dark blue", "blue", 0),
        ("nan", "nan", 1),
        ("inf", "100", 0),
        ("2019", "year 2019", 0),
    ],
)
def test_relaxed_accuracy(reply: str, answer: str, score: int) -> None:
    assert relaxed_accuracy(reply, answer) == score


@pytest.mark.parametrize("agreeing", range(11))
def test_vqa_accuracy_counts_people(agreeing: int) -> None:
    """Of ten people k say so: k of them see k-1 others, the rest see k (arXiv 1505.00468)."""
    answers = ["blue"] * agreeing + [f"other {i}" for i in range(10 - agreeing)]
    expected = (agreeing * min(max(agreeing - 1, 0) / 3, 1) + (10 - agreeing) * min(agreeing / 3, 1)) / 10
    assert vqa_accuracy("Blue", answers) == pytest.approx(expected)
    assert expected == pytest.approx({0: 0, 1: 0.3, 2: 0.6, 3: 0.9}.get(agreeing, 1.0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat", "cat"),
        ("two", "2"),
        ("None", "0"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("oclock", "o'clock"),
        ("red, white", "red white"),
        ("red/white", "red white"),
        ("10,000", "10000"),
        ("a.m.", "am"),
        ("3.5", "3.5"),
        ("yes!", "yes"),
        ("well-known", "well known"),
        ("  \tan apple\n", "apple"),
    ],
)
def test_vqa_normalise(text: str, expected: str) -> None:
    assert vqa_normalise(text) == expected


def test_vqa_accuracy_needs_several_people() -> None:
    with pytest.raises(ValueError, match="got 1"):
        vqa_accuracy("a", ["a"])


# ----------------------------------------------------------------------------------------------------------- grounding


def test_iou_by_hand() -> None:
    assert iou(Box(0, 0, 2, 2), Box(1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou(Box(0, 0, 2, 2), Box(0, 0, 2, 1)) == 0.5
    assert iou(Box(0, 0, 2, 2), Box(2, 0, 4, 2)) == 0
    assert iou(Box(0, 0, 2, 2), Box(5, 5, 6, 6)) == 0
    assert iou(Box(1, 1, 1, 1), Box(1, 1, 1, 1)) == 0


def test_iou_against_counted_pixels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        masks, boxes = [], []
        for _ in range(2):
            (x1, x2), (y1, y2) = (np.sort(rng.choice(20, 2, replace=False)) for _ in range(2))
            mask = np.zeros((20, 20), bool)
            mask[y1:y2, x1:x2] = True
            masks.append(mask)
            boxes.append(Box(float(x1), float(y1), float(x2), float(y2)))
        counted = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
        assert iou(*boxes) == pytest.approx(counted)


def test_recall_at_iou() -> None:
    true = [Box(0, 0, 2, 2)] * 4
    predicted = [Box(0, 0, 2, 2), Box(0, 0, 2, 1), Box(0, 0, 2, 0.9), None]
    assert recall_at_iou(predicted, true) == 0.5, "an IoU of exactly one half is a hit, an unreadable reply a miss"
    assert recall_at_iou(predicted, true, threshold=0.9) == 0.25
    with pytest.raises(ValueError, match="3 and 4"):
        recall_at_iou(predicted[:3], true)


# ----------------------------------------------------------------------------------------------------------- yes and no


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("Y", "yes"),
        ("n", "no"),
        ("Yes, it is", "yes"),
        ("I think yes", "other"),
        ("", "other"),
    ],
)
def test_yes_or_no(reply: str, said: str) -> None:
    assert yes_or_no(reply) == said


def test_pope_by_hand() -> None:
    """4 yes-questions: 2 right, 1 no, 1 unreadable. 4 no-questions: 3 right, 1 yes."""
    replies = ["yes", "Yes.", "no", "a dog", "no", "no", "no", "yes"]
    got = pope(replies, ["yes"] * 4 + ["no"] * 4)
    assert got.accuracy == 5 / 8
    assert got.precision == pytest.approx(2 / 3)
    assert got.recall == 2 / 4
    assert got.f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 2)), "2TP / (2TP + FP + FN)"
    assert got.yes_ratio == 3 / 8
    assert pope(["no"], ["yes"]).f1 == 0
    with pytest.raises(ValueError, match="'maybe'"):
        pope(["yes"], ["maybe"])


def test_mme_by_hand() -> None:
    """Pictures with both, one and none right: accuracy 3/6, accuracy+ 1/3."""
    replies = [
        MmeReply("color", picture, reply, answer)
        for picture, said in (("a", "yes no"), ("b", "yes yes"), ("c", "no maybe"))
        for reply, answer in zip(said.split(), ("Yes", "No"), strict=True)
    ]
    got = mme(replies)
    assert got.tasks == {"color": pytest.approx(50 + 100 / 3)}
    assert got.perception == pytest.approx(50 + 100 / 3)
    assert got.cognition == 0


def test_mme_perfect_score_is_100() -> None:
    tasks = MME_PERCEPTION + MME_COGNITION
    got = mme([MmeReply(task, "p", word, word) for task in tasks for word in ("yes", "no")])
    assert (got.perception, got.cognition, got.normalised) == (2000, 800, 100)


def test_mme_refuses_what_it_cannot_score() -> None:
    with pytest.raises(ValueError, match="'a' of task 'color' has 1"):
        mme([MmeReply("color", "a", "yes", "yes")])
    with pytest.raises(ValueError, match="no task 'colour'"):
        mme([MmeReply("colour", "a", "yes", "yes")])


# ------------------------------------------------------------------------------------------------------------- captions


def reference_cider(replies: list[str], references: list[list[str]], sigma: float | None) -> float:
    """CIDEr(-D) with dense vectors over the whole vocabulary, after the equations of arXiv 1411.5726."""

    def grams(text: str, n: int) -> Counter:
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    total = np.zeros(len(replies))
    for n in range(1, 5):
        texts = replies + [ref for refs in references for ref in refs]
        vocabulary = sorted({gram for text in texts for gram in grams(text, n)})
        if not vocabulary:
            continue
        documents = np.array([[any(gram in grams(r, n) for r in refs) for gram in vocabulary] for refs in references])
        idf = np.log(len(replies)) - np.log(np.maximum(documents.sum(0), 1))
        for i, reply in enumerate(replies):
            h = np.array([grams(reply, n)[gram] for gram in vocabulary]) * idf
            for ref in references[i]:
                r = np.array([grams(ref, n)[gram] for gram in vocabulary]) * idf
                norm = np.linalg.norm(h) * np.linalg.norm(r)
                cosine = ((np.minimum(h, r) if sigma else h) @ r) / norm if norm else 0.0
                if sigma:
                    shorter = max(len(reply.split()) - 1, 0) - max(len(ref.split()) - 1, 0)
                    cosine *= math.exp(-(shorter**2) / (2 * sigma**2))
                total[i] += cosine / len(references[i]) / 4
    return 10 * total.mean()


@pytest.mark.parametrize("sigma", [6.0, None])
def test_cider_against_dense_vectors(sigma: float | None) -> None:
    rng = random.Random(1)
    words = ["a", "red", "blue", "cat", "dog", "sits", "on", "the", "mat"]
    for _ in range(20):
        replies = [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(6)]
        references = [
            [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(rng.randint(1, 3))] for _ in replies
        ]
        assert cider(replies, references, sigma=sigma) == pytest.approx(reference_cider(replies, references, sigma))


def test_cider_by_hand() -> None:
    captions = ["one red cat sleeps here", "two big dogs run away"]
    assert cider(captions, [[c] for c in captions]) == pytest.approx(10), "equal captions of distinct words score 10"
    assert cider(captions[::-1], [[c] for c in captions]) == 0
    assert cider(["One red, cat!", "b"], [["one red cat"], ["c"]]) == pytest.approx(10 * 0.75 / 2), (
        "no 4-grams: 3 of 4 n"
    )
    assert cider(["x"], [["x"]]) == 0, "a single picture has no idf"
    with pytest.raises(ValueError, match="caption 1 has no reference"):
        cider(["a", "b"], [["a"], []])


def test_cider_d_punishes_repeats_and_length() -> None:
    references = [["a cat on a mat"], ["the dog ran off"]]
    fair = cider(["a cat on a mat", "dog"], references)
    assert cider(["cat cat cat cat cat", "dog"], references) < cider(["cat", "dog"], references) < fair


# ------------------------------------------------------------------------------------------------------------ intervals


def test_wilson_solves_its_equation() -> None:
    """Both ends are where |p - end| = z * sqrt(end * (1 - end) / n)."""
    for successes, n in ((7, 10), (1, 30), (199, 200), (50.5, 100)):
        interval = wilson(successes, n)
        for end in (interval.low, interval.high):
            assert abs(successes / n - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-5)


def test_wilson_known_numbers() -> None:
    assert (wilson(0, 10).low, wilson(10, 10).high) == (0, pytest.approx(1))
    assert wilson(0, 10).high == pytest.approx(0.2775, abs=1e-4)
    assert (wilson(8, 10).low, wilson(8, 10).high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0, 1)
    with pytest.raises(ValueError, match="11 successes of 10"):
        wilson(11, 10)


def test_paired_difference_is_the_normal_interval() -> None:
    rng = np.random.default_rng(3)
    a, b = np.sort(rng.random(400) < 0.7), rng.random(400) < 0.4
    differences = a.astype(float) - b
    half = 1.96 * differences.std() / math.sqrt(400)
    got = paired_difference(a.tolist(), b.tolist())
    assert got.mean == pytest.approx(differences.mean())
    assert got.low == pytest.approx(differences.mean() - half, abs=0.01)
    assert got.high == pytest.approx(differences.mean() + half, abs=0.01)
    assert got == paired_difference(a.tolist(), b.tolist()), "seeded"
    with pytest.raises(ValueError, match="2 and 1"):
        paired_difference([1, 1], [1])
