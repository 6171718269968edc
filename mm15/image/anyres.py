"""Which grid of tiles a picture is cut into, and where every pixel goes (dynamic image splitting, paper section 3.5).

    picture --scale, aspect kept--> resized --top left on a canvas of rows x cols tiles--> cut into tiles
            --scale, aspect kept--> resized --top left on one more tile--> the overview

Eq. (1), read literally: a grid's scale makes the picture's longer side fill the grid's extent along that side; the
grid is admissible only if the other side then fits. Among admissible grids that need no down-scaling the one with
least padding wins; if there is none, the one with least down-scaling. Ties: fewest tiles, then fewest rows. Integers
are compared, so no rounding decides. With m = min(cols * height, rows * width),

    scale = tile * m / (width * height)        padding = tile^2 * (rows * cols - m^2 / (width * height))

hold for every grid that the picture is fitted inside, and on an admissible grid filling and fitting inside agree.

The paper does not say where padding goes nor whether the overview is stretched. Here padding is always on the right and
below and the overview keeps the aspect ratio, so (0, 0) stays (0, 0) everywhere and every map is one factor per axis.

Pure functions, no numpy, no Pillow; a plan takes some ten microseconds and every map can be undone to 1e-9 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from operator import index as whole
from typing import Literal, TypeVar

from ..errors import UserError
from ..regions import Box

MOST_TILES = 1024
"""Largest `max_tiles`: far above any use, low enough that listing the grids takes milliseconds."""
MOST_CANVAS = 2**30
"""Largest number of pixels of all tiles of one picture together."""
LONGEST_ASPECT = 200
"""A picture's longer side may be this many times its shorter one; an overview of 672 then shows 3 pixels of that."""


class Rule(StrEnum):
    """How a grid is chosen."""

    MM15 = "mm15"
    """Eq. (1) of the paper."""
    BUDGET = "budget"
    """Fewest tiles that hold the picture without down-scaling, then least padding; if none does, as MM15. Ours."""
    STATIC = "static"
    """Always 2x2, as in the paper's ablations."""
    NONE = "none"
    """No splitting: one tile that holds the whole picture."""


class Overview(StrEnum):
    """Where the overview stands in the order of the pieces (paper Table 3)."""

    AFTER = "after"
    BEFORE = "before"


class Indicators(StrEnum):
    """Text that tells the model where a piece belongs (paper Table 3)."""

    NONE = "none"
    INDEX = "index"
    """``(k,i,j)`` before each piece: picture k from 0, row i and column j from 1; ``(k,0,0)`` is the overview."""
    SEPS = "seps"
    """``,`` between columns, ``<n>`` between rows, ``:`` between the tiles and the overview."""


@dataclass(frozen=True)
class Grid:
    """Rows and columns of tiles."""

    rows: int
    cols: int

    @property
    def tiles(self) -> int:
        """Number of tiles, without the overview."""
        return self.rows * self.cols


@dataclass(frozen=True)
class Piece:
    """One of the square images the encoder sees: a tile at `row`, `col` (from 0), or the overview."""

    kind: Literal["tile", "overview"]
    row: int = 0
    col: int = 0


