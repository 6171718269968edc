"""COCO annotation files and plain text as sources: what each becomes, and what cannot be used with its reason."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from same import assert_same
from test_formats import A, opened, png, sample

from mm15.errors import UserError
from mm15.regions import Box, Region
from mm15.sample import Image, assistant, document, user

DETECT = "List every object in the picture with its box."
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}, {"id": 5, "name": "unseen"}]


def coco(folder: Path, *notes: dict[str, Any], task: str = "detect", **more: Any) -> Any:
    """A file of two pictures, 64 x 48 and one of half its stated size, and `notes` on them."""
    (folder / "a.png").write_bytes(A)
    (folder / "half.png").write_bytes(png(50, 25))
    data = {
        "info": {"version": "1.0", "x": [1, 2]},
        "images": [
            {"id": 9, "file_name": "a.png", "width": 64, "height": 48},
            {"id": 7, "file_name": "half.png", "width": 100, "height": 50},
        ],
        "annotations": [{"id": number, **note} for number, note in enumerate(notes)],
        "categories": CATEGORIES,
        **more,
    }
    (folder / "coco.json").write_text(json.dumps({k: v for k, v in data.items() if v is not None}))
    return opened(folder / "coco.json", format="coco", task=task)


def note(image: Any, category: Any, *box: float, crowd: int = 0) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "iscrowd": crowd, "segmentation": [[1.5, 2]]}


NOTES = [
    note(9, 3, 1, 2, 3, 4),
    note(7, 18, 20, 10, 40, 30),
    note(9, 18, 0, 0, 64.5, 48),
    note(9, 3, 10, 10, 5, 5),
]


def region(label: str, *box: float) -> Region:
    return Region(Box(*box), 0, label)


def test_coco_detect(tmp_path: Path) -> None:
    """[x, y, w, h] to edges, categories in the file's order; half a pixel too far is cut off, other sizes scaled."""
    source = coco(tmp_path, *NOTES)
    dog, cars = region("dog", 0, 0, 64, 48), [region("car", 1, 2, 4, 6), region("car", 10, 10, 15, 15)]
    said = assistant("dog ", dog, "; car ", cars[0], ", ", cars[1])
    assert_same(sample(user(Image(A), DETECT), said), source[0])
    said = assistant("dog ", region("dog", 10, 5, 30, 20))
    assert_same(sample(user(Image(png(50, 25)), DETECT), said), source[1])
    assert (len(source), source[0].id, source[1].id, source.unusable) == (2, "0:9", "1:7", {})


def test_coco_find_does_not_ask_for_what_is_a_crowd(tmp_path: Path) -> None:
    """One question a category; crowds are counted, said in the log, and their category not asked there."""
    source = coco(tmp_path, *NOTES, task="find")
    cars = [region("car", 1, 2, 4, 6), region("car", 10, 10, 15, 15)]
    dog = user("Find every dog.") + assistant(region("dog", 0, 0, 64, 48))
    asked = user("Find every car.") + assistant(cars[0], ", ", cars[1])
    assert_same(sample(user(Image(A)), dog, asked), source[0])
    source = coco(tmp_path, *NOTES, note(9, 3, 5, 5, 50, 40, crowd=1), task="find")
    assert_same(sample(user(Image(A)), dog), source[0])
    assert source.unusable == {"crowd": 1}
    assert any("crowd" in str(part.content) for part in source[0].parts) is False
    detected = coco(tmp_path, *NOTES, note(9, 3, 5, 5, 50, 40, crowd=1))
    assert sum(isinstance(part.content, Region) for part in detected[0].parts) == 3


def test_coco_counts_what_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = {
        "crowd": note(9, 3, 1, 1, 2, 2, crowd=1),
        "box without area": note(9, 3, 1, 1, 0, 2),
        "box outside of its picture": note(9, 3, 60, 1, 10, 2),
        "no box of four numbers": note(9, 3, 1, 2, 3),
        "no such category": note(9, 4, 1, 1, 2, 2),
        "no such picture": note(8, 3, 1, 1, 2, 2),
    }
    with caplog.at_level(logging.WARNING):
        source = coco(tmp_path, *bad.values(), NOTES[1])
    assert source.unusable == dict.fromkeys(bad, 1)
    assert len(caplog.records) == 1 and all(f"1 {reason}" in caplog.text for reason in bad)
    with pytest.raises(UserError, match=r"coco\.json line 1 \(id 9\): no object of the picture can be used"):
        source[0]
    assert len(source[1].parts) == 4
    with pytest.raises(UserError, match=r"line 1 \(id 7\): no object is annotated"):
        coco(tmp_path, NOTES[0])[1]


