"""Mixtures by tokens, with limits of epochs and with temperature: exact in every phase, and still a pure function."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest
from test_mixture import paper, paper_mixture

from mm15 import recipe as recipes
from mm15.data.mixture import Mixture
from mm15.data.open import MEASURED, Opened, mean_targets, open_recipe
from mm15.data.schedule import Schedule
from mm15.data.shares import by_source, nested_shares, of_draws, tempered
from mm15.errors import UserError
from mm15.recipe import Category, Group, Recipe
from mm15.sample import Sample

Q = Fraction


def limited(epochs: dict[str, float], *, seed: int = 0, means: dict[str, Fraction] | None = None) -> Mixture:
    """Two groups of one half: one with categories x (a, b at 3 : 1) and y (c) at alpha 1 : 4, and one of d alone."""
    one = {
        "x": Category(alpha=1, sources={"a": 3, "b": 1}),
        "y": Category(alpha=4, sources={"c": 1}),
    }
    groups = {"one": Group(weight=0.5, categories=one), "two": Group(weight=0.5, categories={"z": _only("d")})}
    return Mixture(groups, {"a": 10, "b": 8, "c": 100, "d": 7}, seed=seed, epochs=epochs, means=means)


def _only(source: str) -> Category:
    return Category(sources={source: 1})


# ------------------------------------------------------------------------------------------------------------- epochs


def test_a_source_that_ends_leaves_its_share_nearest_first() -> None:
    """By hand: a's share goes to b (its category), then theirs to c (their group), then all to d (the other group).

    In each phase the counts stand within one draw of the phase's shares at every prefix.
    """
    mixture = limited({"a": 2, "b": 3, "c": 2.5})
    wanted = [
        {"a": Q(3, 40), "b": Q(1, 40), "c": Q(4, 10), "d": Q(1, 2)},
        {"b": Q(1, 10), "c": Q(4, 10), "d": Q(1, 2)},
        {"c": Q(1, 2), "d": Q(1, 2)},
        {"d": Q(1)},
    ]
    drawn, phase, start, inside = Counter[str](), 0, 0, Counter[str]()
    limits = {"a": 20, "b": 24, "c": 250}
    for k in range(1200):
        source = mixture.draw(k).source
        drawn[source] += 1
        inside[source] += 1
        for name, share in wanted[phase].items():
            assert abs(inside[name] - (k + 1 - start) * share) < 1, (k, name)
        assert set(inside) <= set(wanted[phase])
        if drawn[source] == limits.get(source):
            phase, start, inside = phase + 1, k + 1, Counter()
    assert phase == 3 and {name: drawn[name] for name in limits} == limits


def test_each_pass_is_whole_and_the_last_as_long_as_asked() -> None:
    mixture = limited({"a": 2, "b": 3, "c": 2.5})
    refs = [mixture.draw(k) for k in range(2000)]
    for name, times in (("a", {2}), ("b", {3}), ("c", {2, 3})):
        assert set(Counter(ref.index for ref in refs if ref.source == name).values()) == times
    assert len({ref.index for ref in refs if ref.source == "c" and ref.epoch == 0}) == 100
    free = limited({})
    for name in "abc":  # a limit changes when a source's samples come, and not which come first
        own = [[ref for ref in map(m.draw, range(900)) if ref.source == name] for m in (mixture, free)]
        assert all(a == b for a, b in zip(*own, strict=False))


def test_a_limited_mixture_is_a_function_of_the_draw() -> None:
    """Any order of asking, fresh mixtures, counts at every border of phases, and far away."""
    epochs = {"a": 2, "b": 3, "c": 2.5}
    mixture = limited(epochs)
    order = [mixture.draw(k) for k in range(700)]
    assert [limited(epochs).draw(k) for k in range(0, 700, 29)] == order[::29]
    jumping = limited(epochs)
    places = random.Random(1).sample(range(700), 200)
    assert [jumping.draw(k) for k in places] == [order[k] for k in places]
    for n in [0, 1, *range(251, 460, 13)]:
        drawn = Counter(ref.source for ref in order[:n])
        assert limited(epochs).counts(n) == mixture.counts(n) == {name: drawn[name] for name in "abcd"}
    far = limited(epochs)
    assert far.draw(10**9).source == "d" and far.counts(10**9)["d"] == 10**9 - 294
    assert far.epochs(10**6) == {"a": 2, "b": 3, "c": 2.5, "d": (10**6 - 294) / 7}


def test_a_mixture_of_limited_sources_ends() -> None:
    """All samples so often as asked, each draw once; and a clear word at the end."""
    mixture = limited({"a": 2, "b": 1, "c": 1, "d": 10})
    assert mixture.length == 20 + 8 + 100 + 70
    refs = Counter((ref.source, ref.index) for ref in map(mixture.draw, range(198)))
    assert len(refs) == 10 + 8 + 100 + 7
    for (source, _), times in refs.items():
        assert times == {"a": 2, "b": 1, "c": 1, "d": 10}[source]
    with pytest.raises(UserError, match="draw 198 is beyond the mixture's end: after 198 draws every source"):
        limited({"a": 2, "b": 1, "c": 1, "d": 10}).draw(198)
    assert limited({"a": 1}).length is None
    with pytest.raises(UserError, match=r"epochs of 'd' is 0\.1 and it has 7 samples, so it is never drawn"):
        limited({"d": 0.1})


def test_where_a_draw_stands_and_who_ends_first() -> None:
    """Against a walk through the schedule, for random shares and numbers of draws left."""
    rng = random.Random(3)
    for _ in range(60):
        weights = [rng.randint(1, rng.choice([3, 40, 400])) for _ in range(rng.randint(1, 9))]
        shares = [Fraction(weight, sum(weights)) for weight in weights]
        left = {i: rng.randint(1, 60) for i in rng.sample(range(len(weights)), rng.randint(1, len(weights)))}
        walk, places, drawn = Schedule(shares), {}, Counter[int]()
        k = 0
        while not any(drawn[i] == count for i, count in left.items()):
            turn = walk[k]
            places[turn.source, drawn[turn.source]] = k
            drawn[turn.source] += 1
            k += 1
        assert Schedule(shares).first_to_end(left) == k
        far = Schedule(shares)
        for (source, occurrence), place in rng.sample(sorted(places.items()), min(10, len(places))):
            assert far.position(source, occurrence) == place
    assert Schedule([Fraction(1)]).first_to_end({}) is None


def test_a_source_in_two_places_ends_in_both() -> None:
    groups = {
        "one": Group(weight=0.5, categories={"x": Category(sources={"a": 1, "b": 1})}),
        "two": Group(weight=0.5, categories={"y": Category(sources={"a": 1, "c": 1})}),
    }
    mixture = Mixture(groups, {"a": 5, "b": 5, "c": 5}, epochs={"a": 1})
    drawn = [mixture.draw(k).source for k in range(300)]
    end = len(drawn) - drawn[::-1].index("a")
    assert drawn.count("a") == 5 and end in range(8, 11)
    assert abs(drawn[end:].count("b") - drawn[end:].count("c")) <= 1


def test_the_papers_mixture_with_every_source_limited_takes_each_sample_as_often_as_asked() -> None:
    names = list(paper_mixture().shares)
    lengths = {name: 40 + 3 * i for i, name in enumerate(names)}
    epochs = {name: 1 + i % 3 for i, name in enumerate(names)}
    mixture = Mixture(paper(), lengths, epochs=epochs)
    found = Counter((ref.source, ref.index) for ref in map(mixture.draw, range(mixture.length)))
    assert found == Counter({(name, i): epochs[name] for name in names for i in range(lengths[name])})
    assert len(mixture._phases) == len(names)


# ------------------------------------------------------------------------------------------------------- fingerprints


def test_fingerprints() -> None:
    """Old ones stay; everything that changes the order changes them; the nesting counts where it may matter."""
    plain = paper_mixture(3)
    shares = [[name, str(share)] for name, share in plain.fractions.items()]
    assert plain.fingerprint == hashlib.sha256(json.dumps([3, shares]).encode()).hexdigest()[:16]
    means = {"a": Q(4), "b": Q(2), "c": Q(3), "d": Q(1)}
    several = [
        limited({}),
        limited({"a": 2}),
        limited({"a": 3}),
        limited({"b": 2}),
        limited({"a": 2}, seed=1),
        limited({}, means=means),
        limited({}, means={**means, "a": Q(5)}),
        limited({"a": 2}, means=means),
    ]
    assert len({mixture.fingerprint for mixture in several}) == len(several)
    flat = Category(sources={"a": 3, "b": 1, "c": 16, "d": 20})
    same = Mixture({"g": Group(categories={"all": flat})}, {"a": 10, "b": 8, "c": 100, "d": 7}, epochs={"a": 2})
    assert same.fractions == limited({"a": 2}).fractions and same.fingerprint != limited({"a": 2}).fingerprint


# ------------------------------------------------------------------------------------------------------------- tokens


def test_shares_of_tokens_by_hand() -> None:
    """Half the tokens each: the source with three times the tokens a draw is drawn a third as often."""
    assert of_draws({"a": Q(1, 2), "b": Q(1, 2)}, {"a": Q(30), "b": Q(10)}) == {"a": Q(1, 4), "b": Q(3, 4)}
    means = {"a": Q(4), "b": Q(2), "c": Q(1, 3), "d": Q(7)}
    mixture = limited({}, means=means)
    asked = by_source(mixture.nested)
    brought = {name: share * means[name] for name, share in mixture.fractions.items()}
    assert {name: value / sum(brought.values()) for name, value in brought.items()} == asked
    with pytest.raises(UserError, match="source 'b' has no target tokens"):
        limited({}, means={**means, "b": Q(0)})


def test_tokens_and_limits_together() -> None:
    """After a source has ended, the others' shares of the tokens are those of the recipe without it."""
    means = {"a": Q(4), "b": Q(2), "c": Q(1, 3), "d": Q(7)}
    mixture = limited({"a": 2}, means=means)
    k = next(k for k in range(10**6) if mixture.counts(k)["a"] == 20)
    tokens = {n: (mixture.counts(k + 30_000)[n] - mixture.counts(k)[n]) * means[n] for n in "bcd"}
    wanted = {"b": 0.1, "c": 0.4, "d": 0.5}
    for name, share in wanted.items():
        assert float(tokens[name] / sum(tokens.values())) == pytest.approx(share, abs=0.001)


