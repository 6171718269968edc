"""The mixture: exact at every prefix, a pure function of the draw number, and every epoch a permutation."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from mm15.data.mixture import Mixture, Permutation
from mm15.data.schedule import SMALLEST_SHARE, Schedule
from mm15.data.shares import exact, nested_shares
from mm15.errors import UserError
from mm15.recipe import Category, Group
from mm15.text.render import Ref

ALPHAS = {"general": 1, "text-rich": 3.29, "refer-ground": 2, "math": 0.5, "code": 0.2, "science": 0.1}


def paper() -> dict[str, Group]:
    """The paper's SFT mixture: groups 0.8 / 0.1 / 0.1, the alphas of section 3.2, three sources in each category."""
    single = {
        name: Category(alpha=alpha, sources={f"{name}-{i}": weight for i, weight in enumerate((0.5, 0.3, 0.2))})
        for name, alpha in ALPHAS.items()
    }
    multi = {"multi": Category(sources={f"multi-{i}": 1 for i in range(4)})}
    text = {"text": Category(sources={"text-0": 0.7, "text-1": 0.3})}
    weights = {"single": (0.8, single), "multi": (0.1, multi), "text": (0.1, text)}
    return {name: Group(weight=weight, categories=categories) for name, (weight, categories) in weights.items()}


def paper_mixture(seed: int = 0) -> Mixture:
    names = [s for g in paper().values() for c in g.categories.values() for s in c.sources]
    return Mixture(paper(), {name: 1000 + 37 * i for i, name in enumerate(names)}, seed=seed)


def flat(weights: dict[str, float], *, length: int = 10) -> Mixture:
    return Mixture({"all": Group(categories={"all": Category(sources=weights)})}, dict.fromkeys(weights, length))


# ---------------------------------------------------------------------------------------------------------- exactness


def test_shares_of_the_paper() -> None:
    """Against the arithmetic of the paper by hand: 80 % over an alpha sum of 7.09, then 5 : 3 : 2."""
    shares = paper_mixture().fractions
    assert shares["text-rich-0"] == Fraction(8, 10) * Fraction(329, 709) / 2
    assert shares["science-2"] == Fraction(8, 10) * Fraction(10, 709) / 5
    assert shares["multi-3"] == Fraction(1, 40) and shares["text-1"] == Fraction(3, 100)
    assert sum(shares.values()) == 1


def test_every_prefix_of_the_papers_mixture_is_exact() -> None:
    """For every n up to 10,000 and every source: drawn floor(n p) or ceil(n p) times, less than one draw from n p."""
    mixture, drawn, worst = paper_mixture(), Counter[str](), Fraction(0)
    shares = mixture.fractions
    for n in range(10_001):
        for name, share in shares.items():
            deviation = abs(drawn[name] - n * share)
            assert deviation < 1, f"{name} has {drawn[name]} of the first {n} draws, its target is {float(n * share)}"
            worst = max(worst, deviation)
        drawn[mixture.draw(n).source] += 1
    assert worst > 0.5  # the check above looked at something


def test_weights_are_read_as_written() -> None:
    assert exact(0.1) == Fraction(1, 10) and exact(3.29) == Fraction(329, 100) and exact(1e-05) == Fraction(1, 100_000)
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(UserError, match=r"weight of a\.b"):
            exact(wrong, "a.b")


def _schedule_errors(weights: list[int], *, spans: tuple[int, ...]) -> tuple[float, Schedule]:
    """The largest |count - n p| within whole spans of a schedule, in exact integers; also checks that spans join."""
    schedule = Schedule([Fraction(weight, sum(weights)) for weight in weights])
    worst = 0
    numerators = np.array(schedule.numerators, dtype=np.int64)
    for number in spans:
        start = number * schedule.span
        before = schedule.counts(start)
        turns = [schedule[start + k] for k in range(schedule.span)]
        one = np.zeros((schedule.span + 1, len(weights)), dtype=np.int64)
        one[np.arange(1, schedule.span + 1), [turn.source for turn in turns]] = 1
        inside = one.cumsum(0)
        assert [before[t.source] + inside[k, t.source] for k, t in enumerate(turns)] == [t.occurrence for t in turns]
        assert [a + b for a, b in zip(before, inside[-1], strict=True)] == schedule.counts(start + schedule.span)
        offset = np.array([c * schedule.common - start * p for c, p in zip(before, schedule.numerators, strict=True)])
        errors = offset + inside * schedule.common - np.arange(schedule.span + 1)[:, None] * numerators
        worst = max(worst, int(np.abs(errors).max()))
    return worst / schedule.common, schedule