def test_coco_captions(tmp_path: Path) -> None:
    """One sample a caption: no document shows five captions of one picture."""
    notes = [
        {"image_id": 9, "caption": " A dog."},
        {"image_id": 7, "caption": "A car."},
        {"image_id": 9, "caption": "Dog"},
    ]
    source = coco(tmp_path, *notes, {"image_id": 9, "caption": " "}, task="caption", categories=None)
    assert [source[i].parts[1].content for i in range(len(source))] == [" A dog.", "Dog", "A car."]
    assert_same(sample(document(Image(A), "Dog")), source[1])
    assert source.unusable == {"no caption": 1}


def test_coco_files_that_cannot_be_used(tmp_path: Path) -> None:
    for more, message in (
        ({"categories": None}, "no list 'categories'; a COCO file has images, annotations, categories"),
        ({"images": [{"id": 1}, {"id": 1}]}, "2 images and 1 ids; each has its own"),
        ({"images": [{"file_name": "a.png"}]}, "line 1: 'id' is missing"),
        ({"images": [3]}, "line 1: an object in braces belongs here, this is int"),
        ({"annotations": []}, "nothing to use for task detect|no object is annotated"),
    ):
        with pytest.raises(UserError, match=message) as error:
            coco(tmp_path, *NOTES, **more)[0]
        assert "\n" not in str(error.value)
    (tmp_path / "coco.json").write_text("[]")
    with pytest.raises(UserError, match="a COCO file is one object with images and annotations"):
        opened(tmp_path / "coco.json", format="coco")
    with pytest.raises(UserError, match="2 files; COCO's ids hold in one file only"):
        (tmp_path / "more.json").write_text("{}")
        opened(tmp_path / "*.json", format="coco")
    source = coco(tmp_path, *NOTES)
    (tmp_path / "half.png").write_bytes(png(25, 50))
    with pytest.raises(UserError, match="given for a picture of 100x50 pixels, and the picture has 25x50; use the"):
        source[1]


# ----------------------------------------------------------------------------------------------------- ferret and swift


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box_x1y1x2y2": [[[1, 2, 3]], []]}, r"a place has 4 numbers .* or 2 .*, got \[1, 2, 3\]"),
        ({"box_x1y1x2y2": [[[1, 2]], []]}, "box_x1y1x2y2 holds boxes of 4 numbers"),
        ({"box_x1y1x2y2": [[[30, 2, 3, 4]], []]}, "is inside out"),
        ({"box_x1y1x2y2": [[], []]}, "<bbox_location0>, and its turn has 0 boxes in box_x1y1x2y2; they count from 0"),
        ({"box_x1y1x2y2": [[[1, 2, 3, 4]] * 2, []]}, "a turn has 2 boxes and uses 1 of them"),
        ({"box_x1y1x2y2": [[[1, 2, 3, 4]], [], []]}, "has a list of boxes for each of the 2 turns"),
        ({"box_x1y1x2y2": 3}, "has a list of boxes for each"),
        ({"image_w": None}, "boxes need the 'image_w' and 'image_h' they are pixels of"),
        ({"image_w": 48, "image_h": 64}, "given for a picture of 48x64 pixels, and the picture has 64x48"),
        ({"image": "none.png"}, "no such file"),
    ],
)  # fmt: skip
def test_ferret_rows_that_cannot_be_used(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "a.png").write_bytes(A)
    turns = [{"from": "human", "value": "<image>\n<bbox_location0>?"}, {"from": "gpt", "value": "A cat."}]
    row = {
        "image": "a.png",
        "image_w": 64,
        "image_h": 48,
        "conversations": turns,
        "box_x1y1x2y2": [[[1, 2, 99, 48]], []],
    }
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(one) for one in (row, {**row, **change})))
    source = opened(tmp_path / "a.jsonl", format="ferret")
    assert source[0].parts[1].content == Region(Box(1, 2, 64, 48))
    with pytest.raises(UserError, match=rf"line 2: .*{message}"):
        source[1]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (3, "'objects' is an object with ref and bbox, got 3"),
        ({"ref": ["cat"], "bbox": []}, "there are more <bbox> than the 0 of 'bbox'"),
        ({"ref": [], "bbox": [[1, 2, 3, 4]]}, "<ref-object> number 0 has no text"),
        ({"ref": [3], "bbox": [[1, 2, 3, 4]]}, "<ref-object> number 0 has no text"),
        ({"ref": ["a"], "bbox": [[1, 2, 3, 4]] * 2}, "'bbox' has 2, and the messages 1 <bbox>; there must be as many"),
        ({"ref": ["a"] * 2, "bbox": [[1, 2, 3, 4]]}, "'ref' has 2, and the messages 1 <ref-object>"),
        ({"ref": ["a"], "bbox": [[1, 2, True, 4]]}, "a place has 4 numbers"),
        ({"ref": ["a"], "bbox": [[1, 2, 1e999, 4]]}, "a place has 4 numbers"),
        ({"ref": ["a"], "bbox": [[1, 2, 3, 4]], "image_id": [1]}, "image_id 1, and the row has 1 pictures"),
        ({"ref": ["a"], "bbox": [[1, 2, 3, 4]], "image_id": [0, 0]}, "1 bbox and 2 image_id"),
        ({"ref": ["a"], "bbox": [[1, 2, 3, 4]], "bbox_type": "norm1000"}, "bbox_type is real or norm1"),
    ],
)  # fmt: skip
def test_swift_objects_that_cannot_be_used(tmp_path: Path, objects: Any, message: str) -> None:
    (tmp_path / "a.png").write_bytes(A)
    said = [{"role": "user", "content": "<image>Find the <ref-object>."}, {"role": "assistant", "content": "<bbox>"}]
    row = json.dumps({"messages": said, "images": ["a.png"], "objects": objects})
    (tmp_path / "a.jsonl").write_text(row.replace("Infinity", "1e999"))
    with pytest.raises(UserError, match=rf"a\.jsonl line 1: .*{message}"):
        opened(tmp_path / "a.jsonl", format="swift")[0]


