"""A folder of PDFs to samples: every question's answer is on its page, every file and page is used or counted."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from papers import plain, typeset
from PIL import Image as PILImage
from same import assert_same

from mm15.corpora.build import Made
from mm15.corpora.pdf import TASKS, Choice, PdfBuilder, look_through
from mm15.corpora.pdf.tasks import GROUND, READ, REFER
from mm15.data.sources import open_source
from mm15.errors import UserError
from mm15.recipe import WebDatasetSource
from mm15.regions import Box, Region
from mm15.sample import Image, Role, Sample

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "islet", "jetty", "kiosk", "ledge"]


def page_of_text(number: int) -> list[tuple]:
    """Twelve lines of words, most of which return, and two that do not."""
    rng = np.random.default_rng(number)
    lines = [" ".join(rng.choice(WORDS, 5)) for _ in range(12)]
    lines[3] += f" unique{number}"
    lines[7] += " Sole-page"
    drawn = [(line, 40, 540 - 18 * i - (20 if i > 5 else 0), 10) for i, line in enumerate(lines)]
    return [*drawn, (str(number), 205, 30, 9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven good files, and one of each kind of bad ones."""
    root = tmp_path_factory.mktemp("pdfs")
    (root / "deep").mkdir()
    for i in range(9):
        typeset([page_of_text(10 * i + k) for k in range(2)], root / f"good{i}.pdf")
    dots = np.random.default_rng(1).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    story = [("It begins with a pic-", 60, 500, 12), ("ture to look at", 60, 486, 12), (dots, 60, 300)]
    story += [("and ends below it.", 60, 250, 12)]
    typeset([story, page_of_text(99)], root / "deep" / "story.PDF")
    stamps = [("DRAFT", x, y, 16, {"rotation": 40, "color": "grey"}) for x, y in ((60, 440), (130, 520), (90, 480))]
    typeset([[*page_of_text(200 + i), *stamps] for i in range(4)], root / "draft.pdf")
    shutil.copy(root / "good1.pdf", root / "twin.pdf")
    (root / "torn.pdf").write_bytes((root / "good1.pdf").read_bytes()[:2000])
    (root / "notes.txt").write_text("not looked at")
    pages = [
        "",
        "0 0 0 rg 100 100 200 200 re f",
        "BT /F 12 Tf 1 1 1 rg 50 500 Td (white on white) Tj ET",
        "BT /F 12 Tf 0 1 -1 0 50 50 Tm (all of it runs up the page) Tj ET",
        "BT /F 2 Tf 50 500 Td (much too small to be read) Tj ET",
        "BT /F 12 Tf 50 500 Td (one good page) Tj ET",
    ]
    (root / "poor.pdf").write_bytes(plain(pages))
    return root


def builder_of(folder: Path, *tasks: str, **changes: object) -> PdfBuilder:
    choice = Choice(tasks=tasks or TASKS, seed=changes.pop("seed", 0))  # type: ignore[arg-type]
    return PdfBuilder(folder, look_through(folder, workers=0), choice, 700, **changes)  # type: ignore[arg-type]


def made(builder: PdfBuilder) -> Made:
    """All items of a builder in one."""
    parts = [builder.make(item) for item in builder.items()]
    return Made([s for part in parts for s in part.samples], [k for part in parts for k in part.skipped])


@pytest.fixture(scope="module")
def everything(folder: Path) -> Made:
    return made(builder_of(folder))


def turns(sample: Sample) -> Iterator[tuple[list, list]]:
    """Question and answer of each turn."""
    asked: list = []
    for part in sample.parts:
        if part.role is Role.USER:
            asked = [] if asked and asked[-1] is None else asked
            asked.append(part.content)
        else:
            yield [c for c in asked if c is not None], [part.content]
            asked = [None]


def test_every_file_and_page_is_used_or_counted(folder: Path, everything: Made) -> None:
    told = {skip.what: skip.reason for skip in everything.skipped}
    assert told == {
        "torn.pdf": "not a PDF that can be read, or without pages",
        "twin.pdf": "has the content of another file",
        "poor.pdf page 1": "an empty page",
        "poor.pdf page 2": "no text layer (a picture or a scan)",
        "poor.pdf page 3": "text that is not seen",
        "poor.pdf page 4": "text that runs sideways",
        "poor.pdf page 5": "text that is too small or has unknown letters",
    }
    pages = {(s.meta["file"], s.meta["page"]) for s in everything.samples}
    assert len(pages) == 9 * 2 + 4 + 2 + 1
    assert len({s.id for s in everything.samples}) == len(everything.samples)
    assert {s.meta["task"] for s in everything.samples} == {*TASKS, "refer-ground"} - {"refer", "ground"}


