"""Drawing places: where the lines fall, that pictures are left alone, and that nothing falls outside."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mm15.image.marking import PALETTE, SMALL, Pen, draw_regions, enlargement, strip
from mm15.regions import Box, Point, Region

RED = Pen("#ff0000")


def red(picture: Image.Image) -> np.ndarray:
    return (np.asarray(picture) == (255, 0, 0)).all(-1)


def test_line_surrounds_the_box_and_spares_its_inside() -> None:
    before = Image.new("RGB", (600, 500), "black")
    after = draw_regions(before, [Region(Box(100, 200, 300, 350))], pens=RED)
    assert after.size == (600, 500)
    assert np.asarray(before).max() == 0, "the picture itself is not drawn on"
    rows, columns = np.nonzero(red(after))
    width = 100 - columns.min()
    assert 1 < width < 8
    assert (columns.min(), rows.min()) == (100 - width, 200 - width)
    assert (columns.max(), rows.max()) == (300 + width - 1, 350 + width - 1)
    assert not np.asarray(after)[210:340, 110:290].any(), "inside nothing is touched"


def test_small_pictures_are_enlarged_with_their_boxes() -> None:
    picture = Image.new("RGB", (64, 48), "black")
    factor = enlargement(picture.size)
    assert factor == 7 and 64 * factor >= SMALL > 64 * (factor - 1)
    after = draw_regions(picture, [Region(Box(10, 10, 30, 30))], pens=RED)
    assert after.size == (64 * factor, 48 * factor)
    rows, columns = np.nonzero(red(after))
    assert abs(columns.min() - 10 * factor) < 8 and abs(columns.max() - 30 * factor) < 8
    assert abs(rows.min() - 10 * factor) < 8 and abs(rows.max() - 30 * factor) < 8


def test_point_is_a_ring_around_it() -> None:
    after = draw_regions(Image.new("RGB", (600, 500), "black"), [Region(Point(300, 200))], pens=RED)
    rows, columns = np.nonzero(red(after))
    assert columns.mean() == pytest.approx(300, abs=1) and rows.mean() == pytest.approx(200, abs=1)
    assert 10 <= columns.max() - columns.min() <= 40


def test_labels_stay_in_the_picture_and_off_each_other() -> None:
    picture = Image.new("RGB", (600, 500), "black")
    places = [Box(0, 0, 40, 40), Box(560, 460, 600, 500), Box(0, 5, 41, 45)]
    plain = np.asarray(draw_regions(picture, [Region(b) for b in places], labels=False))
    for box in places:
        labelled = np.asarray(draw_regions(picture, [Region(box, 0, "a long enough label")], pens=RED))
        assert (labelled != np.asarray(draw_regions(picture, [Region(box)], pens=RED))).any()
    both = draw_regions(picture, [Region(places[0], 0, "first label"), Region(places[2], 0, "other label")])
    inks = [(np.asarray(both) == tuple(int(c[i : i + 2], 16) for i in (1, 3, 5))).all(-1).sum() for c in PALETTE[:2]]
    alone = [
        draw_regions(picture, [Region(b, 0, label)], pens=Pen(colour))
        for b, label, colour in ((places[0], "first label", PALETTE[0]), (places[2], "other label", PALETTE[1]))
    ]
    for ink, one, colour in zip(inks, alone, PALETTE, strict=False):
        own = (np.asarray(one) == tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))).all(-1).sum()
        assert ink > 0.8 * own, "no label hides another"
    assert plain.shape == (500, 600, 3)


@pytest.mark.parametrize("size", [(1, 1), (3000, 20), (20, 3000), (448, 447)])
def test_any_size_and_place_can_be_drawn(size: tuple[int, int]) -> None:
    w, h = size
    regions = [
        Region(Box(0, 0, w, h), 0, "whole"),
        Region(Point(w, h), 0, "corner"),
        Region(Box(0, 0, 0, 0)),
        Region(Box(-90, -90, -70, -70), 0, "outside"),
        Region(Box(w + 70, h + 70, w + 90, h + 90), 0, "outside"),
        Region(Point(0, 0), 0, "ünïcödé 你好"),
    ]
    factor = enlargement(size)
    assert draw_regions(Image.new("L", size), regions).size == (w * factor, h * factor)
    assert draw_regions(Image.new("RGB", size), []).size == (w * factor, h * factor)


def test_strip_puts_pictures_side_by_side() -> None:
    joined = strip([Image.new("RGB", (10, 20), "red"), Image.new("RGB", (30, 5), "blue")], gap=4)
    assert joined.size == (44, 20)
    assert joined.getpixel((9, 19)) == (255, 0, 0) and joined.getpixel((14, 0)) == (0, 0, 255)
    assert joined.getpixel((12, 0)) == joined.getpixel((20, 10)) == (255, 255, 255)
