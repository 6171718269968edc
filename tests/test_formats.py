"""Formats: one table of samples, and each format's rows, written by hand from its public description, read to them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image as PILImage
from pydantic import TypeAdapter
from same import assert_same

from mm15.data.sources import SourceData, open_source
from mm15.errors import UserError
from mm15.recipe import Source
from mm15.regions import Box, Point, Region
from mm15.sample import Image, Part, Sample, assistant, system, user


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    PILImage.new("RGB", (width, height), (200, width, height)).save(file, "PNG")
    return file.getvalue()


A, B = png(64, 48), png(100, 50)
SHEEP = Region(Box(16, 12, 32, 36))
"""In thousandths of picture A: 250, 250, 500, 750."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(A)
    (tmp_path / "b.png").write_bytes(B)
    return tmp_path


def block(**settings: Any) -> Any:
    return TypeAdapter(Source).validate_python(settings)


def opened(path: Path | str, **settings: Any) -> SourceData:
    return open_source(block(path=str(path), **settings), "mine")


def sample(*parts: tuple[Part, ...], **meta: Any) -> Sample:
    return Sample("x", "mine", sum(parts, ()), meta)


# -------------------------------------------------------------------------------------------------------------- reading

READ = {
    "one": sample(user(Image(A), "What is this?"), assistant("A cat.")),
    "two": sample(user(Image(A), Image(B), "Which is wider?"), assistant("The second.")),
    "talk": sample(
        system("Be short."), user("Hello"), assistant("Hi."), user("Look: ", Image(B), "?"), assistant("Wide.")
    ),
    "place": sample(user(Image(A), "Find the sheep."), assistant(SHEEP)),
    "ask": sample(user(Image(A), "What is at ", SHEEP, "?"), assistant("A sheep, ", SHEEP, ".")),
}
"""What the rows of each format below say."""


def _talk(role: str, text: str, names: dict[str, str], look: Any) -> list[dict[str, Any]]:
    said = [("system", "Be short."), ("user", "Hello"), ("assistant", "Hi."), ("user", look), ("assistant", "Wide.")]
    return [{role: names.get(who, who), text: what} for who, what in said]


def _turns(question: Any, answer: Any, names: dict[str, str], role: str = "role", text: str = "content") -> list[Any]:
    return [
        {role: names.get("user", "user"), text: question},
        {role: names.get("assistant", "assistant"), text: answer},
    ]


def _llava(place: str, ask: tuple[str, str]) -> list[dict[str, Any]]:
    human = {"user": "human", "assistant": "gpt"}

    def turns(question: str, answer: str) -> list[Any]:
        return _turns(question, answer, human, "from", "value")

    return [
        {"id": "one", "image": "a.png", "conversations": turns("<image>\nWhat is this?", "A cat.")},
        {"image": ["a.png", "b.png"], "conversations": turns("<image>\n<image>\nWhich is wider?", "The second.")},
        {"image": "b.png", "conversations": _talk("from", "value", human, "Look: <image>?")},
        {"image": "a.png", "conversations": turns("<image>\nFind the sheep.", place)},
        {"image": "a.png", "conversations": turns(f"<image>\n{ask[0]}", ask[1])},
    ]


def llava() -> tuple[dict[str, Any], list[Any]]:
    box = "<box>[[250, 250, 500, 750]]</box>"
    return {"regions": "internvl"}, _llava(box, (f"What is at {box}?", f"A sheep, {box}."))


def llava_shikra() -> tuple[dict[str, Any], list[Any]]:
    box = "[0.250,0.250,0.500,0.750]"
    return {"regions": "shikra"}, _llava(box, (f"What is at {box}?", f"A sheep, {box}."))


def sharegpt() -> tuple[dict[str, Any], list[Any]]:
    """As LLaMA-Factory's data/mllm_demo.json, with every column and tag under another name."""
    names = {"user": "U", "assistant": "A", "system": "S"}
    box = "<|box_start|>(250,250),(500,750)<|box_end|>"

    def turns(question: str, answer: str) -> list[Any]:
        return _turns(question, answer, names, "who", "what")

    look = _talk("who", "what", names, "Look: <image>?")
    rows = [
        {"chat": turns("<image>What is this?", "A cat."), "pics": ["a.png"]},
        {"chat": turns("Which is wider?", "The second."), "pics": ["a.png", "b.png"]},
        {"chat": look[1:], "told": "Be short.", "pics": ["b.png"]},
        {"chat": turns("<image>Find the sheep.", box), "pics": ["a.png"], "told": ""},
        {"chat": turns(f"<image>What is at {box}?", f"A sheep, {box}."), "pics": ["a.png"]},
    ]
    columns = {"messages": "chat", "images": "pics", "system": "told"}
    tags = {"role": "who", "content": "what", **names}
    return {"columns": columns, "tags": tags, "regions": "qwen2-vl"}, rows