@pytest.fixture(scope="module")
def by_tokens() -> Recipe:
    """Three kinds of the world with very different answers, mixed by target tokens."""
    tree = {
        "extends": None,
        "sources": {
            "captions": {"format": "world", "kind": "ground_caption", "size": 64},
            "counts": {"format": "world", "kind": "scene_count", "size": 64},
            "sums": {"format": "world", "kind": "arithmetic_text", "samples": 100},
        },
        "stages": {
            "one": {
                "steps": 10,
                "unit": "target_tokens",
                "batch": {"tokens": 512, "tiles": 48},
                "mixture": {"all": {"categories": {"all": {"sources": {"captions": 5, "counts": 3, "sums": 2}}}}},
            }
        },
    }
    whole = recipes.load("pico").model_dump()
    del tree["extends"]
    return recipes.validate({**whole, "evaluation": {}, **tree}, "test")


def test_realised_shares_of_tokens_are_those_asked(by_tokens: Recipe) -> None:
    """Measured on 3000 draws, within three standard errors of what is measured on 256 samples and on the draws."""
    opened = open_recipe(by_tokens)
    mixture, processor = opened.mixture_of("one"), opened.processor_of("one")
    brought: dict[str, list[int]] = {name: [] for name in mixture.shares}
    for ref in map(mixture.draw, range(3000)):
        brought[ref.source].append(processor.measure(opened.sources[ref.source][ref.index]).target_tokens)
    whole = sum(map(sum, brought.values()))
    assert mixture.shares["counts"] > 2 * mixture.shares["captions"]
    asked = {"captions": 0.5, "counts": 0.3, "sums": 0.2}
    errors = {}  # relative standard errors of what each brought
    for name, tokens in brought.items():
        mean = sum(tokens) / len(tokens)
        spread = math.sqrt(sum((t - mean) ** 2 for t in tokens) / len(tokens)) / mean
        errors[name] = spread * math.sqrt(1 / MEASURED + 1 / len(tokens)) + 1 / len(tokens)
    for name, share in asked.items():
        others = sum((asked[other] * error) ** 2 for other, error in errors.items())
        allowed = 3 * math.sqrt((errors[name] * (1 - share)) ** 2 + others)
        assert allowed < 0.1 and sum(brought[name]) / whole / share == pytest.approx(1, abs=allowed), name


