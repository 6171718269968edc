"""PDFs to pages: every box lies on its ink, the order is that of reading, and what cannot be used says why."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from papers import HEIGHT, WIDTH, ink, plain, typeset

from mm15.corpora.pdf.document import Page, load_page, open_pdf, read_page
from mm15.corpora.pdf.figures import find_figures
from mm15.corpora.pdf.layout import arrange
from mm15.errors import UserError

LONG = 1190
"""Twice the height of a test page, so that a point is two pixels."""
APART = [("Hello", 50, 500, 12), ("gypsum", 200, 420, 24), ("(x)", 330, 100, 9), ("Quartz", 60, 60, 40)]


def pages(path: Path, *, long_side: int = LONG) -> list[Page]:
    """All pages of a file, read."""
    document = open_pdf(path)
    return [read_page(load_page(document, i), long_side=long_side) for i in range(len(document))]


def ink_box(page: Page, near: tuple[float, float, float, float], margin: int = 8) -> tuple[int, int, int, int]:
    """Around the dark pixels of a place and a margin."""
    x1, y1, x2, y2 = (round(v + d) for v, d in zip(near, (-margin, -margin, margin, margin), strict=True))
    dark = (page.pixels[max(y1, 0) : y2, max(x1, 0) : x2] < 160).any(axis=2)
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    left, top = max(x1, 0), max(y1, 0)
    return left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four words far apart."""
    return typeset([APART], tmp_path_factory.mktemp("pdf") / "apart.pdf")


def changed(path: Path, out: Path, *, rotation: int = 0, crop: tuple[float, ...] | None = None) -> Path:
    """The PDF with its first page turned or cropped, as other programs do it: by the page's attributes."""
    import pypdfium2

    document = pypdfium2.PdfDocument(path)
    document[0].set_rotation(rotation)
    if crop:
        document[0].set_cropbox(*crop)
    document.save(out)
    document.close()
    return out


def test_boxes_are_where_the_outlines_were_set(apart: Path) -> None:
    """Against matplotlib's glyph paths, mapped by hand: two pixels a point, y from above."""
    (page,) = pages(apart)
    assert page.size == (840, 1190)
    assert [word.text for word in page.words] == [text for text, *_ in APART]
    for word, (text, x, y, points) in zip(page.words, APART, strict=True):
        left, bottom, right, top = ink(text, x, y, points)
        by_hand = (2 * left, 2 * (HEIGHT - top), 2 * right, 2 * (HEIGHT - bottom))
        assert tuple(word.box) == pytest.approx(by_hand, abs=1.0), text
        assert word.upright and word.readable


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("crop", [None, (40.0, 30.0, 400.0, 560.0)])
def test_boxes_are_where_the_ink_is(apart: Path, tmp_path: Path, rotation: int, crop: tuple[float, ...] | None) -> None:
    """On turned and cropped pages, by the pixels alone; turned words are known to be turned."""
    (page,) = pages(changed(apart, tmp_path / "changed.pdf", rotation=rotation, crop=crop))
    wide, high = (crop[2] - crop[0], crop[3] - crop[1]) if crop else (WIDTH, HEIGHT)
    wide, high = (wide, high) if rotation % 180 == 0 else (high, wide)
    assert max(page.size) == LONG and page.size[0] / page.size[1] == pytest.approx(wide / high, rel=2e-3)
    assert len(page.words) == len(APART)
    for word in page.words:
        assert tuple(word.box) == pytest.approx(ink_box(page, tuple(word.box)), abs=1.5), word.text
        assert word.upright == (rotation == 0)


def test_the_page_may_be_turned_to_bring_its_text_upright(tmp_path: Path) -> None:
    """A landscape page as many programs write it: sideways on a portrait page that is shown turned."""
    written = typeset([[("Sideways", 200, 200, 20, {"rotation": 90})]], tmp_path / "side.pdf")
    (before,) = pages(written)
    (after,) = pages(changed(written, tmp_path / "turned.pdf", rotation=90))
    assert (before.words[0].upright, after.words[0].upright) == (False, True)
    assert tuple(after.words[0].box) == pytest.approx(ink_box(after, tuple(after.words[0].box)), abs=1.5)


def test_words_are_written_as_they_are_printed(tmp_path: Path) -> None:
    (page,) = pages(
        typeset(
            [
                [
                    ("An of\ufb01ce  wide", 50, 500, 12),
                    ("a hyphen-", 50, 450, 12),
                    ("ated word", 50, 436, 12),
                    ("unseen", 50, 400, 12, {"color": "white"}),
                    ("tiny", 50, 350, 2.5),
                    ("red", 50, 300, 12, {"color": "red"}),
                    ("\u2014", 50, 270, 30),
                    ("outside", 415, 250, 12),
                    ("\u05e9\u05dc\u05d5\u05dd", 50, 200, 12),
                ]
            ],
            tmp_path / "words.pdf",
        )
    )
    words = {word.text: word for word in page.words}
    assert list(words)[:8] == ["An", "office", "wide", "a", "hyphen-", "ated", "word", "tiny"]
    assert words["hyphen-"].hyphenated and not words["ated"].hyphenated
    assert "unseen" not in words and page.hidden == 1
    assert not words["tiny"].readable and words["red"].readable
    assert "outside" not in words and "\u2014" in words
    assert not words["\u05e9\u05dc\u05d5\u05dd"].readable  # right to left