def openai() -> tuple[dict[str, Any], list[Any]]:
    def text(words: str) -> dict[str, Any]:
        return {"type": "text", "text": words}

    def picture(url: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url}}

    data = "data:image/png;base64," + base64.b64encode(A).decode()
    box = '[{"bbox_2d": [250, 250, 500, 750]}]'
    return {"regions": "qwen3-vl"}, [
        {"messages": _turns([picture(data), text("What is this?")], "A cat.", {})},
        {"messages": _turns([picture("a.png"), picture("b.png"), text("Which is wider?")], "The second.", {})},
        {"messages": _talk("role", "content", {}, [text("Look: "), picture("b.png"), text("?")])},
        {"messages": _turns([picture("a.png"), text("Find the sheep.")], box, {})},
        {"messages": _turns([picture("a.png"), text(f"What is at {box}?")], f"A sheep, {box}.", {})},
    ]


def anthropic() -> tuple[dict[str, Any], list[Any]]:
    def text(words: str) -> dict[str, Any]:
        return {"type": "text", "text": words}

    def picture(data: bytes) -> dict[str, Any]:
        source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(data).decode()}
        return {"type": "image", "source": source}

    path = {"type": "image", "source": {"type": "path", "path": "a.png"}}
    look = _talk("role", "content", {}, [text("Look: "), picture(B), text("?")])[1:]
    box = "<|det|>[[250, 250, 500, 749]]<|/det|>"
    return {"regions": "deepseek-vl2"}, [
        {"messages": _turns([path, text("What is this?")], "A cat.", {})},
        {"messages": _turns([path, picture(B), text("Which is wider?")], [text("The second.")], {})},
        {"system": [text("Be short.")], "messages": look},
        {"system": "", "messages": _turns([picture(A), text("Find the sheep.")], box, {})},
        {"messages": _turns([path, text(f"What is at {box}?")], f"A sheep, {box}.", {})},
    ]


def swift() -> tuple[dict[str, Any], list[Any]]:
    """As ms-swift's Custom-dataset.md, pixels and norm1."""
    one = [[0.25, 0.25, 0.5, 0.75]]
    return {}, [
        {"messages": _turns("<image>What is this?", "A cat.", {}), "images": ["a.png"]},
        {"messages": _turns("<image><image>Which is wider?", "The second.", {}), "images": ["a.png", "b.png"]},
        {"messages": _talk("role", "content", {}, "Look: <image>?"), "images": ["b.png"]},
        {
            "messages": _turns("<image>Find the <ref-object>.", "<bbox>", {}),
            "images": [{"path": "a.png"}],
            "objects": {"ref": ["sheep"], "bbox": [[16, 12, 32, 36]]},
        },
        {
            "messages": _turns("<image>What is at <bbox>?", "A sheep, <bbox>.", {}),
            "images": "a.png",
            "objects": {"ref": [], "bbox": one * 2, "bbox_type": "norm1"},
        },
    ]


def ferret() -> tuple[dict[str, Any], list[Any]]:
    """As ml-ferret's sample data: fields, and coordinates spelled out; a row of half the picture's size is scaled."""
    place, box = "<bbox_location0>", "[250, 250, 500, 750]"
    rows = _llava(place, (f"What is at {place}?", f"A sheep, {box}."))
    rows[3] |= {"image_w": 64, "image_h": 48, "box_x1y1x2y2": [[], [[16, 12, 32, 36]]]}
    rows[4] |= {"image_w": 32, "image_h": 24, "box_x1y1x2y2": [[[8, 6, 16, 18]], []]}
    return {"regions": "ferret"}, rows


def mm15() -> tuple[dict[str, Any], list[Any]]:
    def part(role: str, **content: Any) -> dict[str, Any]:
        return {"role": role, **content, **({"target": True} if role == "assistant" else {})}

    box = {"box": [16, 12, 32, 36], "of": 0}
    a, b = part("user", image="a.png"), part("user", image="b.png")
    hello = [part("system", text="Be short."), part("user", text="Hello"), part("assistant", text="Hi.")]
    sheep = [part("assistant", text="A sheep, "), part("assistant", **box), part("assistant", text=".")]
    parts = [
        [a, part("user", text="What is this?"), part("assistant", text="A cat.")],
        [a, b, part("user", text="Which is wider?"), part("assistant", text="The second.")],
        [*hello, part("user", text="Look: "), b, part("user", text="?"), part("assistant", text="Wide.")],
        [a, part("user", text="Find the sheep."), part("assistant", **box)],
        [a, part("user", text="What is at "), part("user", **box), part("user", text="?"), *sheep],
    ]
    return {}, [{"id": "7", "parts": row} for row in parts]