def test_means_are_measured_on_the_same_samples_each_time(by_tokens: Recipe) -> None:
    """Whatever the seed; all samples of a short source, and a skipped sample counts as none."""
    opened = open_recipe(by_tokens)
    means = opened.means_of("one")
    other = by_tokens.model_copy(update={"seed": 9})
    assert Opened(other, opened.sources).means_of("one") == means
    measure = opened.processor_of("one").measure
    tokens = [measure(opened.sources["sums"][i]).target_tokens for i in range(100)]
    assert means["sums"] == Q(sum(tokens), 100)

    class Half:
        name, fingerprint = "sums", "x"

        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> Sample:
            if index % 2:
                raise UserError("broken")
            return opened.sources["sums"][index]

    broken = mean_targets(by_tokens, "one", {"sums": Half()}, opened.processor_of("one"))
    assert broken == {"sums": Q(sum(tokens[::2]), 100)}


# -------------------------------------------------------------------------------------------------------- temperature


def test_temperature() -> None:
    """w n^(1/T) by floating point; exactly in proportion to size at T = 1; nearly the weights alone at a large T."""
    lengths = {"big": 1_000_000, "mid": 31_337, "small": 12}

    def shares(temperature: float | None) -> dict[str, Fraction]:
        category = Category(sources={"big": 1, "mid": 2, "small": 1}, temperature=temperature)
        return by_source(nested_shares({"g": Group(categories={"c": category})}, lengths))

    assert shares(None) == {"big": Q(1, 4), "mid": Q(1, 2), "small": Q(1, 4)}
    whole = 1_000_000 + 2 * 31_337 + 12
    assert shares(1) == {"big": Q(1_000_000, whole), "mid": Q(2 * 31_337, whole), "small": Q(12, whole)}
    for temperature in (1.25, 2, 3.3, 5, 100):
        powers = {n: w * lengths[n] ** (1 / temperature) for n, w in (("big", 1), ("mid", 2), ("small", 1))}
        for name, power in powers.items():
            assert float(shares(temperature)[name]) == pytest.approx(power / sum(powers.values()), rel=1e-7)
    assert float(shares(1e6)["small"]) == pytest.approx(0.25, abs=1e-4)
    small = [float(shares(t)["small"]) for t in (1, 2, 4, 8)]
    assert all(a < b for a, b in pairwise(small))
    assert tempered(0, 2) == 0 and tempered(1, 2) == 1 and tempered(10**12, 2) == 10**6


def test_small_sources_are_seen_more_often() -> None:
    category = Category(sources={"big": 1, "small": 1}, temperature=2)
    mixture = Mixture({"g": Group(categories={"c": category})}, {"big": 10_000, "small": 100})
    assert mixture.fractions == {"big": Q(10, 11), "small": Q(1, 11)}
    assert mixture.epochs(11_000) == {"big": 1.0, "small": 10.0}


# ------------------------------------------------------------------------------------------------------------- recipe


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.sft.epochs.scene_chatt=2", ["names 'scene_chatt'", "did you mean 'scene_chat"]),
        ("stages.sft.epochs.scene_chat=0", ["epochs of 'scene_chat' is 0", "above 0"]),
        ("stages.sft.epochs.scene_chat=.nan", ["epochs of 'scene_chat' is nan"]),
        ("stages.sft.unit=tokens", ["stages.sft.unit", "target_tokens"]),
        ("stages.sft.mixture.single.categories.general.temperature=0", ["temperature", "greater than 0"]),
        ("stages.sft.mixture.single.categories.general.temperature=.inf", ["temperature", "finite"]),
    ],
)
def test_what_cannot_be_is_said(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        recipes.load("pico", [override])
    for word in words:
        assert word in str(caught.value)
