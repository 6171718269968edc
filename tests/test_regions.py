"""The coordinate contract against its own arithmetic, 100,000 random boxes, and text that is not quite right."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest

from mm15.regions import Box, Coordinates, Point, parse


def random_box(rng: random.Random, width: int, height: int) -> Box:
    xs = sorted(rng.uniform(0, width) for _ in range(2))
    ys = sorted(rng.uniform(0, height) for _ in range(2))
    return Box(xs[0], ys[0], xs[1], ys[1])


def test_encode_is_ferrets_truncation() -> None:
    """int(v * 1000 / side), clipped to 999: hand-computed."""
    text = Coordinates().encode(Box(10, 20, 64, 128), (128, 128))
    assert text == "[78, 156, 500, 999]"
    assert Coordinates().encode(Point(0, 99.9), (200, 100)) == "[0, 999]"


def test_decode_is_the_bins_centre() -> None:
    assert Coordinates().decode("[0, 999]", (2000, 500)) == Point(1.0, 499.75)
    assert Coordinates(bins=10).decode("[0, 1, 9, 9]", (100, 200)) == Box(5, 30, 95, 190)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("bins", [1000, 100, 37])
def test_round_trip_is_within_half_a_bin(bins: int, tokens: bool) -> None:
    """100,000 boxes over the six cases together, on random sizes, edges included."""
    rng = random.Random(bins)
    contract = Coordinates(bins=bins, tokens=tokens)
    for i in range(17_000):
        size = (rng.randint(1, 5000), rng.randint(1, 5000))
        box = Box(0, 0, *size) if i % 50 == 0 else random_box(rng, *size)
        back = contract.decode(contract.encode(box, size), size)
        for before, after, side in zip(box, back, size * 2, strict=True):
            assert abs(Fraction(before) - Fraction(after)) <= Fraction(side, 2 * bins) + Fraction(1, 10**9)


def test_a_box_outside_its_picture_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"Box\(x1=0, y1=0, x2=101, y2=5\) lies outside its picture of 100x50"):
        Coordinates().encode(Box(0, 0, 101, 5), (100, 50))
    with pytest.raises(ValueError, match="outside"):
        Coordinates().encode(Point(-1, 0), (100, 50))
    with pytest.raises(ValueError, match="inside out"):
        Box(5, 0, 4, 1)
    with pytest.raises(ValueError, match="0x50"):
        Coordinates().encode(Point(0, 0), (0, 50))


def test_parse_finds_regions_with_their_phrases() -> None:
    found = parse("A red circle [100, 200, 300, 400] and a dot [5, 6]. See [fig. 2].", (1000, 1000))
    assert [region.label for region in found] == ["A red circle", "a dot"]
    assert found[0].shape == Box(100.5, 200.5, 300.5, 400.5)
    assert found[1].shape == Point(5.5, 6.5)
    assert found.malformed == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[9, 9, 1, 1]", "inside out"),
        ("[1000, 3]", "outside 0..999"),
        ("[1.5, 2]", "whole numbers"),
        ("[1, 2, 3]", "neither a point"),
        ("[-1, 2]", "whole numbers"),
        ("[1,, 2]", "whole numbers"),
        ("[<bin_3>, x<bin_4>]", "unexpected"),
    ],
)
def test_malformed_is_reported_never_guessed(text: str, why: str) -> None:
    found = parse(f"the box {text} here", (100, 100))
    assert list(found) == []
    assert [bad.text for bad in found.malformed] == [text]
    assert why in found.malformed[0].why


def test_parse_never_fails_on_noise() -> None:
    """Random strings of the alphabet of coordinates: no exception, and every region lies in the picture."""
    rng = random.Random(0)
    for _ in range(20_000):
        text = "".join(rng.choice("[]0123456789,. -<bin_>x") for _ in range(rng.randint(0, 30)))
        for region in parse(text, (64, 48)):
            assert all(0 <= v <= side for v, side in zip(region.shape, (64, 48) * 2, strict=False))


def test_decode_wants_exactly_one_region() -> None:
    for text in ("[1, 2] [3, 4]", "here [1, 2]", "1, 2", "[a]"):
        with pytest.raises(ValueError, match="cannot read"):
            Coordinates().decode(text, (10, 10))
