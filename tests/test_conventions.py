"""Every convention against hand-computed places and texts, both ways; round trips; other code as the reference."""

from __future__ import annotations

import itertools
import math
import pickle
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from transformers.models.kosmos2.processing_kosmos2 import (
    clean_text_and_extract_entities_with_bboxes,
    coordinate_to_patch_index,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as smart_resize_of_transformers

from mm15.errors import UserError
from mm15.recipe import RegionFormat
from mm15.regions import CONVENTIONS, Box, Coordinates, Point, Region, convention
from mm15.regions.spaces import smart_resize

NAMES = ["ferret", "internvl", "qwen-vl", "qwen2-vl", "qwen2.5-vl", "qwen3-vl", "deepseek-vl2", "molmo", "paligemma"]
NAMES += ["gemini", "kosmos-2", "llava", "shikra", "coco"]
SIZES = [(1, 1), (1, 150), (150, 1), (2, 3), (28, 28), (101, 99), (336, 336), (640, 480), (1080, 1920), (4000, 333)]


def region(shape: Any, label: str = "", image: int = 0) -> Region:
    return Region(shape, image, label)


# (convention, size, what is written, the text, the shapes read back): numbers by hand from the public descriptions.
HAND: list[tuple[str, tuple[int, int], list[Any], str, list[Any]]] = [
    (  # int(v * 1000 / side); the middle of each bin is read
        "ferret",
        (1000, 500),
        ["A cat ", region(Box(100, 50, 300, 200), "A cat"), " and a dot ", region(Point(999.9, 0), "a dot"), "."],
        "A cat [100, 100, 300, 400] and a dot [999, 0].",
        [Box(100.5, 50.25, 300.5, 200.25), Point(999.5, 0.25)],
    ),
    (  # Ferret's own code writes 1000 for the edge
        "ferret",
        (640, 480),
        ["all ", region(Box(0, 0, 640, 480), "all")],
        "all [0, 0, 1000, 1000]",
        [Box(0.32, 0.24, 640, 480)],
    ),
    (
        "internvl",
        (1000, 500),
        ["See cats ", region(Box(100, 50, 300, 200), "cats"), " ", region(Box(0, 0, 1000, 500), "cats"), "."],
        "See <ref>cats</ref><box>[[100, 100, 300, 400], [0, 0, 1000, 1000]]</box>.",
        [Box(100, 50, 300, 200), Box(0, 0, 1000, 500)],
    ),
    (
        "qwen-vl",
        (1000, 500),
        ["bees ", region(Box(100, 50, 1000, 500), "bees"), " ", region(Box(2.9, 1, 3, 2), "bees"), " on a rose."],
        "<ref>bees</ref><box>(100,100),(999,999)</box><box>(2,2),(3,4)</box> on a rose.",
        [Box(100.5, 50.25, 999.5, 499.75), Box(2.5, 1.25, 3.5, 2.25)],
    ),
    (
        "qwen2-vl",
        (1000, 1000),
        ["the eyes ", region(Box(176, 106, 232, 160), "the eyes"), ", click ", region(Point(7, 8))],
        "<|object_ref_start|>the eyes<|object_ref_end|><|box_start|>(176,106),(232,160)<|box_end|>, click "
        "<|box_start|>(7,8)<|box_end|>",
        [Box(176.5, 106.5, 232.5, 160.5), Point(7.5, 8.5)],
    ),
    (  # 640 x 480 is resized to 644 x 476
        "qwen2.5-vl",
        (640, 480),
        ["```json\ncat ", region(Box(320, 240, 640, 480), "cat"), "\n点 ", region(Point(160, 120), "点"), "\n```"],
        '```json\n[{"bbox_2d": [322, 238, 644, 476], "label": "cat"}, {"point_2d": [161, 119], "label": "点"}]\n```',
        [Box(320, 240, 640, 480), Point(160, 120)],
    ),
    (
        "qwen3-vl",
        (2000, 1000),
        [region(Box(200, 100, 1000, 900)), "\n", region(Point(2000, 0))],
        '[{"bbox_2d": [100, 100, 500, 900]}, {"point_2d": [1000, 0]}]',
        [Box(200, 100, 1000, 900), Point(2000, 0)],
    ),
    (
        "deepseek-vl2",
        (1998, 999),
        ["The giraffe. ", region(Box(2, 1, 1998, 999), "The giraffe.")],
        "<|ref|>The giraffe.<|/ref|><|det|>[[1, 1, 999, 999]]<|/det|>",
        [Box(2, 1, 1998, 999)],
    ),
    (
        "molmo",
        (200, 100),
        [
            "Here: ",
            region(Point(82, 43), ""),
            " cats ",
            *[region(Point(2, 3), "cats"), " ", region(Point(200, 0), "cats")],
        ],
        'Here: <point x="41.0" y="43.0" alt=""></point> '
        '<points x1="1.0" y1="3.0" x2="100.0" y2="0.0" alt="cats">cats</points>',
        [Point(82, 43), Point(2, 3), Point(200, 0)],
    ),
    (  # y1 x1 y2 x2 in 1024 bins
        "paligemma",
        (2048, 1024),
        ["cat ", region(Box(256, 256, 1024, 768), "cat"), " ; dog ", region(Box(0, 0, 2048, 1024), "dog")],
        "<loc0256><loc0128><loc0768><loc0512> cat ; <loc0000><loc0000><loc1023><loc1023> dog",
        [Box(257, 256.5, 1025, 768.5), Box(1, 0.5, 2047, 1023.5)],
    ),
    (
        "gemini",
        (2000, 1000),
        ["cat ", region(Box(200, 100, 1000, 900), "cat"), "\ndot ", region(Point(2000, 0), "dot")],
        '[{"box_2d": [100, 100, 900, 500], "label": "cat"}, {"point": [0, 1000], "label": "dot"}]',
        [Box(200, 100, 1000, 900), Point(2000, 0)],
    ),
    (  # transformers' example: 44 is row 1, column 12; 863 is row 26, column 31; 10 pixels a patch, between centres
        "kosmos-2",
        (320, 320),
        ["<grounding> An image of a snowman ", region(Box(125, 15, 315, 265), "a snowman"), "."],
        "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object>.",
        [Box(125, 15, 315, 265)],
    ),
    (  # patches in one row count whole
        "kosmos-2",
        (320, 320),
        [region(Box(0, 0, 10, 10)), " ", region(Box(11, 0, 40, 9))],
        "<object><patch_index_0000><patch_index_0000></delimiter_of_multi_objects/>"
        "<patch_index_0001><patch_index_0003></object>",
        [Box(0, 0, 10, 10), Box(10, 0, 40, 10)],
    ),
    (  # 50 white pixels above and below, then 0-1 of 200
        "llava",
        (200, 100),
        ["a cat ", region(Box(20, 0, 100, 50), "a cat")],
        "a cat [0.10, 0.25, 0.50, 0.50]",
        [Box(20, 0, 100, 50)],
    ),
    (  # (200 - 101) // 2 = 49 to the left
        "llava",
        (101, 200),
        [region(Box(1, 20, 101, 200))],
        "[0.25, 0.10, 0.75, 1.00]",
        [Box(1, 20, 101, 200)],
    ),
    (
        "shikra",
        (1000, 500),
        [
            "cats ",
            region(Box(100, 50, 300, 200), "cats"),
            " ",
            region(Box(0, 0, 1000, 500), "cats"),
            " at ",
            region(Point(1, 1), "at"),
        ],
        "cats [0.100,0.100,0.300,0.400;0.000,0.000,1.000,1.000] at [0.001,0.002]",
        [Box(100, 50, 300, 200), Box(0, 0, 1000, 500), Point(1, 1)],
    ),
    (
        "coco",
        (640, 480),
        ["cat ", region(Box(473.07, 395.93, 511.72, 424.6), "cat"), "; ", region(Box(0, 0, 640, 480), "")],
        "cat [473.07, 395.93, 38.65, 28.67]; [0.00, 0.00, 640.00, 480.00]",
        [Box(473.07, 395.93, 511.72, 424.6), Box(0, 0, 640, 480)],
    ),
]


def places(contents: Sequence[str | Region]) -> list[Any]:
    return [c.shape for c in contents if isinstance(c, Region)]


def test_the_table_has_every_convention_and_each_has_an_example() -> None:
    assert list(CONVENTIONS) == NAMES == list(dict.fromkeys(row[0] for row in HAND))
    assert all(name == found.name for name, found in CONVENTIONS.items())


@pytest.mark.parametrize(("name", "size", "contents", "text", "shapes"), HAND, ids=lambda v: v if v in NAMES else "")
def test_hand_computed_both_ways(name: str, size: Any, contents: list[Any], text: str, shapes: list[Any]) -> None:
    reader = convention(name)
    assert reader.write(contents, [size]) == text
    reading = reader.read(text, [size], 0)
    assert reading.malformed == []
    assert [type(shape) for shape in places(reading.contents)] == [type(shape) for shape in shapes]
    for shape, expected in zip(places(reading.contents), shapes, strict=True):
        assert tuple(shape) == pytest.approx(tuple(expected), abs=1e-9)
    assert [c if isinstance(c, str) else (c.image, c.label) for c in reading.contents] == [
        c if isinstance(c, str) else (c.image, c.label) for c in contents
    ]
    assert reader.write(reading.contents, [size]) == text


def shapes_in(rng: random.Random, size: tuple[int, int], points: bool, boxes: bool) -> Iterator[Box | Point]:
    """Whole and fractional, random and at the edges."""
    width, height = size
    corners = [0.0, 1e-9, 0.5, 1.0]
    for _ in range(6):
        pick = [rng.choice([rng.choice(corners), rng.random(), rng.random()]) for _ in range(4)]
        x1, x2 = sorted(width * p for p in pick[:2])
        y1, y2 = sorted(height * p for p in pick[2:])
        if boxes:
            yield Box(x1, y1, x2, y2)
            yield Box(int(x1), int(y1), int(x2), int(y2))
        if points:
            yield Point(x2, y1)
    if boxes:
        yield from (Box(0, 0, width, height), Box(0, 0, 0, 0), Box(width, height, width, height))
    if points:
        yield from (Point(0, 0), Point(width, height))


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_within_the_resolution(name: str) -> None:
    """Through text and through numbers, on 10 fixed and 60 random sizes, edges and one-pixel pictures included."""
    one, rng = CONVENTIONS[name], random.Random(name)
    furthest = 0.0
    for size in [*SIZES, *((rng.randint(20, 3000), rng.randint(20, 3000)) for _ in range(60))]:
        bound = one.resolution(size) * 2
        for shape in shapes_in(rng, size, one.points, one.boxes):
            text = one.write([region(shape, "it")], [size])
            reading = one.read(text, [size], 0)
            assert reading.malformed == [], (shape, size)
            back = places(reading.contents)[0]
            assert one.from_numbers(one.to_numbers(shape, size), size) == back
            for before, after, limit in zip(shape, back, bound, strict=False):
                assert abs(before - after) <= limit * (1 + 1e-9), (text, shape, back, size)
                furthest = max(furthest, abs(before - after) / limit)
    assert furthest > 0.9, "the resolution is promised larger than it is"


def test_resolution_by_hand() -> None:
    """Half a step in pixels."""
    size = (640, 480)
    assert CONVENTIONS["ferret"].resolution(size) == pytest.approx((0.32, 0.24))
    assert CONVENTIONS["molmo"].resolution(size) == pytest.approx((0.32, 0.24))
    assert CONVENTIONS["paligemma"].resolution(size) == pytest.approx((0.3125, 0.234375))
    assert CONVENTIONS["llava"].resolution(size) == pytest.approx((3.2, 3.2))
    assert CONVENTIONS["qwen2.5-vl"].resolution(size) == pytest.approx((320 / 644, 240 / 476))
    assert CONVENTIONS["coco"].resolution(size) == pytest.approx((0.005, 0.005))
    assert CONVENTIONS["kosmos-2"].resolution(size) == (20, 15)


def test_kosmos_boxes_of_several_patches_move_by_half_a_patch() -> None:
    one, rng = CONVENTIONS["kosmos-2"], random.Random(0)
    for _ in range(500):
        width, height = size = (rng.randint(32, 2000), rng.randint(32, 2000))
        x, y = rng.uniform(0, width * 0.9), rng.uniform(0, height * 0.9)
        box = Box(x, y, rng.uniform(x + width / 16, width), rng.uniform(y + height / 16, height))
        back = one.from_numbers(one.to_numbers(box, size), size)
        assert all(
            abs(a - b) <= limit / 2 + 1e-9 for a, b, limit in zip(box, back, one.resolution(size) * 2, strict=True)
        )


def test_kosmos_equals_transformers() -> None:
    one, rng = CONVENTIONS["kosmos-2"], random.Random(1)
    for _ in range(1000):
        x1, x2 = sorted(rng.sample(range(0, 1025), 2))
        y1, y2 = sorted(rng.sample(range(0, 1025), 2))
        ratios = (x1 / 1024, y1 / 1024, x2 / 1024, y2 / 1024)
        text = one.write([" it ", region(Box(x1, y1, x2, y2), "it")], [(1024, 1024)])
        assert one.to_numbers(Box(x1, y1, x2, y2), (1024, 1024)) == coordinate_to_patch_index(ratios, 32)
        _, entities = clean_text_and_extract_entities_with_bboxes(text)
        ((label, _, (theirs,)),) = entities
        ours = places(one.read(text, [(1024, 1024)], 0).contents)[0]
        assert label == "it"
        assert tuple(v / 1024 for v in ours) == pytest.approx(theirs)


def test_smart_resize_equals_transformers() -> None:
    """6,000 sizes, limits that shrink, that enlarge, and those of the release."""
    rng = random.Random(2)
    for i in range(6000):
        width, height = (round(math.exp(rng.uniform(0, math.log(9000)))) for _ in range(2))
        least, most = [(3136, 12845056), (3136, 28 * 28 * 1280), (256 * 784, 1280 * 784), (784, 784)][i % 4]
        if max(width, height) > 200 * min(width, height):
            with pytest.raises(ValueError, match=f"{width}x{height}"):
                smart_resize((width, height), min_pixels=least, max_pixels=most)
            continue
        theirs = smart_resize_of_transformers(height, width, 28, least, most)
        assert smart_resize((width, height), min_pixels=least, max_pixels=most) == theirs[::-1]
    for width, height in itertools.product(range(20, 120, 3), repeat=2):  # areas that are just the limit
        theirs = smart_resize_of_transformers(height, width, 28, 3136, 3136)
        assert smart_resize((width, height), min_pixels=3136, max_pixels=3136) == theirs[::-1]


def test_the_limits_of_resizing_are_settable() -> None:
    """1000 x 1000 under 784 * 4 pixels is 56 x 56."""
    small = convention("qwen2.5-vl", min_pixels=784, max_pixels=784 * 4)
    assert small.to_numbers(Box(0, 500, 1000, 1000), (1000, 1000)) == (0, 28, 56, 56)
    assert convention("qwen2.5-vl").to_numbers(Box(0, 500, 1000, 1000), (1000, 1000)) == (0, 504, 1008, 1008)
    assert convention("qwen2.5-vl", min_pixels=56 * 56, max_pixels=12845056) == convention("qwen2.5-vl")
    for name in NAMES:
        if name != "qwen2.5-vl":
            with pytest.raises(ValueError, match="does not depend on how pictures are resized"):
                convention(name, max_pixels=100)
    with pytest.raises(ValueError, match="got 10 and 5"):
        convention("qwen2.5-vl", min_pixels=10, max_pixels=5)


def test_ferret_is_the_contract_of_mm15_but_for_the_edge() -> None:
    rng, contract = random.Random(3), Coordinates()
    for _ in range(2000):
        size = (rng.randint(1, 3000), rng.randint(1, 3000))
        point = Point(rng.uniform(0, size[0] * 0.9999), rng.uniform(0, size[1] * 0.9999))
        assert CONVENTIONS["ferret"].write([region(point)], [size]) == contract.encode(point, size)
        bins = (rng.randrange(1000), rng.randrange(1000))
        ours = CONVENTIONS["ferret"].from_numbers(bins, size)
        assert tuple(ours) == pytest.approx(tuple(contract.dequantise(bins, size)))


def test_llava_is_where_the_pixel_lies_in_the_padded_square() -> None:
    """One white pixel, followed through the padding."""
    rng = random.Random(4)
    for _ in range(50):
        width, height = size = (rng.randint(1, 300), rng.randint(1, 300))
        x, y = rng.randrange(width), rng.randrange(height)
        picture = PILImage.new("L", size)
        picture.putpixel((x, y), 255)
        longest = max(size)
        square = PILImage.new("L", (longest, longest))
        square.paste(picture, ((longest - width) // 2, (longest - height) // 2))
        row, column = np.argwhere(np.asarray(square))[0]
        expected = [v / longest for v in (column, row, column + 1, row + 1)]
        assert CONVENTIONS["llava"].to_numbers(Box(x, y, x + 1, y + 1), size) == pytest.approx(
            expected, abs=0.005 + 1e-9
        )


def test_an_unknown_convention_is_refused_with_the_closest_name() -> None:
    with pytest.raises(ValueError, match=r"'qwen25-vl'; did you mean 'qwen2.5-vl'"):
        convention("qwen25-vl")
    with pytest.raises(ValueError, match=r"did you mean 'kosmos-2'"):
        RegionFormat.model_validate("kosmos2")
    assert RegionFormat.model_validate("qwen2.5-vl").convention == "qwen2.5-vl"
    with pytest.raises(ValueError, match="does not depend"):
        RegionFormat(convention="internvl", min_pixels=5)


def test_conventions_travel_to_other_processes() -> None:
    for one in CONVENTIONS.values():
        assert pickle.loads(pickle.dumps(one)) == one


class Asked(Sequence[tuple[int, int]]):
    """Sizes that count how often they are asked for, and cannot say that of picture 2."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        self.asked.append(index)
        if index == 2:
            raise UserError("picture 2 cannot be opened")
        return (640, 480)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_asked_for_only_where_a_text_holds_places(name: str) -> None:
    one, sizes = CONVENTIONS[name], Asked()
    contents = ["it ", region(Point(1, 1) if not one.boxes else Box(1, 1, 9, 9), "it", image=1)]
    text = one.write(contents, sizes)
    sizes.asked.clear()
    assert one.read("No place at all. <ref>a cat</ref>?" if name == "internvl" else "None.", sizes, 1).malformed == []
    assert sizes.asked == []
    assert places(one.read(text, sizes, 1).contents) and set(sizes.asked) == {1}
    with pytest.raises(UserError, match="cannot be opened"):
        one.read(text, sizes, 2)
    with pytest.raises(ValueError, match="picture 3, but there are 3"):
        one.read(text, sizes, 3)
