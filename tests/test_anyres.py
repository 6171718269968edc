"""The grid rule against Eq. (1) written out with fractions, and the maps between picture, canvas and tile."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from fractions import Fraction

import pytest

from mm15.errors import UserError
from mm15.image import (
    Grid,
    Indicators,
    Layout,
    Overview,
    Rule,
    Tiling,
    choose_grid,
    describe,
    explain,
    grids_between,
    indicator_text,
    plan,
)
from mm15.recipe import Picture
from mm15.regions import Box

VECTORS = {  # (height, width) -> (rows, cols) for tiles of 672, 4 to 9 of them
    (300, 300): (2, 2),
    (480, 640): (2, 2),
    (427, 640): (2, 2),
    (360, 640): (2, 3),
    (1000, 1000): (2, 2),
    (1344, 1344): (2, 2),
    (1345, 1345): (3, 3),
    (2016, 2016): (3, 3),
    (2500, 2500): (3, 3),
    (2200, 1700): (3, 3),
    (1080, 1920): (2, 3),
    (2532, 1170): (4, 2),
    (400, 4000): (1, 9),
    (6048, 672): (9, 1),
    (1200, 500): (4, 2),
    (500, 330): (3, 2),
    (640, 480): (2, 2),
}
RANGES = [
    (672, 4, 9, 10_000),
    (672, 1, 4, 1500),
    (672, 4, 16, 1500),
    (64, 4, 9, 1500),
    (378, 1, 9, 1500),
    (378, 5, 5, 500),
]


def equation_one(h: int, w: int, r: int, n_min: int, n_max: int) -> tuple[int, int]:
    """(n_h, n_w) straight from the paper: every grid, its resized picture (h_g, w_g), the two cases, the ties."""
    cover, shrink = [], []
    for n_h in range(1, n_max + 1):
        for n_w in range(1, n_max + 1):
            if not n_min <= n_h * n_w <= n_max:
                continue
            for longer, extent in ((h, n_h * r), (w, n_w * r)):
                if longer != max(h, w):
                    continue
                scale = Fraction(extent, longer)
                h_g, w_g = h * scale, w * scale
                if h_g > n_h * r or w_g > n_w * r:
                    continue
                if h_g >= h and w_g >= w:
                    cover.append((n_h * n_w * r * r - h_g * w_g, n_h * n_w, n_h, n_w))
                else:
                    shrink.append((h * w - h_g * w_g, n_h * n_w, n_h, n_w))
    return min(cover or shrink)[2:]


def fewest_that_hold(h: int, w: int, r: int, n_min: int, n_max: int) -> tuple[int, int]:
    """Rule `budget`, written independently: by number of tiles upwards, the first number with a grid that holds it."""
    for tiles in range(n_min, n_max + 1):
        found = []
        for n_h in range(1, tiles + 1):
            n_w = tiles // n_h
            if n_h * n_w == tiles and n_h * r >= h and n_w * r >= w:
                scale = min(Fraction(n_h * r, h), Fraction(n_w * r, w))
                found.append((tiles * r * r - h * w * scale**2, n_h, n_w))
        if found:
            return min(found)[1:]
    return equation_one(h, w, r, n_min, n_max)


def sizes(count: int, tile: int, seed: int) -> list[tuple[int, int]]:
    """Sizes of every magnitude, and those near which the choice changes: squares, multiples of a tile, ratios."""
    rng = random.Random(seed)
    found = []
    while len(found) < count:
        w, h = (round(2 ** rng.uniform(0, 13.5)) for _ in range(2))
        kind = rng.randrange(5)
        if kind == 1:
            h = w
        elif kind == 2:
            w, h = (max(1, rng.randrange(1, 10) * tile + rng.choice((-1, 0, 0, 1))) for _ in range(2))
        elif kind == 3:
            unit = rng.randrange(1, 900)
            w, h = unit * rng.randrange(1, 10), unit * rng.randrange(1, 10)
        elif kind == 4:
            w = max(1, h * rng.randrange(1, 10) // rng.randrange(1, 10) + rng.choice((-1, 0, 1)))
        found.append((w, h))
    return found


def test_vectors_of_the_design() -> None:
    for (height, width), grid in VECTORS.items():
        assert choose_grid(width, height) == Grid(*grid), (height, width)
        assert choose_grid(width, height, tile=672, min_tiles=4, max_tiles=9, rule="mm15") == Grid(*grid)


@pytest.mark.parametrize(("tile", "low", "high", "count"), RANGES)
def test_grid_is_that_of_equation_one(tile: int, low: int, high: int, count: int) -> None:
    seen = set()
    for w, h in sizes(count, tile, seed=high):
        grid = choose_grid(w, h, tile=tile, min_tiles=low, max_tiles=high)
        assert (grid.rows, grid.cols) == equation_one(h, w, tile, low, high), (w, h)
        seen.add(grid)
    if low == 4:
        assert len(seen) > len(grids_between(low, high)) * 0.8, "the sizes do not reach most of the grids"


@pytest.mark.parametrize(("tile", "low", "high"), [(672, 4, 9), (64, 1, 9), (378, 1, 16)])
def test_budget_is_the_fewest_tiles_that_hold_the_picture(tile: int, low: int, high: int) -> None:
    for w, h in sizes(1500, tile, seed=3):
        grid = choose_grid(w, h, tile=tile, min_tiles=low, max_tiles=high, rule=Rule.BUDGET)
        assert (grid.rows, grid.cols) == fewest_that_hold(h, w, tile, low, high), (w, h)
        tilings = [Tiling(tile=tile, min_tiles=low, max_tiles=high, rule=rule) for rule in (Rule.MM15, Rule.BUDGET)]
        mm15, budget = (plan(w, h, tiling) for tiling in tilings)
        assert not (budget.downscaled and not mm15.downscaled), (w, h)
        assert mm15.downscaled or budget.n_tiles <= mm15.n_tiles, (w, h)


def test_budget_saves_tiles() -> None:
    assert choose_grid(600, 2200) == Grid(4, 2)
    assert choose_grid(600, 2200, rule=Rule.BUDGET) == Grid(4, 1)
    assert choose_grid(640, 480, tile=448, min_tiles=1, max_tiles=12) == Grid(3, 4)
    assert choose_grid(640, 480, tile=448, min_tiles=1, max_tiles=12, rule=Rule.BUDGET) == Grid(2, 2)


def test_fixed_rules_ignore_the_size() -> None:
    for w, h in [(1, 1), (5000, 30), (30, 5000)]:
        assert choose_grid(w, h, rule=Rule.STATIC) == Grid(2, 2)
        assert choose_grid(w, h, rule=Rule.NONE) == Grid(1, 1)


def test_grids_between() -> None:
    assert len(grids_between(4, 9)) == 18
    assert len(grids_between(4, 16)) == 45
    assert grids_between(1, 2) == (Grid(1, 1), Grid(1, 2), Grid(2, 1))
    assert all(low <= grid.tiles <= low + 3 for low in (1, 4, 7) for grid in grids_between(low, low + 3))


def test_three_pictures_are_not_split() -> None:
    tiling = Tiling()
    assert plan(2000, 2000, tiling, images=2).grid == Grid(3, 3)
    assert plan(2000, 2000, tiling, images=3).grid == Grid(1, 1)
    assert plan(2000, 2000, tiling, images=3).rule is Rule.NONE
    assert plan(2000, 2000, Tiling(split_below=5), images=4).grid == Grid(3, 3)
    assert plan(2000, 2000, Tiling(split_below=0), images=1).n_tiles == 1


def test_order_of_the_pieces() -> None:
    after, before = (plan(1920, 1080, Tiling(overview=place)) for place in Overview)
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert [(p.kind, p.row, p.col) for p in after.pieces] == [("tile", *p) for p in places] + [("overview", 0, 0)]
    assert before.pieces == after.pieces[-1:] + after.pieces[:-1]
    assert (after.overview_piece, before.overview_piece) == (6, 0)
    assert (after.first_tile, before.first_tile) == (0, 1)
    for place in Overview:
        alone = plan(300, 200, Tiling(rule="none", overview=place))
        assert [p.kind for p in alone.pieces] == ["tile"]
        assert (alone.overview_piece, alone.first_tile, alone.n_tiles) == (None, 0, 1)
    small = plan(600, 600, Tiling(min_tiles=1))
    assert (small.grid, small.n_tiles) == (Grid(1, 1), 1)


def layouts() -> list[Layout]:
    rng = random.Random(7)
    found = []
    for w, h in sizes(400, 672, seed=11):
        tiling = Tiling(
            tile=rng.choice([64, 378, 672]),
            rule=rng.choice(list(Rule)),
            min_tiles=rng.choice([1, 4]),
            max_tiles=rng.choice([4, 9, 16]),
            overview=rng.choice(list(Overview)),
        )
        found.append(plan(w, h, tiling))
    return found


def test_maps_undo_each_other() -> None:
    rng = random.Random(1)
    for layout in layouts():
        points = [(rng.uniform(0, layout.width), rng.uniform(0, layout.height)) for _ in range(10)]
        corners = [(x, y) for x in (0, layout.width) for y in (0, layout.height)]
        for x, y in points + corners:
            assert layout.from_canvas(*layout.to_canvas(x, y)) == pytest.approx((x, y), abs=1e-9)
            piece, left, top = layout.to_tile(x, y)
            assert layout.pieces[piece].kind == "tile"
            assert 0 <= left <= layout.tile and 0 <= top <= layout.tile
            content = layout.content_box(piece)
            assert left <= content.x2 + 1e-9 and top <= content.y2 + 1e-9, "the tile does not show its point"
            assert layout.from_tile(piece, left, top) == pytest.approx((x, y), abs=1e-9)
            for other in range(layout.n_tiles):
                number, left, top = layout.to_tile(x, y, piece=other)
                assert number == other
                assert layout.from_tile(other, left, top) == pytest.approx((x, y), abs=1e-9)


def test_tile_is_the_canvas_cut_at_its_multiples() -> None:
    layout = plan(1920, 1080, Tiling(overview=Overview.BEFORE))
    assert layout.resized == (2016, 1134)
    assert layout.to_canvas(960, 540) == pytest.approx((1008, 567))
    assert layout.to_tile(960, 540) == (2, pytest.approx(336), pytest.approx(567))
    assert layout.to_tile(640, 0)[0] == 2, "a tile owns its left edge"
    assert layout.to_tile(1920, 1080) == (6, pytest.approx(672), pytest.approx(462))
    assert layout.to_tile(1920, 1080, piece=0) == (0, pytest.approx(672), pytest.approx(378))
    with pytest.raises(ValueError, match=r"1921.*1920x1080"):
        layout.to_tile(1921, 5)


def test_the_picture_fits_and_nearly_keeps_its_proportions() -> None:
    for layout in layouts():
        for (w, h), (most_w, most_h) in [
            (layout.resized, layout.canvas),
            (layout.overview_resized, (layout.tile, layout.tile)),
        ]:
            assert 1 <= w <= most_w and 1 <= h <= most_h
            assert w == most_w or h == most_h, "neither side fills its extent"
            scale = min(most_w / layout.width, most_h / layout.height)
            assert w == max(1, int(layout.width * scale + 0.5)) and h == max(1, int(layout.height * scale + 0.5))
        assert layout.scale == pytest.approx(
            min(layout.canvas[0] / layout.width, layout.canvas[1] / layout.height), rel=1e-12
        )
        assert layout.downscaled == (layout.canvas[0] < layout.width or layout.canvas[1] < layout.height)


def test_content_boxes_tile_the_picture() -> None:
    for layout in layouts():
        tiles = range(layout.first_tile, layout.first_tile + layout.grid.tiles)
        assert sum(layout.content_box(i).area for i in tiles) == layout.resized[0] * layout.resized[1]
        assert layout.padding == pytest.approx(
            1 - sum(layout.content_box(i).area for i in tiles) / (layout.grid.tiles * layout.tile**2)
        )
        assert sum(layout.source_box(i).area for i in tiles) == pytest.approx(layout.width * layout.height)
        if layout.overview_piece is not None:
            assert tuple(layout.source_box(layout.overview_piece)) == pytest.approx((0, 0, layout.width, layout.height))
    letterbox = plan(1900, 480, Tiling(rule="static"))
    assert letterbox.content_box(0) == Box(0, 0, 672, 340)
    assert letterbox.content_box(3) == Box(0, 0, 0, 0) == letterbox.source_box(3)
    assert letterbox.content_box(4) == Box(0, 0, 672, 170)


def written(layout: Layout, image: int) -> str:
    """All indicator text of a picture, with # for the tokens of a piece."""
    return "".join("#".join(indicator_text(layout, i, image)) for i in range(layout.n_tiles))