def _random_weights(rng: random.Random) -> list[int]:
    count = rng.choice([1, 2, 2, 3, 4, 5, 7, 12, 25, 50, 200])
    kinds = (
        lambda: rng.randint(1, 20),
        lambda: rng.randint(1, 1000),
        lambda: 2 ** rng.randint(0, 9),
        lambda: 100_000 + rng.randint(0, 300),
        lambda: rng.choice([1, 1, 1, 50, 51, 997]),
        lambda: int(1000 * rng.lognormvariate(0, 1.5)) + 1,
    )
    kind = rng.choice(kinds)
    return [kind() for _ in range(count)]


def test_random_mixtures_are_exact_everywhere() -> None:
    """150 vectors of 1 to 200 weights, equal, skewed and nearly equal; at the beginning and far into the stream."""
    rng, checked = random.Random(2), 0
    while checked < 150:
        weights = _random_weights(rng)
        if sum(weights) > 3000 * min(weights):
            continue
        far = rng.randrange(10**6)
        worst, _ = _schedule_errors(weights, spans=(0, far, far + 1))
        assert worst < 1, weights
        checked += 1


def test_extreme_shares_are_exact() -> None:
    """One source in a hundred thousand draws beside a big one; and shares whose common denominator has 60 digits."""
    worst, schedule = _schedule_errors([1, 99_999], spans=(0, 10_000))
    assert worst < 1 and schedule.span == 100_000
    none_in_a_span = [633, 27, 574, 83, 3, 350, 719, 537, 702, 734, 925, 799]  # the fifth, in span 967,615
    assert _schedule_errors(none_in_a_span, spans=(967_614, 967_615, 967_616))[0] < 1
    primes = [10**9 + 7, 10**9 + 9, 998_244_353, 10**9 + 21, 10**9 + 33, 10**9 + 87]
    shares = [Fraction(1, 7) + Fraction(1, prime) for prime in primes]
    shares.append(1 - sum(shares))
    schedule = Schedule(shares)
    assert schedule.common > 10**50
    drawn = schedule.counts(10**9 + 1)
    for n in range(10**9 + 1, 10**9 + 3000):
        assert all(abs(count - n * share) < 1 for count, share in zip(drawn, shares, strict=True))
        drawn[schedule[n].source] += 1


# ---------------------------------------------------------------------------------------------------------- a function


def test_draws_do_not_depend_on_what_was_drawn_before() -> None:
    """In order, in any order, and from a fresh mixture each: the same."""
    mixture = paper_mixture()
    order = [mixture.draw(k) for k in range(5000)]
    places = random.Random(0).sample(range(5000), 300)
    jumping = paper_mixture()
    assert [jumping.draw(k) for k in places] == [order[k] for k in places]
    assert all(paper_mixture().draw(k) == order[k] for k in places[:20])
    counts = Counter(ref.source for ref in order[:4321])
    assert mixture.counts(4321) == {name: counts[name] for name in mixture.shares}


def test_the_thousand_millionth_draw_is_near() -> None:
    """Draw 10^9 of a new mixture agrees with one that walks there, and comes without walking from 0."""
    began = time.perf_counter()
    mixture = paper_mixture()
    far = mixture.draw(10**9)
    seconds = time.perf_counter() - began
    walking = paper_mixture()
    assert [walking.draw(k) for k in range(10**9 - 3000, 10**9 + 1)][-1] == far
    for name, share in mixture.fractions.items():
        assert abs(mixture.counts(10**9)[name] - 10**9 * share) < 1
    assert seconds < 5, seconds