def text_of(page: Page) -> list[str]:
    """Its lines in reading order."""
    return [line.text for paragraph in arrange(page.words) for line in paragraph]


LEFT = [f"left column line {i} goes on" for i in range(8)]
RIGHT = [f"right column line {i} as well" for i in range(8)]


def test_two_columns_are_read_one_after_the_other(tmp_path: Path) -> None:
    """Drawn row by row, so that the order of the file is the wrong one."""
    drawn = [("Title across both of the columns of this page", 60, 540, 14)]
    for i in range(8):
        drawn += [(RIGHT[i], 225, 500 - 14 * i, 10), (LEFT[i], 40, 500 - 14 * i, 10)]
    drawn += [("A wide line that parts what is above from below it", 60, 370, 11), ("7", 208, 30, 10)]
    (page,) = pages(typeset([drawn], tmp_path / "columns.pdf"))
    title, wide = drawn[0][0], drawn[-2][0]
    assert text_of(page) == [title, *LEFT, *RIGHT, wide, "7"]


@pytest.mark.parametrize("columns", [2, 3])
def test_tables_are_read_row_by_row(tmp_path: Path, columns: int) -> None:
    """Though the file has them column by column."""
    rows = [(f"Name {i}", f"{i * 37 % 100}", f"{i}.50")[:columns] for i in range(9)]
    drawn = [(row[c], 50 + 120 * c, 500 - 16 * r, 10) for c in range(columns) for r, row in enumerate(rows)]
    (page,) = pages(typeset([drawn], tmp_path / "table.pdf"))
    assert text_of(page) == [" ".join(row) for row in rows]


def test_paragraphs_end_at_space_and_indents(tmp_path: Path) -> None:
    lines = ["first paragraph of", "the whole page", "second by its indent", "goes on here", "third by space"]
    places = [(40, 500), (40, 486), (52, 472), (40, 458), (40, 424)]
    drawn = [(text, x, y, 10) for text, (x, y) in zip(lines, places, strict=True)]
    (page,) = pages(typeset([drawn], tmp_path / "paragraphs.pdf"))
    assert [[line.text for line in p] for p in arrange(page.words)] == [lines[:2], lines[2:4], lines[4:]]


def test_arranging_keeps_every_word(apart: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = [(f"w{i}", *rng.uniform((20, 20), (380, 560)), rng.uniform(5, 20)) for i in range(150)]
    drawn += [("turned", 100, 100, 12, {"rotation": 90})]
    (page,) = pages(typeset([drawn], tmp_path / "chaos.pdf"))
    arranged = [word for paragraph in arrange(page.words) for line in paragraph for word in line.words]
    assert sorted(map(id, arranged)) == sorted(map(id, page.words))
    assert arranged[-1].text == "turned"


def test_figures_are_found_where_they_are(tmp_path: Path) -> None:
    dots = np.zeros((50, 50, 3), np.uint8)
    path = typeset([[("Above it", 60, 500, 12), (dots, 60, 300), ("below", 60, 250, 12)]], tmp_path / "figure.pdf")
    page = load_page(open_pdf(path), 0)
    (figure,) = find_figures(page, (840, 1190))
    assert tuple(figure) == pytest.approx((120, 2 * (595 - 400), 320, 2 * (595 - 300)), abs=2)
    assert not find_figures(load_page(open_pdf(typeset([APART], tmp_path / "none.pdf")), 0), (840, 1190))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a PDF"),
        (b"<html>no paper</html>", "not a PDF"),
        (plain(["BT ET"])[:120], "not a PDF"),
        (plain([]), "not a PDF that can be read, or without pages"),
        (
            plain(
                ["BT ET"], trailer=f"/Encrypt <</Filter /Standard /V 1 /R 2 /O <{'41' * 32}> /U <{'42' * 32}> /P -4>>"
            ),
            "needs a password",
        ),
    ],
)
def test_files_that_cannot_be_opened_say_why(tmp_path: Path, content: bytes, why: str) -> None:
    """Whatever was opened before: pdfium repeats its last complaint for some files."""
    (tmp_path / "locked.pdf").write_bytes(
        plain(["BT ET"], trailer="/Encrypt <</Filter /Standard /V 1 /R 2 /O () /U ()>>")
    )
    (tmp_path / "a.pdf").write_bytes(content)
    with pytest.raises(UserError):
        open_pdf(tmp_path / "locked.pdf")
    with pytest.raises(UserError, match=why):
        open_pdf(tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("box", "why"), [("0 0 3000 10", "strip"), ("0 0 14400 14400", ""), ("0 0 3 3", ""), ("0 0 1000000 900000", "")]
)
def test_pages_of_any_size(tmp_path: Path, box: str, why: str) -> None:
    (tmp_path / "a.pdf").write_bytes(plain(["BT /F 1 Tf 1 1 Td (x) Tj ET"], box=box))
    if why:
        with pytest.raises(UserError, match=why):
            pages(tmp_path / "a.pdf")
    else:
        (page,) = pages(tmp_path / "a.pdf")
        assert max(page.size) == LONG and math.isfinite(sum(map(sum, (word.box for word in page.words))))
