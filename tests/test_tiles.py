"""Tiles equal a crop-by-crop reference byte for byte, and Pillow within its rounding; overview, padding and figure."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw

from mm15.image import Layout, Tiling, cut, draw_grid, plan
from mm15.image.resize import resize
from mm15.image.tiles import PADDING

BICUBIC = PILImage.Resampling.BICUBIC


def scene(width: int, height: int) -> PILImage.Image:
    """A picture without any symmetry: gradients, and a box."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    picture = PILImage.fromarray(np.stack([200 * across, 200 * down, 120 + 80 * across * down], -1).astype(np.uint8))
    ImageDraw.Draw(picture).rectangle((width * 0.6, height * 0.7, width * 0.8, height * 0.95), fill=(20, 220, 60))
    return picture


def crop_by_crop(picture: PILImage.Image, layout: Layout) -> list[np.ndarray]:
    """The tiles without the overview: paste the resized picture on a grey canvas and crop each tile out of it."""
    canvas = PILImage.new("RGB", layout.canvas, (PADDING, PADDING, PADDING))
    canvas.paste(PILImage.fromarray(np.ascontiguousarray(resize(np.array(picture), layout.resized))), (0, 0))
    tile, found = layout.tile, []
    for row in range(layout.grid.rows):
        for col in range(layout.grid.cols):
            crop = canvas.crop((col * tile, row * tile, col * tile + tile, row * tile + tile))
            found.append(np.array([np.array(channel) for channel in crop.split()]))
    return found


SIZES = [
    (128, 128),
    (96, 128),
    (200, 31),
    (31, 200),
    (640, 480),
    (5, 3),
    (1, 1),
    (900, 1300),
    (1500, 90),
    (64, 64),
    (700, 702),
]


SCALES = [
    ((6000, 400), (60, 40)),
    ((300, 200), (99, 50)),
    ((17, 900), (3, 150)),
    ((5, 3), (300, 180)),
    ((70, 50), (134, 96)),
]