def test_swift_normalised_boxes_of_several_pictures_need_their_numbers(tmp_path: Path) -> None:
    for name, picture in (("a.png", A), ("b.png", png(100, 50))):
        (tmp_path / name).write_bytes(picture)
    said = [{"role": "user", "content": "<image><image>?"}, {"role": "assistant", "content": "<bbox>", "loss": False}]
    said.append({"role": "assistant", "content": "!"})
    objects = {"ref": [], "bbox": [[0.5, 0.5]], "bbox_type": "norm1"}
    row = {"messages": said, "images": ["a.png", "b.png"], "objects": objects}
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps(r) for r in (row, {**row, "objects": {**objects, "image_id": [1]}}))
    )
    source = opened(tmp_path / "a.jsonl", format="swift")
    with pytest.raises(UserError, match="bbox_type norm1 and 2 pictures; add image_id, which says which is meant"):
        source[0]
    place = source[1].parts[3]
    assert (tuple(place.content.shape), place.content.image, place.target) == ((50, 25), 1, False)


# ---------------------------------------------------------------------------------------------------------------- text


def test_text_files_lines_and_rows(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfTwo\r\nlines\n")
    (tmp_path / "a.txt").write_text("One\n\n  \nThree, ünï\r\n", newline="")
    (tmp_path / "rows.jsonl").write_text('{"body": "B", "id": 7}\n{"body": ""}\n')

    def texts(source: Any) -> list[Any]:
        assert all(part.target and part.role == "document" for i in range(len(source)) for part in source[i].parts)
        return [source[i].parts[0].content for i in range(len(source))]

    files = opened(tmp_path / "*.txt", format="text")
    assert texts(files) == ["One\n\n  \nThree, ünï\r\n", "Two\r\nlines\n"]
    assert [files[0].id, files[1].id] == ["0:a.txt", "1:b.txt"] and texts(opened(tmp_path, format="text")) == texts(
        files
    )
    lines = opened(tmp_path / "*.txt", format="text", unit="line")
    assert texts(lines) == ["One", "Three, ünï", "Two", "lines"]
    rows = opened(tmp_path / "rows.jsonl", format="text", unit="jsonl", key="body")
    assert rows[0].id == "0:7" and rows[0].parts[0].content == "B"
    with pytest.raises(UserError, match=r"rows\.jsonl line 2: 'body' is a text that is not empty, got ''"):
        rows[1]
    with pytest.raises(UserError, match=r"rows of this format have 'text', this one has .'body', 'id'."):
        opened(tmp_path / "rows.jsonl", format="text", unit="jsonl")
    prints = {source.fingerprint for source in (files, lines, rows)}
    (tmp_path / "a.txt").write_text("One!")
    assert opened(tmp_path / "*.txt", format="text").fingerprint not in prints and len(prints) == 3
    for name, content, message in (("c", b"", "holds no text"), ("d", b"\xff", "not UTF-8 text at byte 0")):
        (tmp_path / f"{name}.txt").write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.txt: {message}"):
            opened(tmp_path / f"{name}.txt", format="text")[0]