ROWS = [llava, llava_shikra, sharegpt, openai, anthropic, swift, ferret, mm15]


@pytest.mark.parametrize("where", ["local", "list", "memory", "file"])
@pytest.mark.parametrize("rows", ROWS)
def test_every_format_reads_the_same_samples(folder: Path, rows: Callable[[], Any], where: str) -> None:
    """From files, lists and any address; half a bin is the most that a convention may move a place."""
    settings, data = rows()
    lines = "".join(json.dumps(row) + "\n" for row in data)
    if where == "memory":
        memory = fsspec.filesystem("memory")
        for name, content in (("rows.jsonl", lines.encode()), ("a.png", A), ("b.png", B)):
            memory.pipe(f"/formats/{name}", content)
        path = "memory://formats/rows.jsonl"
    else:
        file = folder / ("rows.json" if where == "list" else "rows.jsonl")
        file.write_text(json.dumps(data, indent=2) if where == "list" else lines)
        path = f"file://{file}" if where == "file" else str(file)
    source = opened(path, format=rows.__name__.partition("_")[0], **settings)
    assert len(source) == len(READ)
    for index, wanted in enumerate(READ.values()):
        assert_same(wanted, Sample("", "", tuple(map(unlabelled, source[index].parts))), tolerance=0.06)


def unlabelled(part: Part) -> Part:
    """Brackets are labelled with the phrase before them, other conventions with what they say."""
    content = part.content
    return Part(Region(content.shape, content.image), part.role, part.target) if isinstance(content, Region) else part


def test_labels_are_what_a_format_says_a_place_is_of(folder: Path) -> None:
    """swift: the <ref-object> directly before it; several boxes may follow one. internvl: its <ref>."""
    row = {
        "messages": _turns("<image>Find the <ref-object>.", "<ref-object> <bbox> <bbox> and <bbox>", {}),
        "images": ["a.png"],
        "objects": {"ref": ["sheep", "dogs"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9]]},
    }
    (folder / "a.jsonl").write_text(json.dumps(row))
    found = [p.content for p in opened(folder / "a.jsonl", format="swift")[0].parts if isinstance(p.content, Region)]
    assert found == [Region(Box(1, 2, 3, 4), 0, "dogs"), Region(Box(5, 6, 7, 8), 0, "dogs"), Region(Point(9, 9), 0, "")]
    turn = {"from": "gpt", "value": "<ref>a cat</ref><box>[[250, 250, 500, 750]]</box>"}
    row = {"image": "a.png", "conversations": [{"from": "human", "value": "?"}, turn]}
    (folder / "b.jsonl").write_text(json.dumps(row))
    found = opened(folder / "b.jsonl", format="llava", regions="internvl")[0].parts
    assert [p.content for p in found[2:]] == ["a cat ", Region(Box(16, 12, 32, 36), 0, "a cat")]


def test_a_place_is_in_the_last_picture_shown(folder: Path) -> None:
    """Texts before any picture hold none: numbers in brackets stay text."""
    turns = [
        {"from": "human", "value": "In [1, 2] <image>\nat [500, 500]? <image>\nat [0, 0, 999, 999]?"},
        {"from": "gpt", "value": "[500, 500, 999, 999]"},
    ]
    (folder / "a.jsonl").write_text(json.dumps({"image": ["a.png", "b.png"], "conversations": turns}))
    parts = opened(folder / "a.jsonl", format="llava", regions="ferret")[0].parts
    assert parts[0].content == "In [1, 2] "
    regions = [part.content for part in parts if isinstance(part.content, Region)]
    assert [region.image for region in regions] == [0, 1, 1]
    assert tuple(regions[0].shape) == pytest.approx((32.03, 24.02), abs=0.01)
    assert tuple(regions[2].shape) == pytest.approx((50.05, 25.03, 99.95, 49.98), abs=0.01)


def test_what_looks_like_a_place_and_is_none_is_refused(folder: Path) -> None:
    turns = [{"from": "human", "value": "<image>\n?"}, {"from": "gpt", "value": "It is [10, 20, 3000, 40]."}]
    (folder / "a.jsonl").write_text(json.dumps({"id": 5, "image": "a.png", "conversations": turns}))
    with pytest.raises(UserError, match=r"a\.jsonl line 1 \(id 5\): '\[10, 20, 3000, 40\]' is no place as ferret"):
        opened(folder / "a.jsonl", format="llava", regions="ferret")[0]
    assert opened(folder / "a.jsonl", format="llava")[0].parts[-1].content == "It is [10, 20, 3000, 40]."
    (folder / "a.png").unlink()
    with pytest.raises(UserError, match=r"line 1 \(id 5\): picture 0: .*a\.png: no such file"):
        opened(folder / "a.jsonl", format="llava", regions="ferret")[0]
