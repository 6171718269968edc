"""Rendered text: what stands in the picture is what the answer says, where it says, and can be read."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from mm15.corpora import fonts
from mm15.corpora.build import build
from mm15.corpora.fonts import Face, find_fonts, needs_shaping, unwritable, why_not
from mm15.corpora.text import Distortion, Ground, Layout, TextBuilder, TextSettings, ground, typeset
from mm15.corpora.text.distort import hull, moved, projection
from mm15.corpora.text.passages import invent, join, read_passages, words
from mm15.errors import UserError
from mm15.regions import Box, Region
from mm15.sample import Sample
from mm15.world.dice import Dice, entropy

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
PLAIN: dict[str, Any] = {"grounds": (Ground.PLAIN,), "distortions": (), "system_fonts": False, "size": 400}
ARABIC, HEBREW, THAI = "مرحبا بالعالم", "שלום עולם", "สวัสดี"


def builder(**changes: Any) -> TextBuilder:
    return TextBuilder(TextSettings(**{"samples": 40, **PLAIN, **changes}))


def samples(made_by: TextBuilder, count: int = 40) -> list[Sample]:
    return [sample for item in made_by.items()[:count] for sample in made_by.make(item).samples]


def pixels(sample: Sample) -> np.ndarray:
    return np.asarray(PILImage.open(io.BytesIO(sample.images[0].data)).convert("RGB")).astype(int)


def ink_of(sample: Sample) -> np.ndarray:
    """Where a picture on plain ground is not ground."""
    picture = pixels(sample)
    return np.abs(picture - picture[0, 0]).max(axis=2) > 24


def face(name: str = "DejaVuSans.ttf") -> Face:
    return next(one for one in find_fonts(system=False).faces if one.name == name)


@pytest.mark.parametrize("layout", [Layout.LINE, Layout.PARAGRAPH, Layout.BLOCKS])
def test_boxes_are_where_the_ink_is(layout: Layout) -> None:
    """Without distortion the boxes hold all ink, and ink touches each of their four sides."""
    seen = 0
    for sample in samples(builder(layouts=(layout,)), 12):
        ink = ink_of(sample)
        rest = ink.copy()
        for line in sample.meta["lines"]:
            x1, y1, x2, y2 = (round(v) for v in line["box"])
            assert [x1, y1, x2, y2] == line["box"]
            inside = ink[y1:y2, x1:x2]
            assert inside[:2].any() and inside[-2:].any() and inside[:, :2].any() and inside[:, -2:].any()
            rest[y1:y2, x1:x2] = False
            seen += 1
        assert not rest.any()
    assert seen >= 12


def test_boxes_follow_the_distortions() -> None:
    """Turned, slanted and in perspective: no ink outside the boxes (one pixel of softness), none of them empty."""
    made = builder(distortions=(Distortion.PERSPECTIVE, Distortion.SHEAR), layouts=(Layout.ROTATED, Layout.PARAGRAPH))
    turned = 0
    for sample in samples(made, 30):
        ink = ink_of(sample)
        rest = ink.copy()
        for line in sample.meta["lines"]:
            x1, y1, x2, y2 = int(line["box"][0]), int(line["box"][1]), *(int(np.ceil(v)) for v in line["box"][2:])
            xs = np.nonzero(ink[y1:y2, x1:x2])[1]
            assert xs.min() < 4 + 0.05 * (x2 - x1) and xs.max() > 0.95 * (x2 - x1) - 5
            rest[max(0, y1 - 1) : y2 + 1, max(0, x1 - 1) : x2 + 1] = False
        assert not rest.any()
        turned += bool(sample.meta["distortions"]) or sample.meta["layout"] == "rotated"
    assert turned > 15


def test_hull_against_a_projection_by_hand() -> None:
    matrix = projection([(0, 0), (1, 0), (1, 1), (0, 1)], [(0, 0), (2, 0), (3, 3), (0, 2)])
    assert moved([(1, 1)], matrix)[0] == pytest.approx([3, 3])
    a, b, c = matrix
    x, y = (a @ [0.5, 0.25, 1]) / (c @ [0.5, 0.25, 1]), (b @ [0.5, 0.25, 1]) / (c @ [0.5, 0.25, 1])
    assert moved([(0.5, 0.25)], matrix)[0] == pytest.approx([x, y])
    assert tuple(hull([Box(0, 0, 1, 1)], matrix)) == pytest.approx((0, 0, 3, 3))


def test_answers() -> None:
    """Each task's answer is the text, the line of the box, the box of the line; nothing lies outside the picture."""
    tasks = set()
    for sample in samples(builder(samples=60), 60):
        meta = sample.meta
        width, height = PILImage.open(io.BytesIO(sample.images[0].data)).size
        by_box = {tuple(line["box"]): line["text"] for line in meta["lines"]}
        assert all(0 <= b[0] < b[2] <= width and 0 <= b[1] < b[3] <= height for b in by_box)
        assert meta["text"].replace("\n\n", "\n").split("\n") == [line["text"] for line in meta["lines"]]
        contents = [part.content for part in sample.parts]
        if meta["task"] == "read":
            assert contents[-1] == meta["text"] and len(contents) == 3
        regions = [c for c in contents if isinstance(c, Region)]
        for region in regions:
            said = by_box[tuple(region.shape)]
            at = contents.index(region)
            if meta["task"] == "find":
                assert region.label == said and f'"{said}"' in contents[at - 1]
                assert sum(said in line for line in by_box.values()) == 1
            else:
                assert contents[at + 2] == said
        assert meta["task"] == "read" or 1 <= len(regions) <= 3
        tasks.add(meta["task"])
    assert tasks == {"read", "read-box", "find"}


