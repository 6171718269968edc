"""Writers: every sample in every format is written and read back equal, or refused or lessened for a named reason."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from same import assert_same
from test_formats import READ, SHEEP, A, B, block, opened, sample

from mm15.data.writers import UndecidedError, open_writer
from mm15.data.writers.fidelity import differences
from mm15.errors import UserError
from mm15.regions import Box, Point, Region
from mm15.sample import Image, Part, Sample, Video, assistant, document, system, user

SAMPLES = {
    **READ,
    "lines": sample(user("Look \n", Image(A), "\nand\n", Image(B), Image(A), "\n\n?\n"), assistant("\nYes.\n")),
    "label": sample(user(Image(A), "The sheep ", Region(SHEEP.shape, 0, "sheep"), "?"), assistant("Yes.")),
    "point": sample(user(Image(A), "Where?"), assistant(Region(Point(16.5, 12.25)))),
    "far": sample(user(Image(A), Image(B), "Where?"), assistant(SHEEP)),
    "second": sample(user(Image(A), Image(B), "Where?"), assistant(Region(Box(10, 5, 50, 25), 1))),
    "shots": sample(user("1?"), assistant("one", target=False), user("2?"), assistant("two")),
    "half": sample(user("1?"), assistant("one, ", target=False), assistant("two")),
    "late": sample(user("Hi"), assistant("Hello"), system("Be rude."), user("Hi"), assistant("Hm.")),
    "drawn": sample(user("Draw it."), assistant("Here: ", Image(A))),
    "image": sample(user("What is <image> in HTML?"), assistant("Nothing.")),
    "bbox": sample(user("What are <bbox> and <bbox_location0>?"), assistant("Signs.")),
    "known": sample(user("2 + 2?"), assistant("4"), answer=4),
    "video": sample(user(Video("v.mp4"), "?"), assistant("A dog runs.")),
    "caption": sample(document(Image(A), "a red thing")),
    "page": sample(document("Title\n", Image(A), "\n\nMore. ", Image(B))),
    "text": sample(document("Once upon\na time.")),
    "line": sample(document("One line.")),
}
DOCUMENTS = dict.fromkeys(["caption", "page", "text", "line"], "a document, not a conversation")
FLAGS, LABELS, META, SYSTEM = (
    ["which answers are trained on (target flags)"],
    ["labels of places"],
    ["meta"],
    ["the system's turn"],
)
CHAT = {**DOCUMENTS, "video": "shows a video", "known": META, "half": FLAGS}
TEXTS = {**CHAT, "far": "a place in picture 0 is said after 2 were shown"}
MARKED = {"image": "its text holds <image>, which the format reads as"}
TALKS = [name for name, one in SAMPLES.items() if one.parts[0].role != "document"]

Outcome = dict[str, list[str] | str]
"""Name of a sample -> what is lost, or why it is refused; the others are written whole."""
TARGETS: dict[str, tuple[dict[str, Any], Outcome]] = {
    "llava.jsonl": ({"format": "llava", "regions": "qwen2-vl"}, {**TEXTS, **MARKED, "shots": FLAGS}),
    "llava.json": ({"format": "llava", "regions": "shikra"}, {**TEXTS, **MARKED, "shots": FLAGS, "label": LABELS}),
    "sharegpt.jsonl": (
        {"format": "sharegpt", "regions": "qwen3-vl", "columns": {"system": "s"}, "tags": {"role": "r"}},
        {**TEXTS, **MARKED, "shots": FLAGS},
    ),
    "openai.jsonl": ({"format": "openai", "regions": "qwen2-vl"}, TEXTS),
    "anthropic.jsonl": (
        {"format": "anthropic", "regions": "internvl"},
        {**TEXTS, "shots": FLAGS, "late": "the system speaks in the middle", "point": "internvl has no points"},
    ),
    "swift.jsonl": ({"format": "swift"}, {**CHAT, **MARKED, "bbox": "its text holds <bbox>"}),
    "ferret.json": (
        {"format": "ferret"},
        {
            **CHAT,
            **MARKED,
            "two": "it shows 2 pictures, and ferret has one",
            "lines": "it shows 3 pictures",
            "far": "it shows 2 pictures",
            "second": "it shows 2 pictures",
            "talk": SYSTEM,
            "late": SYSTEM,
            "label": LABELS,
            "shots": FLAGS,
            "point": "points: ferret's fields hold boxes",
            "bbox": "its text holds <bbox_location",
        },
    ),
    "mm15.jsonl": ({"format": "mm15"}, {}),
    "mm15.tar": ({"format": "webdataset", "layout": "mm15"}, {}),
    "mm15.parquet": ({"format": "parquet", "layout": "mm15"}, {}),
    "chat.parquet": (
        {"format": "parquet", "layout": "chat", "regions": "qwen2-vl"},
        {
            **TEXTS,
            "talk": "a picture stands after a text",
            "late": SYSTEM,
            "lines": "a picture stands after a text",
            "drawn": "a picture stands after a text",
            "shots": FLAGS,
        },
    ),
    "pairs.tar": (
        {"format": "webdataset", "layout": "pairs"},
        {**dict.fromkeys(SAMPLES, "a conversation, and pairs are documents"), "caption": []}
        | dict.fromkeys(["page", "text", "line"], "no picture followed by its caption"),
    ),
    "pages.tar": (
        {"format": "webdataset", "layout": "interleaved"},
        dict.fromkeys(TALKS, "a conversation, and interleaved are documents"),
    ),
    "text.jsonl": (
        {"format": "text", "unit": "jsonl"},
        {**dict.fromkeys(SAMPLES, "a conversation, and text holds documents only"), "text": [], "line": []}
        | dict.fromkeys(["caption", "page"], "a document with pictures"),
    ),
    "text.txt": (
        {"format": "text", "unit": "line"},
        {**dict.fromkeys(SAMPLES, "a conversation, and text holds documents only"), "line": []}
        | dict.fromkeys(["caption", "page"], "a document with pictures")
        | {"text": "a text of several lines"},
    ),
    "captions.json": (
        {"format": "coco", "task": "caption"},
        {**dict.fromkeys(SAMPLES, r"it shows \d pictures|no picture followed by its caption"), "caption": []},
    ),
}


@pytest.mark.parametrize("target", TARGETS)
def test_written_and_read_back(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is equal, places within half a step; what is not says why, and nothing of it is in the file."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    settings, outcome = TARGETS[target]
    out = block(path=str(tmp_path / target), **settings)
    written: list[tuple[str, Sample]] = []
    with open_writer(out) as writer:
        for name, one in SAMPLES.items():
            wanted = outcome.get(name, [])
            if isinstance(wanted, str):
                with pytest.raises(UserError, match=wanted) as error:
                    writer.add(one)
                assert "\n" not in str(error.value)
                continue
            assert (name, sorted(writer.add(one))) == (name, sorted(wanted))
            written.append((name, one))
    source = opened(tmp_path / target, **settings)
    assert len(source) == writer.samples == len(written)
    for index, (name, one) in enumerate(written):
        lost, found = outcome.get(name, []), source[index]
        assert_same(plain(one, lost), plain(found, lost), tolerance=0.1)
        if one.parts and lost != LABELS and any(labels(one)):
            assert labels(found) == labels(one)
        if settings["format"] == "mm15" or settings.get("layout") == "mm15":
            assert (found.id, found.meta) == (one.id, one.meta)


def plain(one: Sample, lost: Any) -> Sample:
    """The sample without what is lost, texts that follow one another joined, and labels (brackets invent some)."""
    parts: list[Part] = []
    for part in one.parts:
        content, target = part.content, part.target and lost != FLAGS
        if lost == SYSTEM and part.role == "system":
            continue
        if isinstance(content, Region):
            content = Region(content.shape, content.image)
        last = parts[-1] if parts else None
        same = last is not None and (last.role, last.target) == (part.role, target)
        if same and isinstance(content, str) and isinstance(last.content, str):
            parts[-1] = Part(last.content + content, part.role, target)
        else:
            parts.append(Part(content, part.role, target))
    return Sample("", "", tuple(parts))


def labels(one: Sample) -> list[str]:
    return [part.content.label for part in one.parts if isinstance(part.content, Region)]


# ---------------------------------------------------------------------------------------------------------------- coco


def boxed(*named: tuple[str, tuple[float, ...]], task: str = "detect") -> Sample:
    """A sample in the words of COCO's reader, categories in their order."""
    groups: dict[str, list[Region]] = {}
    for label, numbers in named:
        groups.setdefault(label, []).append(Region(Box(*numbers), 0, label))
    listed = {label: [x for region in found for x in (", ", region)][1:] for label, found in groups.items()}
    if task == "detect":
        said = [x for label, found in listed.items() for x in (f"; {label} ", *found)]
        said[0] = said[0][2:]
        return sample(user(Image(A), "List every object in the picture with its box."), assistant(*said))
    turns = (user(f"Find every {label}.") + assistant(*found) for label, found in listed.items())
    return sample(user(Image(A)), *turns)