def test_occurrences_follow_each_other() -> None:
    """The draws of a source walk through its permutation without a gap, over the ends of epochs and spans."""
    mixture = flat({"a": 2, "b": 1}, length=50)
    refs = [mixture.draw(k) for k in range(4000)]
    for name in "ab":
        own = [ref for ref in refs if ref.source == name]
        wanted = [Permutation(50, 0, name, j // 50)[j % 50] for j in range(len(own))]
        assert [ref.index for ref in own] == wanted
        assert [ref.epoch for ref in own] == [j // 50 for j in range(len(own))]


def test_iteration_order_is_pinned() -> None:
    """ITERATION ORDER: a change here changes the data of every run that is resumed. It needs a note in CHANGELOG.md."""
    mixture = paper_mixture()
    found = [f"{ref.source}[{ref.index}]" for ref in map(mixture.draw, range(50))]
    assert found == PINNED


def test_the_order_of_lines_and_unused_sources_do_not_matter() -> None:
    one, other = flat({"a": 1, "b": 2, "c": 0}), flat({"b": 2, "a": 1})
    assert [one.draw(k) for k in range(100)] == [other.draw(k) for k in range(100)]
    assert one.fingerprint == other.fingerprint
    assert "c" not in one.shares


def test_weights_do_not_change_a_sources_own_order() -> None:
    one, other = flat({"a": 1, "b": 2}), flat({"a": 7, "b": 1})
    own = [[ref for ref in map(m.draw, range(300)) if ref.source == "a"][:60] for m in (one, other)]
    assert own[0] == own[1]


def test_seed_and_source_change_the_order_inside_sources() -> None:
    def order(seed: int, source: str) -> list[int]:
        mixture = Mixture(paper(), dict.fromkeys(paper_mixture().shares, 500), seed=seed)
        return [ref.index for ref in map(mixture.draw, range(3000)) if ref.source == source][:100]

    orders = [order(0, "general-0"), order(1, "general-0"), order(0, "multi-0")]
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert orders[a] != orders[b]
        assert abs(np.corrcoef(orders[a][:70], orders[b][:70])[0, 1]) < 0.4
    assert paper_mixture(0).fingerprint != paper_mixture(1).fingerprint


def test_example_rng_is_a_function_of_seed_source_index_epoch() -> None:
    mixture = paper_mixture()
    first = mixture.rng(Ref("a", 1, 0)).integers(2**60)
    assert paper_mixture().rng(Ref("a", 1, 0)).integers(2**60) == first
    others = [mixture.rng(ref).integers(2**60) for ref in (Ref("a", 1, 1), Ref("a", 2, 0), Ref("b", 1, 0))]
    others.append(paper_mixture(1).rng(Ref("a", 1, 0)).integers(2**60))
    assert len({int(x) for x in [first, *others]}) == 5


# -------------------------------------------------------------------------------------------------------- permutations


def test_every_epoch_is_a_permutation() -> None:
    """All sizes from 1 to 300, two epochs each; and a million by a sample of it."""
    for size in range(1, 301):
        for epoch in range(2):
            order = Permutation(size, 0, "source", epoch)
            assert sorted(order[i] for i in range(size)) == list(range(size)), size
    order = Permutation(1_000_000, 0, "source", 0)
    found = {order[i] for i in range(0, 1_000_000, 97)}
    assert len(found) == len(range(0, 1_000_000, 97)) and min(found) >= 0 and max(found) < 1_000_000
    for outside in (-1, 300):
        with pytest.raises(IndexError):
            Permutation(300, 0)[outside]


def test_epochs_differ_and_look_random() -> None:
    """Fixed points, order of neighbours and correlation of 200 epochs of 400, as in random permutations."""
    epochs = np.array([[Permutation(400, 0, "source", epoch)[i] for i in range(400)] for epoch in range(200)])
    assert len({tuple(row) for row in epochs.tolist()}) == 200
    fixed = (epochs == np.arange(400)).sum(1)
    assert 0.7 < fixed.mean() < 1.3
    neighbours = [np.corrcoef(row[:-1], row[1:])[0, 1] for row in epochs]
    along = [np.corrcoef(np.arange(400), row)[0, 1] for row in epochs]
    between = [np.corrcoef(a, b)[0, 1] for a, b in pairwise(epochs)]
    for correlations in (neighbours, along, between):
        assert abs(np.mean(correlations)) < 0.02 and 0.035 < np.std(correlations) < 0.065  # 1 / sqrt(400) = 0.05


def test_small_epochs_take_every_order() -> None:
    """All 24 orders of four come up, none far more often than others."""
    seen = Counter(tuple(Permutation(4, 0, "source", epoch)[i] for i in range(4)) for epoch in range(4800))
    assert len(seen) == 24 and min(seen.values()) > 80 and max(seen.values()) < 400


# --------------------------------------------------------------------------------------------------------------- limits


def test_what_cannot_be_mixed_is_said() -> None:
    with pytest.raises(UserError, match="source 'b' of the mixture has no samples"):
        Mixture({"all": Group(categories={"all": Category(sources={"a": 1, "b": 1})})}, {"a": 3, "b": 0})
    with pytest.raises(UserError, match="source 'b' of the mixture has no samples"):
        Mixture({"all": Group(categories={"all": Category(sources={"a": 1, "b": 1})})}, {"a": 3})
    with pytest.raises(UserError, match="weights of the mixture sum to zero"):
        Mixture({"all": Group(weight=0, categories={"all": Category(sources={"a": 1})})}, {"a": 3})
    with pytest.raises(UserError, match="weights of group 'all' sum to zero"):
        Mixture({"all": Group(categories={"all": Category(alpha=0, sources={"a": 1})})}, {"a": 3})
    with pytest.raises(UserError, match="the least is one in 1,000,000"):
        flat({"a": 1, "b": 1e-7})
    assert flat({"a": 999_999, "b": 1}).fractions["b"] == SMALLEST_SHARE
    with pytest.raises(ValueError, match="counted from 0"):
        flat({"a": 1}).draw(-1)


def test_categories_without_weight_leave_their_share_to_the_others() -> None:
    group = Group(categories={"a": Category(sources={"x": 1}), "b": Category(alpha=3, sources={"y": 0})})
    assert nested_shares({"g": group}) == {"g": {"a": {"x": Fraction(1)}}}


def test_a_source_in_two_places_adds_up() -> None:
    groups = {
        "single": Group(weight=0.8, categories={"a": Category(sources={"x": 1, "y": 1})}),
        "text": Group(weight=0.2, categories={"b": Category(sources={"x": 1})}),
    }
    mixture = Mixture(groups, {"x": 5, "y": 5})
    assert mixture.fractions == {"x": Fraction(6, 10), "y": Fraction(4, 10)}
    assert mixture.groups == {"x": "single, text", "y": "single"}
    own = [ref for ref in map(mixture.draw, range(100)) if ref.source == "x"]
    for epoch in range(10):
        assert sorted(ref.index for ref in own if ref.epoch == epoch) == list(range(5))


PINNED = [
    "text-rich-0[873]",
    "refer-ground-0[107]",
    "text-rich-1[60]",
    "text-rich-2[774]",
    "refer-ground-1[265]",
    "text-rich-0[333]",
    "text-0[604]",
    "general-0[102]",
    "refer-ground-0[568]",
    "text-rich-1[654]",
    "text-rich-0[415]",
    "refer-ground-2[388]",
    "general-1[1005]",
    "text-rich-2[299]",
    "text-0[199]",
    "refer-ground-1[220]",
    "text-rich-0[136]",
    "refer-ground-0[388]",
    "text-rich-1[414]",
    "text-1[1073]",
    "general-0[412]",
    "text-rich-0[853]",
    "math-0[344]",
    "multi-0[584]",
    "multi-1[853]",
    "multi-2[491]",
    "text-rich-0[45]",
    "refer-ground-0[718]",
    "text-rich-1[348]",
    "multi-3[1014]",
    "text-rich-2[428]",
    "text-0[1446]",
    "text-rich-0[852]",
    "general-2[197]",
    "refer-ground-1[649]",
    "refer-ground-0[678]",
    "refer-ground-2[396]",
    "text-rich-0[456]",
    "text-rich-1[385]",
    "general-0[127]",
    "text-rich-2[989]",
    "general-1[748]",
    "text-0[1418]",
    "text-rich-0[609]",
    "refer-ground-0[90]",
    "text-rich-1[785]",
    "math-1[32]",
    "refer-ground-1[431]",
    "text-rich-0[153]",
    "refer-ground-2[686]",
]