def test_lines_that_stand_there_twice_are_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("once " + "echo " * 60)
    for sample in samples(builder(texts=tmp_path / "t.txt", layouts=(Layout.PARAGRAPH,), tasks=("find", "read"))):
        lines = [line["text"] for line in sample.meta["lines"]]
        looked_for = [part.content.label for part in sample.parts if isinstance(part.content, Region)]
        assert all(sum(text in line for line in lines) == 1 for text in looked_for)


def wcag(one: Any, other: Any) -> float:
    """The ratio as the specification writes it."""

    def light(colour: Any) -> float:
        parts = [c / 255 for c in colour]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    a, b = sorted((light(one), light(other)))
    return (b + 0.05) / (a + 0.05)


def test_contrast_by_hand() -> None:
    assert wcag((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    for colour in ((10, 200, 30), (119, 119, 119), (255, 0, 0)):
        plain = ground.Span.of(np.full((4, 4, 3), 255, np.uint8))
        assert plain.contrast(colour) == pytest.approx(wcag(colour, (255, 255, 255)))
    half = np.concatenate([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)])
    assert ground.Span.of(half).contrast((128, 128, 128)) == 1


def test_text_can_be_read_on_any_ground(tmp_path: Path) -> None:
    """On plain ground exactly the floor, with low contrast asked for too; on the worst picture after making room."""
    low = builder(distortions=(Distortion.LOW_CONTRAST,), contrast=4.0)
    faint = 0
    for sample in samples(low, 40):
        paper = pixels(sample)[0, 0]
        for block in sample.meta["blocks"]:
            assert wcag(block["ink"], paper) >= 4.0 - 0.01
            faint += "low-contrast" in sample.meta["distortions"] and wcag(block["ink"], paper) < 6
    assert faint > 5
    harsh = np.kron(np.indices((8, 8)).sum(axis=0) % 2, np.ones((40, 40))).astype(np.uint8)[..., None] * np.uint8(255)
    PILImage.fromarray(np.repeat(harsh, 3, axis=2)).save(tmp_path / "squares.png")
    for number in range(20):
        throws = Dice(entropy("t", number, seed=0, level=0, split="train"))
        for low in (False, True):
            ink, plainer, told = ground.choose_ink(throws, np.repeat(harsh, 3, axis=2), floor=3.0, low=low)
            assert told >= 3 and plainer.shape == (320, 320, 3)
            assert min(wcag(ink, plainer[0, 0]), wcag(ink, plainer[0, 60])) == pytest.approx(told)
    for sample in samples(builder(pictures=tmp_path, grounds=(Ground.PICTURE,)), 10):
        picture = pixels(sample)
        for line in sample.meta["lines"]:  # what is not ink there is far from it, but for JPEG and soft edges
            x1, y1, x2, y2 = (round(v) for v in line["box"])
            ink = sample.meta["blocks"][line["block"]]["ink"]
            assert np.mean([wcag(ink, colour) > 2.5 for colour in picture[y1:y2, x1:x2].reshape(-1, 3)[::7]]) > 0.4


def test_line_texts_are_drawn_as_any_program_draws_them() -> None:
    """The ink of a line is what Pillow draws of its text in that font and size."""
    checked = 0
    for sample in samples(builder(layouts=(Layout.LINE,), samples=20), 20):
        line, block = sample.meta["lines"][0], sample.meta["blocks"][0]
        font = ImageFont.truetype(DEJAVU / block["font"], block["size"])
        canvas = PILImage.new("L", (2000, 400))
        ImageDraw.Draw(canvas).text((100, 100), line["text"], fill=255, font=font)
        expected = np.asarray(canvas.crop(canvas.getbbox()))
        x1, y1, x2, y2 = (round(v) for v in line["box"])
        if (x2 - x1, y2 - y1) != expected.shape[::-1]:
            continue  # the picture was too narrow and all of it made smaller
        picture, ink = pixels(sample), np.array(block["ink"])
        paper = picture[0, 0]
        channel = int(np.argmax(np.abs(paper - ink)))
        share = (paper - picture[y1:y2, x1:x2])[..., channel] / (paper - ink)[channel]
        assert np.abs(share - expected / 255).max() < 0.03
        checked += 1
    assert checked > 10


# -------------------------------------------------------------------------------------------------------------- fonts


def test_a_font_is_used_only_for_what_it_has() -> None:
    from fontTools.ttLib import TTFont

    found = find_fonts(system=False).faces
    for text in ("Straße", "Привет", "ქართული", HEBREW, "漢字", "∮E⋅da"):
        for one in found:
            has = set(TTFont(one.path).getBestCmap())
            assert (why_not(one, text) is None) == all(ord(c) in has for c in text if c != " "), (text, one.name)
    assert "U+6F22" in str(why_not(face(), "漢"))


def test_joining_needs_rules_and_raqm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Arabic in a font without its rules, or with a Pillow without raqm, would stand there letter by letter."""
    assert needs_shaping(ARABIC) and needs_shaping(HEBREW) and not needs_shaping("naïve Ωмир 漢字")
    from fontTools.ttLib import TTFont

    bare = TTFont(face().path)
    for record in bare["GSUB"].table.ScriptList.ScriptRecord + bare["GPOS"].table.ScriptList.ScriptRecord:
        record.ScriptTag = "DFLT" if record.ScriptTag == "arab" else record.ScriptTag
    bare.save(tmp_path / "bare.ttf")
    unshaped = next(one for one in find_fonts([tmp_path], system=False).faces if one.name == "bare.ttf")
    assert why_not(face(), ARABIC) is None and "no rules to join" in str(why_not(unshaped, ARABIC))
    assert unwritable(ARABIC) is None
    monkeypatch.setattr(fonts.features, "check", lambda _: False)
    assert "needs raqm" in str(unwritable(ARABIC)) and "needs raqm" in str(unwritable(HEBREW))
    assert "needs raqm" in str(unwritable("e\u0301\u0328")) and unwritable("Привет") is None
    (tmp_path / "texts.txt").write_text(f"hello there\n\n{ARABIC}\n")
    made = builder(texts=tmp_path / "texts.txt", samples=3)
    skipped = [skip for item in made.items() for skip in made.make(item).skipped]
    assert [(s.what, "raqm" in s.reason) for s in skipped] == [("texts.txt line 3", True)]
    assert all(set(s.meta["text"].split()) <= {"hello", "there"} for s in samples(made))


def test_right_to_left_and_joined() -> None:
    """A word of Arabic is drawn from right to left with its letters joined, by comparison with its isolated letters."""
    one = face()
    styled = typeset.Style(one, 40)
    block = typeset.set_block(words("\u0644\u0644\u0644"), styled, width=900, height=900)
    assert block is not None
    assert (np.asarray(block.mask).max(axis=0) > 0).all()  # joined: no gap between three lams
    mixed = typeset.set_block(words("\u05e9\u05dc\u05d5\u05dd abc"), styled, width=900, height=900)
    latin = typeset.set_block(words("abc"), styled, width=900, height=900)
    assert mixed is not None and latin is not None
    letters = np.asarray(latin.mask).astype(int)
    left = np.asarray(mixed.mask)[:, : letters.shape[1]].astype(int)
    letters, left = (part[np.nonzero(part.max(axis=1))[0]] for part in (letters, left))
    assert letters.shape == left.shape and np.abs(left - letters).mean() < 8  # said last, abc stands left


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\u200bb", "invisible"),
        ("a\u202eb", "invisible"),
        ("\ue000", "private"),
        ("ᠮᠣᠩ", "downwards"),
        ("ꦗꦮ꧀", "shape"),
    ],
)
def test_texts_that_would_come_out_wrong_are_refused(text: str, why: str) -> None:
    assert why in str(unwritable(text))


def test_font_folders(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "empty").mkdir()
    shutil.copy(DEJAVU / "DejaVuSerif.ttf", tmp_path / "sub" / "Copy.TTF")
    (tmp_path / "broken.ttf").write_bytes(b"\0\1\0\0 not a font")
    (tmp_path / "Wingdings.otf").write_bytes(b"")
    found = find_fonts([tmp_path], system=False)
    assert {one.name for one in found.faces} >= {"Copy.TTF", "DejaVuSans.ttf"}
    assert "DejaVuSerif.ttf" not in {one.name for one in found.faces}  # the same file under another name
    assert [name for name, _ in found.left_out] == ["Wingdings.otf", "broken.ttf"]
    made = builder(fonts=(tmp_path,), samples=1)
    assert [made.make(item).skipped[0].what for item in made.items()[:2]] == ["Wingdings.otf", "broken.ttf"]
    with pytest.raises(UserError, match="no such folder of fonts"):
        find_fonts([tmp_path / "none"])
    with pytest.raises(UserError, match="no font in it"):
        find_fonts([tmp_path / "empty"])


# -------------------------------------------------------------------------------------------------------------- texts


def test_line_breaks() -> None:
    assert [w.text for w in words("今日は、「東京」へ Go now")] == [
        "今",
        "日",
        "は、",
        "「東",
        "京」",
        "へ",
        "Go",
        "now",
    ]
    for text in ("a bb  ccc", "漢字 かな(x)。", THAI, invent(Dice(entropy("t", 3, seed=0, level=0, split="train")))):
        assert join(words(text)) == " ".join(text.split())
    assert [w.text for w in words("きゃっと")] == ["きゃっ", "と"]  # small kana do not begin a line


def test_texts_of_the_user(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("\ufeffOne  line\nof text.\n\n" + "long " * 200, encoding="utf-8")
    (folder / "b.md").write_text("cafe\u0301 soft\u00adhyphen")
    (folder / "c.txt").write_bytes(b"\xff\xfe\x00bad")
    (folder / "d.png").write_bytes(b"no text")
    passages, left_out, digests = read_passages(folder)
    assert [p.text for p in passages[:1]] == ["One line of text."] and passages[1].where == "a.txt line 4"
    assert all(len(p.text) <= 400 for p in passages) and " ".join(p.text for p in passages[1:-1]).count("long") == 200
    assert passages[-1].text == unicodedata.normalize("NFC", "café softhyphen")
    assert left_out == [("c.txt", "the file is not UTF-8 text")] and len(digests) == 2
    for place, why in ((tmp_path / "none", "no such file"), (folder / "c.txt", "not UTF-8")):
        with pytest.raises(UserError, match=why):
            read_passages(place)
    (folder / "b.md").write_text("漢字だけ")
    with pytest.raises(UserError, match=r"nothing to write .*add --fonts"):
        builder(texts=folder / "b.md").items()


def test_held_out_passages_are_apart(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n\n".join(f"passage number {n}" for n in range(60)))
    parts = {}
    for split in ("train", "heldout"):
        made = builder(texts=tmp_path / "t.txt", samples=200, split=split, heldout=0.3)
        parts[split] = {item["passage"] for item in made.items()}
    assert parts["train"] | parts["heldout"] == set(range(60)) and not parts["train"] & parts["heldout"]
    assert 8 <= len(parts["heldout"]) <= 28
    (tmp_path / "t.txt").write_text("one passage")
    assert builder(texts=tmp_path / "t.txt", split="heldout", heldout=0.1).items() == []
    with pytest.raises(UserError, match="all of it is held out"):
        builder(texts=tmp_path / "t.txt", heldout=0.9999).items()
    assert {s.meta["text"] for s in samples(builder(samples=5), 5)}.isdisjoint(
        s.meta["text"] for s in samples(builder(samples=5, split="heldout"), 5)
    )


# -------------------------------------------------------------------------------------------------------------- whole


def test_same_whatever_the_process_and_every_option_counts(tmp_path: Path) -> None:
    full = {
        "grounds": tuple(Ground),
        "distortions": tuple(Distortion),
        "samples": 12,
        "system_fonts": False,
        "size": 300,
    }
    first = TextBuilder(TextSettings(**full))
    for workers, name in ((0, "a"), (2, "b")):
        build(pickle.loads(pickle.dumps(first)), tmp_path / name, workers=workers, shard_samples=5)
    files = sorted(p.name for p in (tmp_path / "a").glob("shard-*"))
    assert len(files) == 3
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    told = json.dumps(first.settings())
    assert str(tmp_path) not in told
    for change in ({"seed": 1}, {"contrast": 4.0}, {"turns": 2}, {"tasks": ("read",)}, {"size": 301}, {"heldout": 0.5}):
        assert json.dumps(TextBuilder(TextSettings(**{**full, **change})).settings()) != told


@pytest.mark.parametrize(
    "change", [{"samples": 0}, {"size": 10}, {"contrast": 1.0}, {"tasks": ("sing",)}, {"layouts": ()}, {"turns": 0}]
)
def test_settings_that_make_no_sense(change: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        TextSettings(**{"samples": 1, **change})
    with pytest.raises(UserError, match="no such folder of pictures"):
        builder(pictures=Path("nowhere"))


def test_the_commands(mm15_command: Any, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("city,a,b\nRome,1,2\nOslo,2,3\nBern,4,4\n")
    asked = {
        "text": ["--layouts", "line", "--distortions", "none", "--contrast", 4],
        "charts": ["--tables", tmp_path / "t.csv", "--kinds", "bar,table", "--tasks", "table,extreme"],
    }
    for kind, options in asked.items():
        options += [
            "--samples",
            4,
            "--size",
            400,
            "--no-system-fonts",
            "--workers",
            0,
            "--out",
            tmp_path / kind,
            "--json",
        ]
        done = mm15_command("data", "build", kind, *options)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["parts"]["train"]["samples"] == 4
    wrong = mm15_command("data", "build", "text", "--tasks", "raed")
    assert wrong.returncode == 2 and "did you mean 'read'" in wrong.stderr