@pytest.mark.parametrize("task", ["detect", "find"])
def test_coco_keeps_boxes_and_says_what_it_does_not_keep(tmp_path: Path, task: str) -> None:
    whole = boxed(("dog", (1, 2, 30, 40)), ("dog", (0.5, 0.25, 64, 48)), ("cat", (3, 3, 9, 9)), task=task)
    other = sample(user(Image(B), "Where is the cat?"), assistant(Region(Box(1, 1, 2, 2), 0, "cat"), " is there."))
    out = block(format="coco", path=str(tmp_path / "a.json"), task=task)
    refused = {
        "a point": Region(Point(1, 2), 0, "dog"),
        "without a label": Region(Box(1, 2, 3, 4)),
        "without area": Region(Box(1, 2, 1, 4), 0, "dog"),
    }
    with open_writer(out) as writer:
        assert writer.add(whole) == []
        assert writer.add(other) == ["questions and words around the boxes"]
        for why, region in refused.items():
            with pytest.raises(UserError, match=why):
                writer.add(sample(user(Image(A), "?"), assistant(region)))
        with pytest.raises(UserError, match="it holds no boxes"):
            writer.add(READ["one"])
    data = json.loads((tmp_path / "a.json").read_text())
    assert data["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    assert [note["bbox"] for note in data["annotations"]] == [
        [1, 2, 29, 38],
        [0.5, 0.25, 63.5, 47.75],
        [3, 3, 6, 6],
        [1, 1, 1, 1],
    ]
    assert {row["width"] for row in data["images"]} == {64, 100} and len(list(tmp_path.iterdir())) == 2
    source = opened(tmp_path / "a.json", format="coco", task=task)
    assert_same(whole, source[0], tolerance=1e-9)
    assert [part.content for part in source[1].parts if isinstance(part.content, Region)] == labels_of(other)