def test_pages_are_read_line_by_line(everything: Made) -> None:
    """Against the lines as they were drawn."""
    whole = [s for s in everything.samples if s.meta["task"] in ("ocr", "read") and "good" in s.meta["file"]]
    assert {s.meta["task"] for s in whole} == {"ocr", "read"} and len(whole) == 18
    for sample in whole:
        number = 10 * int(sample.meta["file"][4]) + sample.meta["page"] - 1
        drawn = [line for line, *_ in page_of_text(number)]
        assert sample.parts[-1].content == "\n".join(drawn) and sample.parts[-1].target
        assert [word[0] for word in sample.meta["words"]] == " ".join(drawn).split()
        assert (sample.parts[1].content in READ) == (sample.meta["task"] == "read")
        assert PILImage.open(io.BytesIO(sample.images[0].data)).size == (495, 700)
    assert len({s.parts[1].content for s in whole if s.meta["task"] == "read"}) > 2


def words_in(box: Box, words: list[list]) -> list[str]:
    """The words of a page whose middle is in the box, in the order of the page."""
    return [t for t, x1, y1, x2, y2 in words if box.x1 <= (x1 + x2) / 2 <= box.x2 and box.y1 <= (y1 + y2) / 2 <= box.y2]


def test_answers_about_places_are_true(everything: Made) -> None:
    """Against the words and boxes of the page: a place holds exactly the words of the answer, and words that are
    looked for are nowhere else."""
    of_page = {(s.meta["file"], s.meta["page"]): s.meta["words"] for s in everything.samples if "words" in s.meta}
    kinds, wordings = set(), set()
    for sample in everything.samples:
        if sample.meta["task"] != "refer-ground":
            continue
        words = of_page[sample.meta["file"], sample.meta["page"]]
        text = " ".join(word[0] for word in words).casefold()
        boxes = []
        for i, (question, (answer,)) in enumerate(turns(sample)):
            assert isinstance(question[0], Image) == (i == 0)
            question = question[i == 0 :]
            if isinstance(answer, Region):
                said = next(g.split("{}") for g in GROUND if question[0].startswith(g.split("{}")[0]))
                sought = question[0].removeprefix(said[0]).rpartition('"')[0]
                assert sought == answer.label and text.count(sought.casefold()) == 1
                assert sought in " ".join(words_in(answer.shape, words))
                boxes.append(answer.shape)
                wordings.add(said[0])
            else:
                assert question[0] in dict(REFER)
                assert words_in(question[1].shape, words) == answer.split()
                kinds.add("word" if " " not in answer else "paragraph" if "\n" in answer else "line")
                boxes.append(question[1].shape)
                wordings.add(question[0])
        assert len(boxes) == len(set(boxes)) > 0
    assert kinds == {"word", "line", "paragraph"} and len(wordings) > 6


def test_cuts_show_their_words(everything: Made) -> None:
    """The cut holds all ink of its words and little else: nothing dark on its edges."""
    cuts = [s for s in everything.samples if s.meta["task"] in ("words", "lines") and "good" in s.meta["file"]]
    assert len(cuts) == 18 * 16
    clean = 0
    for sample in cuts:
        pixels = np.asarray(PILImage.open(io.BytesIO(sample.images[0].data)).convert("L"))
        x1, y1, x2, y2 = sample.meta["box"]
        assert pixels.shape == (y2 - y1, x2 - x1)
        assert pixels.min() < 100
        edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        clean += edges.min() > 150
        assert (" " in sample.parts[-1].content) <= (sample.meta["task"] == "lines")
    assert clean > 0.95 * len(cuts)


def test_interleaved_documents_have_text_around_their_figures(everything: Made) -> None:
    (story,) = [s for s in everything.samples if s.meta["task"] == "interleaved"]
    before, figure, after = [part.content for part in story.parts][:3]
    assert before == "It begins with a picture to look at" and after.startswith("and ends below it.")
    assert [part.target for part in story.parts] == [True, False, True]
    assert "unique99" in after  # of the next page
    pixels = np.asarray(PILImage.open(io.BytesIO(figure.data)))
    assert abs(pixels.shape[0] - 100 * 700 / 595) < 3 and pixels.std() > 30