_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut; the fields are those of a recipe's `picture` block. Strings become enums.

    Raises UserError for values that make no sense.
    """

    tile: int = 672
    rule: Rule = Rule.MM15
    min_tiles: int = 4
    max_tiles: int = 9
    overview: Overview = Overview.AFTER
    indicators: Indicators = Indicators.NONE
    split_below: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", _choice(Rule, self.rule, "rule"))
        object.__setattr__(self, "overview", _choice(Overview, self.overview, "overview"))
        object.__setattr__(self, "indicators", _choice(Indicators, self.indicators, "indicators"))
        _check_range(self.tile, self.min_tiles, self.max_tiles)
        if self.split_below < 0:
            raise UserError(
                f"split_below={self.split_below}: give the number of pictures from which none is split, 0 or more"
            )


@dataclass(frozen=True)
class Layout:
    """How one picture of `width` x `height` pixels becomes pieces; made by `plan`.

    Three places, all with x to the right and y down and (0, 0) the top left corner: the original picture, the canvas
    (the grid's tiles side by side) and a piece. The maps are linear, so they also take points of the padding.
    """

    width: int
    height: int
    tile: int
    grid: Grid
    rule: Rule = Rule.MM15
    overview: Overview = Overview.AFTER
    indicators: Indicators = Indicators.NONE

    @property
    def scale(self) -> float:
        """Canvas pixels per picture pixel; below 1 the picture was scaled down."""
        return self.tile * _fill(self.grid, self.width, self.height) / (self.width * self.height)

    @property
    def downscaled(self) -> bool:
        """Whether the canvas holds fewer pixels than the picture (decided exactly)."""
        return not _covers(self.grid, self.width, self.height, self.tile)

    @property
    def offset(self) -> tuple[int, int]:
        """Where the picture starts on its canvas, (x, y): always the top left corner."""
        return (0, 0)

    @property
    def canvas(self) -> tuple[int, int]:
        """Width and height of all tiles side by side."""
        return (self.grid.cols * self.tile, self.grid.rows * self.tile)

    @cached_property
    def resized(self) -> tuple[int, int]:
        """Width and height of the picture on its canvas: whole pixels, at least one."""
        return _resized(self.grid, self.width, self.height, self.tile)

    @cached_property
    def overview_resized(self) -> tuple[int, int]:
        """Width and height of the picture on the overview."""
        return _resized(Grid(1, 1), self.width, self.height, self.tile)

    @property
    def padding(self) -> float:
        """Share of the canvas that is not picture, 0 to 1."""
        across, down = self.resized
        return 1 - across * down / (self.canvas[0] * self.canvas[1])

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces in the order the model reads them: tiles row by row, the overview after or before them.

        A 1x1 grid has no overview, because it would be the same image again.
        """
        tiles = tuple(Piece("tile", row, col) for row in range(self.grid.rows) for col in range(self.grid.cols))
        if len(tiles) == 1:
            return tiles
        whole_picture = (Piece("overview"),)
        return whole_picture + tiles if self.overview is Overview.BEFORE else tiles + whole_picture

    @property
    def n_tiles(self) -> int:
        """Number of pieces, the overview included: what the encoder is paid for."""
        return len(self.pieces)

    @property
    def first_tile(self) -> int:
        """Number of the piece at row 0, column 0."""
        return int(self.pieces[0].kind == "overview")

    @property
    def overview_piece(self) -> int | None:
        """Number of the overview among the pieces; None when there is none."""
        if len(self.pieces) == 1:
            return None
        return 0 if self.overview is Overview.BEFORE else len(self.pieces) - 1

    def to_canvas(self, x: float, y: float) -> tuple[float, float]:
        """A point of the picture as a point of the canvas."""
        return (x * self.resized[0] / self.width, y * self.resized[1] / self.height)

    def from_canvas(self, x: float, y: float) -> tuple[float, float]:
        """A point of the canvas as a point of the picture; points of the padding land outside the picture."""
        return (x * self.width / self.resized[0], y * self.height / self.resized[1])

    def to_tile(self, x: float, y: float, *, piece: int | None = None) -> tuple[int, float, float]:
        """A point of the picture as (number of the piece, x, y in that piece).

        Without `piece` it is the tile that shows the point: tiles own their left and top edge, and the picture's right
        and bottom edge belong to the last tiles that show any of it. With `piece` (the overview, or another tile) the
        point may come out beyond that piece. Raises ValueError for points outside the picture.
        """
        if not (0 <= x <= self.width and 0 <= y <= self.height):
            raise ValueError(f"point ({x}, {y}) lies outside the picture of {self.width}x{self.height} pixels")
        across, down = self.to_canvas(x, y)
        if piece is None:
            col = min(int(across // self.tile), (self.resized[0] - 1) // self.tile)
            row = min(int(down // self.tile), (self.resized[1] - 1) // self.tile)
            piece = self.first_tile + row * self.grid.cols + col
        place = self.pieces[piece]
        if place.kind == "overview":
            return (piece, x * self.overview_resized[0] / self.width, y * self.overview_resized[1] / self.height)
        return (piece, across - place.col * self.tile, down - place.row * self.tile)

    def from_tile(self, piece: int, x: float, y: float) -> tuple[float, float]:
        """A point of a piece as a point of the picture; points of the padding land outside the picture."""
        place = self.pieces[piece]
        if place.kind == "overview":
            return (x * self.width / self.overview_resized[0], y * self.height / self.overview_resized[1])
        return self.from_canvas(x + place.col * self.tile, y + place.row * self.tile)

    def content_box(self, piece: int) -> Box:
        """The part of a piece that is picture, in whole pixels of the piece; the rest is padding.

        Its area is 0 for a tile of padding alone, which exists only where the range allows no tighter grid.
        """
        place = self.pieces[piece]
        across, down = self.overview_resized if place.kind == "overview" else self.resized
        across, down = across - place.col * self.tile, down - place.row * self.tile
        if across <= 0 or down <= 0:
            return Box(0, 0, 0, 0)
        return Box(0, 0, min(across, self.tile), min(down, self.tile))

    def source_box(self, piece: int) -> Box:
        """The part of the picture that a piece shows, in pixels of the picture; area 0 for a tile of padding alone."""
        content = self.content_box(piece)
        if not content.area:
            return Box(0, 0, 0, 0)
        return Box(*self.from_tile(piece, content.x1, content.y1), *self.from_tile(piece, content.x2, content.y2))


def choose_grid(
    width: int, height: int, *, tile: int = 672, min_tiles: int = 4, max_tiles: int = 9, rule: Rule | str = Rule.MM15
) -> Grid:
    """The grid of `min_tiles` to `max_tiles` tiles of `tile` pixels for a picture of `width` x `height` pixels.

    Works for every size; `check_size` is what refuses strips. Raises UserError for sides below 1 and impossible ranges.
    """
    width, height, rule = whole(width), whole(height), _choice(Rule, rule, "rule")
    if width < 1 or height < 1:
        raise UserError(f"a picture of {width}x{height} pixels cannot be cut into tiles; both sides must be 1 or more")
    _check_range(tile, min_tiles, max_tiles)
    if rule is Rule.NONE:
        return Grid(1, 1)
    if rule is Rule.STATIC:
        return Grid(2, 2)
    grids = grids_between(min_tiles, max_tiles)
    holding = [grid for grid in grids if _covers(grid, width, height, tile)]
    if rule is Rule.BUDGET and holding:
        return min(holding, key=lambda grid: (grid.tiles, _padding(grid, width, height), grid.rows))
    covering = [grid for grid in holding if _admissible(grid, width, height)]
    if covering:
        return min(covering, key=lambda grid: (_padding(grid, width, height), grid.tiles, grid.rows))
    admissible = [grid for grid in grids if _admissible(grid, width, height)]
    return min(admissible, key=lambda grid: (-_fill(grid, width, height), grid.tiles, grid.rows))


def plan(width: int, height: int, tiling: Tiling, *, images: int = 1) -> Layout:
    """The layout of a picture in a sample of `images` pictures; from `tiling.split_below` pictures on none is split.

    Raises UserError for sides below 1 and for tilings that would need more than 2^30 pixels.
    """
    rule = tiling.rule if images < tiling.split_below else Rule.NONE
    grid = choose_grid(
        width, height, tile=tiling.tile, min_tiles=tiling.min_tiles, max_tiles=tiling.max_tiles, rule=rule
    )
    if (grid.tiles + 1) * tiling.tile**2 > MOST_CANVAS:
        raise UserError(
            f"{grid.rows}x{grid.cols} tiles of {tiling.tile} pixels are more than {MOST_CANVAS} pixels in all; "
            "lower tile or max_tiles"
        )
    return Layout(whole(width), whole(height), tiling.tile, grid, rule, tiling.overview, tiling.indicators)


@lru_cache(maxsize=64)
def grids_between(min_tiles: int, max_tiles: int) -> tuple[Grid, ...]:
    """Every grid of `min_tiles` to `max_tiles` tiles: 18 for 4..9, 45 for 4..16."""
    return tuple(
        Grid(rows, cols)
        for rows in range(1, max_tiles + 1)
        for cols in range(-(-min_tiles // rows), max_tiles // rows + 1)
    )


def check_size(width: int, height: int, where: str) -> None:
    """Raise UserError, naming `where`, for an empty picture and for a strip too thin to be worth tiles."""
    if width < 1 or height < 1:
        raise UserError(f"{where}: the picture is {width}x{height} pixels; it is empty, so give another one")
    if max(width, height) > LONGEST_ASPECT * min(width, height):
        raise UserError(
            f"{where}: the picture is {width}x{height} pixels; its longer side may be at most {LONGEST_ASPECT} times "
            "its shorter one, so crop it or cut it into pieces"
        )


def indicator_text(layout: Layout, piece_index: int, image_index: int) -> tuple[str, str]:
    """The text before and after the tokens of a piece of picture `image_index` (from 0), by `layout.indicators`.

    The single tile of an unsplit picture is row 1, column 1 in `index` and has no separators.
    """
    piece = layout.pieces[piece_index]
    if layout.indicators is Indicators.INDEX:
        place = (0, 0) if piece.kind == "overview" else (piece.row + 1, piece.col + 1)
        return (f"({image_index},{place[0]},{place[1]})", "")
    if layout.indicators is Indicators.NONE:
        return ("", "")
    if piece.kind == "overview":
        return ("", ":") if layout.overview is Overview.BEFORE else (":", "")
    if piece.col < layout.grid.cols - 1:
        return ("", ",")
    return ("", "<n>" if piece.row < layout.grid.rows - 1 else "")


def _fill(grid: Grid, width: int, height: int) -> int:
    """m of the module's formulas: the scale at which the picture fits inside the grid, times width * height / tile."""
    return min(grid.cols * height, grid.rows * width)


def _covers(grid: Grid, width: int, height: int, tile: int) -> bool:
    """Whether the picture fits inside the grid without down-scaling."""
    return grid.cols * tile >= width and grid.rows * tile >= height


def _admissible(grid: Grid, width: int, height: int) -> bool:
    """Whether the picture fits when its longer side fills the grid; both sides of a square are its longer one."""
    if width > height:
        return grid.cols * height <= grid.rows * width
    if height > width:
        return grid.rows * width <= grid.cols * height
    return True


def _padding(grid: Grid, width: int, height: int) -> int:
    """Padded area times width * height / tile^2."""
    return grid.tiles * width * height - _fill(grid, width, height) ** 2


def _resized(grid: Grid, width: int, height: int, tile: int) -> tuple[int, int]:
    """The size of a picture fitted inside a grid, rounded half up: width * scale is tile * m / height."""
    reach = 2 * tile * _fill(grid, width, height)
    return (max(1, (reach + height) // (2 * height)), max(1, (reach + width) // (2 * width)))


def _check_range(tile: int, min_tiles: int, max_tiles: int) -> None:
    if tile < 1:
        raise UserError(f"tile={tile}: a tile is 1 pixel or more on a side")
    if not 1 <= min_tiles <= max_tiles:
        raise UserError(f"min_tiles={min_tiles} and max_tiles={max_tiles} need 1 <= min_tiles <= max_tiles")
    if max_tiles > MOST_TILES:
        raise UserError(f"max_tiles={max_tiles}: at most {MOST_TILES} tiles are supported")


def _choice(kind: type[_Choice], value: str, name: str) -> _Choice:
    try:
        return kind(value)
    except ValueError:
        raise UserError(f"{name}={value!r}: choose one of {', '.join(kind)}") from None