@pytest.mark.parametrize("size, to", SCALES)
def test_resize_is_pillows_bicubic_within_two_levels(size: tuple[int, int], to: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    expected = np.asarray(PILImage.fromarray(noise).resize(to, BICUBIC)).astype(int)
    difference = np.abs(resize(noise, to).astype(int) - expected)
    assert difference.shape == (to[1], to[0], 3) and difference.max() <= 2 and (difference > 0).mean() < 0.15


@pytest.mark.parametrize("overview", ["after", "before"])
@pytest.mark.parametrize("rule", ["mm15", "budget", "static", "none"])
def test_tiles_equal_a_crop_by_crop_reference(rule: str, overview: str) -> None:
    for width, height in SIZES:
        picture = scene(width, height)
        layout = plan(width, height, Tiling(tile=64, rule=rule, overview=overview, min_tiles=1))  # type: ignore[arg-type]
        tiles = cut(picture, layout)
        assert tiles.dtype == np.uint8 and tiles.shape == (layout.n_tiles, 3, 64, 64) and tiles.flags.c_contiguous
        expected = crop_by_crop(picture, layout)
        first = layout.first_tile
        assert np.array_equal(tiles[first : first + layout.grid.tiles], np.stack(expected)), (width, height)


def test_overview_is_the_whole_picture_with_padding_below_or_right() -> None:
    for width, height in SIZES:
        picture = scene(width, height)
        layout = plan(width, height, Tiling(tile=64, rule="static"))  # type: ignore[arg-type]
        overview = cut(picture, layout)[-1].transpose(1, 2, 0)
        across, down = layout.overview_resized
        whole = PILImage.fromarray(np.ascontiguousarray(overview[:down, :across]))
        assert np.abs(np.subtract(whole, picture.resize((across, down), BICUBIC), dtype=float)).mean() < 2.5, (
            width,
            height,
        )
        assert (overview[down:] == PADDING).all() and (overview[:, across:] == PADDING).all()


def test_content_boxes_say_where_the_padding_is() -> None:
    for width, height in SIZES:
        white = PILImage.new("RGB", (width, height), "white")
        layout = plan(width, height, Tiling(tile=64))
        for number, tile in enumerate(cut(white, layout)):
            content = layout.content_box(number)
            expected = np.full((3, 64, 64), PADDING)
            expected[:, : int(content.y2), : int(content.x2)] = 255
            assert np.array_equal(tile, expected)


def test_every_marked_pixel_is_where_the_layout_says() -> None:
    layout = plan(300, 200, Tiling(tile=64, overview="before"))  # type: ignore[arg-type]
    for x, y in [(10, 20), (150, 90), (290, 190), (128, 5), (3, 197)]:
        picture = PILImage.new("RGB", (300, 200))
        ImageDraw.Draw(picture).rectangle((x - 3, y - 3, x + 2, y + 2), fill="white")
        tiles = cut(picture, layout).astype(float)
        brightest, left, top = layout.to_tile(x, y)
        assert tiles[brightest, :, int(top), int(left)].mean() > 150
        number, left, top = layout.to_tile(x, y, piece=0)
        mass = tiles[number, 0, : layout.overview_resized[1]]
        ys, xs = np.mgrid[: mass.shape[0], : mass.shape[1]]
        centre = ((xs + 0.5) * mass).sum() / mass.sum(), ((ys + 0.5) * mass).sum() / mass.sum()
        assert centre == pytest.approx((left, top), abs=0.5)


def test_cut_refuses_a_picture_of_another_size() -> None:
    layout = plan(640, 480, Tiling(tile=64))
    with pytest.raises(ValueError, match=r"480x640.*640x480"):
        cut(scene(480, 640), layout)
    with pytest.raises(ValueError, match="RGB"):
        cut(scene(640, 480).convert("L"), layout)
    assert cut(scene(320, 240), layout).shape == (layout.n_tiles, 3, 64, 64)


def test_cutting_is_quick() -> None:
    picture = scene(128, 128)
    layout = plan(128, 128, Tiling(tile=64))

    def best(call: Callable[[], object], times: int) -> float:
        found = []
        for _ in range(times):
            started = time.perf_counter()
            call()
            found.append(time.perf_counter() - started)
        return min(found)

    assert best(lambda: cut(picture, layout), 50) < 1e-3
    page = scene(1700, 2200)
    assert best(lambda: cut(page, plan(1700, 2200, Tiling())), 2) < 2.0


@pytest.mark.parametrize(
    ("size", "tiling"),
    [
        ((640, 480), Tiling()),
        ((4000, 400), Tiling()),
        ((400, 4000), Tiling()),
        ((128, 128), Tiling(tile=64)),
        ((300, 200), Tiling(rule="none")),  # type: ignore[arg-type]
        ((900, 900), Tiling(tile=8, min_tiles=900, max_tiles=1024)),
        ((1, 1), Tiling(tile=1, overview="before")),  # type: ignore[arg-type]
    ],
)
def test_figures_of_every_shape(size: tuple[int, int], tiling: Tiling) -> None:
    layout = plan(*size, tiling)
    for picture in (scene(*size), None):
        figure = draw_grid(picture, layout)
        assert figure.mode == "RGB"
        assert 100 <= figure.width <= 4500 and 100 <= figure.height <= 4500


def test_a_figure_shows_the_picture_and_hatches_the_padding() -> None:
    layout = plan(640, 480, Tiling(tile=64))
    pixels = np.asarray(draw_grid(PILImage.new("RGB", (640, 480), (250, 20, 20)), layout)).astype(int)
    red = (abs(pixels - (250, 20, 20)).sum(-1) < 10).sum()
    light, dark = ((abs(pixels - colour).sum(-1) < 3).sum() for colour in ((226, 230, 235), (206, 212, 220)))
    assert light / dark == pytest.approx(1, abs=0.1)
    assert red / (red + light + dark) == pytest.approx(1 - layout.padding, abs=0.03)