@pytest.mark.parametrize(
    ("indicators", "overview", "text"),
    [
        ("none", "after", "#######"),
        ("index", "after", "(4,1,1)#(4,1,2)#(4,1,3)#(4,2,1)#(4,2,2)#(4,2,3)#(4,0,0)#"),
        ("index", "before", "(4,0,0)#(4,1,1)#(4,1,2)#(4,1,3)#(4,2,1)#(4,2,2)#(4,2,3)#"),
        ("seps", "after", "#,#,#<n>#,#,#:#"),
        ("seps", "before", "#:#,#,#<n>#,#,#"),
    ],
)
def test_indicators(indicators: str, overview: str, text: str) -> None:
    layout = plan(1920, 1080, Tiling(indicators=Indicators(indicators), overview=Overview(overview)))
    assert written(layout, 4) == text


def test_indicators_of_an_unsplit_picture() -> None:
    alone = [plan(9, 9, Tiling(rule="none", indicators=kind)) for kind in Indicators]
    assert [written(layout, 1) for layout in alone] == ["#", "(1,1,1)#", "#"]


def test_tiling_takes_a_recipe_and_refuses_nonsense() -> None:
    assert Tiling(**Picture().model_dump()) == Tiling()
    tiling = Tiling(**Picture(rule="budget", overview="before", indicators="seps", tile=64).model_dump())
    assert (tiling.rule, tiling.overview, tiling.indicators) == (Rule.BUDGET, Overview.BEFORE, Indicators.SEPS)
    refused = [
        ({"rule": "llava"}, "mm15, budget, static, none"),
        ({"overview": "left"}, "after, before"),
        ({"indicators": True}, "none, index, seps"),
        ({"tile": 0}, "tile=0"),
        ({"min_tiles": 0}, "min_tiles=0"),
        ({"max_tiles": 3}, "min_tiles=4 and max_tiles=3"),
        ({"max_tiles": 10**9}, "1024"),
        ({"split_below": -1}, "split_below=-1"),
    ]
    for settings, words in refused:
        with pytest.raises(UserError, match=words):
            Tiling(**settings)