def test_choices_depend_on_the_seed_and_nothing_else(folder: Path, everything: Made) -> None:
    again, other = made(builder_of(folder)), made(builder_of(folder, seed=1))
    for one, same in zip(again.samples, everything.samples, strict=True):
        assert_same(one, same)
        assert (one.id, one.meta) == (same.id, same.meta)
    assert [s.parts[-1] for s in other.samples] != [s.parts[-1] for s in everything.samples]
    only = made(builder_of(folder, "ground"))
    assert {s.meta["task"] for s in only.samples} == {"ground"}


def test_pages_with_one_content_are_asked_differently(tmp_path: Path) -> None:
    (tmp_path / "same.pdf").write_bytes(plain(["BT /F 12 Tf 50 500 Td (some words that return) Tj ET"] * 12))
    samples = made(builder_of(tmp_path, "ocr", "read", "ground")).samples
    assert {s.meta["task"] for s in samples} == {"ocr", "read", "ground"}
    assert len({s.parts[1].content for s in samples if s.meta["task"] == "ground"}) > 3


def test_heldout_files_are_never_trained_on(folder: Path) -> None:
    everything = {item["file"] for item in builder_of(folder).items()}
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        train, held = (
            {item["file"] for item in builder_of(folder, heldout=share, split=split).items()}
            for split in ("train", "heldout")
        )
        assert not train & held and train | held == everything
        assert {"good1.pdf", "twin.pdf"} <= train or {"good1.pdf", "twin.pdf"} <= held


def test_large_files_are_taken_in_chunks(tmp_path: Path) -> None:
    (tmp_path / "large.pdf").write_bytes(plain([f"BT /F 12 Tf 50 500 Td (Page {i}) Tj ET" for i in range(10_000)]))
    items = builder_of(tmp_path, "ocr").items()
    assert len(items) == 625
    assert [item["pages"] for item in (items[0], items[-1])] == [[1, 16], [9985, 10_000]]
    sample = builder_of(tmp_path, "ocr").make(items[-1]).samples[-1]
    assert sample.parts[-1].content == "Page 9999"
    few = [builder_of(tmp_path, "ocr", pages_per_file=20, seed=seed).items() for seed in (0, 1)]
    for taken in few:
        (first, middle), (begin, last) = taken[0]["pages"], taken[1]["pages"]
        assert (middle - first, begin - middle, last - begin) == (15, 1, 3) and first >= 1 and last <= 10_000
    assert few[0] != few[1]


def test_folders_without_pdfs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        look_through(tmp_path / "none")
    with pytest.raises(UserError, match=r"holds no \.pdf files"):
        look_through(tmp_path)


def test_the_command_builds_what_a_processor_takes(folder: Path, tmp_path: Path, mm15_command) -> None:
    out = tmp_path / "corpus"
    words = ("data", "build", "pdf", folder, "--out", out, "--heldout", "0.3", "--long-side", "700", "--workers", "1")
    done = mm15_command(*words)
    assert done.returncode == 0, done.stderr
    block = f'  pages: {{format: "webdataset", path: "{out}/train/*.tar", layout: "mm15"}}'
    assert done.stdout.splitlines()[-1] == block
    assert "not a PDF that can be read" in done.stdout
    told = json.loads(mm15_command(*words, "--json").stdout)  # finished: nothing is made again
    assert told["parts"]["train"]["samples"] > 10 < 60 and told["parts"]["heldout"]["samples"] > 0
    read = open_source(WebDatasetSource(format="webdataset", path=f"{out}/train/*.tar"), "pages")
    assert len(read) == told["parts"]["train"]["samples"]
    assert any(isinstance(part.content, Region) for i in range(len(read)) for part in read[i].parts)
    for wrong, hint in [(("--tasks", "reed"), "did you mean 'read'"), (("--tasks", ","), "empty")]:
        refused = mm15_command("data", "build", "pdf", folder, "--out", tmp_path / "no", *wrong)
        assert refused.returncode == 2 and hint in refused.stderr and not (tmp_path / "no").exists()
    other = mm15_command(*words, "--seed", "1")
    assert other.returncode == 2 and "settings.seed=0" in other.stderr