def labels_of(one: Sample) -> list[Region]:
    return [part.content for part in one.parts if isinstance(part.content, Region)]


# ------------------------------------------------------------------------------------------------------------ pictures


def test_pictures_are_named_where_they_lie_or_kept_beside(tmp_path: Path) -> None:
    """Files by their path from the output's folder; bytes, arrays, and files where copies are asked for, beside it."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(A)
    array = np.full((4, 6, 3), 9, np.uint8)
    one = sample(user(Image(tmp_path / "photos/a.png"), Image(B), Image(array), "?"), assistant("!"))
    for copy, first in ((False, "../photos/a.png"), (True, "rows.jsonl.images/000/00000000.0.png")):
        out = tmp_path / f"out{copy}" / "rows.jsonl"
        with open_writer(block(format="llava", path=str(out)), copy_pictures=copy) as writer:
            writer.add(one)
        kept = [f"rows.jsonl.images/000/00000000.{i}.png" for i in (1, 2)]
        assert json.loads(out.read_text())["image"] == [first, *kept]
        images = opened(out, format="llava")[0].images
        assert_same(Sample("", "", one.parts[:2]), Sample("", "", opened(out, format="llava")[0].parts[:2]))
        from mm15.image import open_picture

        assert (np.asarray(open_picture(images[2], "x")) == 9).all()
    with open_writer(block(format="llava", path=str(tmp_path / "c.jsonl")), copy_pictures=True) as writer:
        (tmp_path / "secret.txt").write_text("not a picture")
        with pytest.raises(UserError, match="not a picture that can be read"):
            writer.add(sample(user(Image(tmp_path / "secret.txt")), assistant("!")))
        writer.add(one)
    assert len(list((tmp_path / "c.jsonl.images/000").iterdir())) == 3


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_left_when_it_goes_wrong(tmp_path: Path, target: str) -> None:
    out = block(path=str(tmp_path / "deep" / target), **TARGETS[target][0])
    with pytest.raises(RuntimeError), open_writer(out) as writer:
        name = next(name for name in SAMPLES if not isinstance(TARGETS[target][1].get(name), str))
        writer.add(SAMPLES[name])
        raise RuntimeError
    assert list((tmp_path / "deep").iterdir()) == []


def test_what_cannot_be_written_at_all(tmp_path: Path) -> None:
    """One line each; a refused sample leaves no trace, and the next is written."""
    (tmp_path / "there.jsonl").write_text("mine")
    for settings, message in (
        ({"format": "llava", "path": "there.jsonl"}, "there.jsonl: is there already; remove it or write to another"),
        ({"format": "llava", "path": "a.jsonl", "images": "x"}, "images: pictures that are written"),
        ({"format": "mm15", "path": "a.jsonl", "regions": "ferret"}, "regions: this format keeps places in fields"),
        ({"format": "text", "path": "a.txt"}, "unit: line"),
        ({"format": "llava", "path": "there.jsonl/a.jsonl"}, "cannot be written"),
    ):
        with pytest.raises(UserError, match=message) as error:
            open_writer(block(**{**settings, "path": str(tmp_path / settings["path"])}))
        assert "\n" not in str(error.value)
    with open_writer(block(format="llava", path=str(tmp_path / "a.jsonl"))) as writer:
        with pytest.raises(UndecidedError, match="it holds places"):
            writer.add(READ["place"])
        with pytest.raises(UserError, match=r"cannot be written as JSON .*surrogates"):
            writer.add(sample(user("\ud800"), assistant("x")))
        with pytest.raises(UserError, match="nothing in it is trained on"):
            writer.add(sample(user("x"), assistant("x", target=False)))
        with pytest.raises(UserError, match=r"an array of uint8 .2x2."):
            writer.add(sample(user(Image(A), Image(np.zeros((2, 2), np.uint8))), user("?"), assistant("!")))
        with pytest.raises(UserError, match="its text holds <image>"):
            writer.add(sample(user(Image(A), Image(B), "<image>"), assistant("!")))
        writer.add(READ["one"])
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1
    assert len(list((tmp_path / "a.jsonl.images/000").iterdir())) == 1
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.jsonl", "a.jsonl.images", "there.jsonl"]


def test_a_text_that_spells_a_place_is_not_written_as_one(tmp_path: Path) -> None:
    """Numbers in brackets would be read back as a box: refused, with what they would become."""
    one = sample(user(Image(A), "What does it say?"), assistant("It says [100, 200, 300, 400]."))
    with open_writer(block(format="llava", path=str(tmp_path / "a.jsonl"), regions="ferret")) as writer:
        with pytest.raises(UserError, match="would read back in 3 pieces instead of 1"):
            writer.add(one)
        writer.add(READ["one"])
    with open_writer(block(format="llava", path=str(tmp_path / "b.jsonl"), regions="internvl")) as writer:
        assert writer.add(one) == []


def test_labels_that_are_not_said_add_no_words(tmp_path: Path) -> None:
    """A label in a tag is spoken text; one that the sample does not say is left out, and those that it says stay."""
    dogs = [Region(Box(16, 12, 32, 36), 0, "dog"), Region(Box(0, 0, 8, 12), 0, "dog")]
    cat = Region(Box(32, 12, 48, 24), 0, "cat")
    one = sample(user(Image(A), "A dog ", dogs[0], " ", dogs[1], " and ", cat, "?"), assistant(cat, " is black."))
    with open_writer(block(format="llava", path=str(tmp_path / "a.jsonl"), regions="qwen2-vl")) as writer:
        assert writer.add(one) == LABELS
    found = opened(tmp_path / "a.jsonl", format="llava", regions="qwen2-vl")[0]
    assert_same(plain(one, []), plain(found, []), tolerance=0.1)
    assert labels(found) == ["dog", "dog", "", ""]


def test_differences_are_seen() -> None:
    """Places in another picture or place, other words, other turns; a step of the convention is none."""
    one = user(Image(A), Image(B), "x", Region(Box(1, 1, 5, 5), 1)) + assistant("y")
    assert differences(one, one, lambda _: (0, 0)) == []
    moved = user(Image(A), Image(B), "x", Region(Box(1, 1.5, 5, 5), 1)) + assistant("y")
    assert differences(one, moved, lambda _: (0, 0.5)) == []
    for other, message in (
        (moved, "would read back as Box"),
        (user(Image(A), Image(B), "x", Region(Box(1, 1, 5, 5), 0)) + assistant("y"), "of picture 0"),
        (user(Image(A), Image(B), "x", Region(Point(1, 1), 1)) + assistant("y"), "would read back as Point"),
        (user(Image(A), Image(B), "z", Region(Box(1, 1, 5, 5), 1)) + assistant("y"), "'x' would read back as 'z'"),
        (
            user(Image(A), "x", Image(B), Region(Box(1, 1, 5, 5), 1)) + assistant("y"),
            "an? image would read back as 'x'",
        ),
        (one[:4], "its turns would read back as user"),
        (one[1:], "in 3 pieces instead of 4"),
    ):
        with pytest.raises(UserError, match=message):
            differences(one, other, lambda _: (0.5, 0.4))


def test_memory_is_flat(tmp_path: Path) -> None:
    """Ten times the samples take no more."""
    peaks = []
    for count in (100, 1000):
        tracemalloc.start()
        with open_writer(block(format="llava", path=str(tmp_path / f"{count}.jsonl"))) as writer:
            for _ in range(count):
                writer.add(sample(user("?" * 1000), assistant("!")))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 100_000