def test_sizes_that_make_no_sense() -> None:
    for w, h in [(0, 0), (0, 5), (5, 0), (-3, 5)]:
        with pytest.raises(UserError, match=f"{w}x{h}"):
            choose_grid(w, h)
    with pytest.raises(UserError, match="max_tiles"):
        choose_grid(5, 5, min_tiles=5, max_tiles=4)
    with pytest.raises(UserError, match="lower tile or max_tiles"):
        plan(10, 10, Tiling(tile=40_000))
    with pytest.raises(TypeError):
        choose_grid(5.5, 5)  # type: ignore[arg-type]
    for w, h in [(100_000, 1), (1, 100_000), (0, 7), (2010, 10)]:
        with pytest.raises(UserError, match=f"{w}x{h}") as caught:
            explain(w, h, Tiling())
        assert "\n" not in str(caught.value)
    assert explain(2000, 10, Tiling())["rows"] == 1


def test_explain() -> None:
    answer = explain(640, 480, Tiling())
    assert json.loads(json.dumps(answer)) == answer
    assert {
        key: answer[key] for key in ("rows", "cols", "tiles", "scale", "resized", "padding", "downscaled", "rule")
    } == {
        "rows": 2,
        "cols": 2,
        "tiles": 5,
        "scale": 2.1,
        "resized": [1344, 1008],
        "padding": 0.25,
        "downscaled": False,
        "rule": "mm15",
    }
    assert [piece["kind"] for piece in answer["order"]] == ["tile"] * 4 + ["overview"]
    assert answer["order"][3]["content"] == [0, 0, 672, 336]
    assert answer["order"][3]["source"] == [320, 320, 640, 480]
    assert set(answer["other_rules"]) == {"budget", "static", "none"}
    assert explain(640, 480, Tiling(), images=3)["rule"] == "none"
    page = explain(1700, 2200, Tiling())
    assert page["downscaled"] and page["kept"] == pytest.approx((2016 / 2200) ** 2, abs=1e-6)


def test_describe() -> None:
    assert describe(explain(1700, 2200, Tiling())).splitlines() == [
        "1700x2200 pixels -> 3x3 tiles of 672 + overview after them = 10 images (rule mm15)",
        "scaled down to 1558x2016 (x 0.916, 84% of its pixels kept); 23% of the canvas of 2016x2016 is padding",
        "other rules, rows x columns (images): budget 3x3 (10), static 2x2 (5), none 1x1 (1)",
    ]
    assert "not scaled" in describe(explain(128, 128, Tiling(tile=64)))
    assert "= 1 image (" in describe(explain(128, 64, Tiling(rule="none")))


def test_geometry_needs_neither_numpy_nor_pillow() -> None:
    code = (
        "import sys, mm15.image as i; i.explain(640, 480, i.Tiling()); "
        "sys.exit(' '.join(m for m in ('numpy', 'PIL', 'torch') if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_choosing_is_quick() -> None:
    started = time.perf_counter()
    for w, h in sizes(1000, 672, seed=5):
        choose_grid(w, h)
    assert time.perf_counter() - started < 0.5, "choose_grid takes more than half a millisecond"
