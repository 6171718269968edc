"""Sources: what a row of each format becomes, and one clear line for everything that is wrong with a file or row."""

from __future__ import annotations

import base64
import io
import json
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from pydantic import TypeAdapter

from mm15.data.sources import SourceData, open_source, stored
from mm15.errors import UserError
from mm15.recipe import Source
from mm15.sample import Image, Role, Sample
from mm15.world import make

QUESTION = {"from": "human", "value": "<image>\nWhat is this?"}
ANSWER = {"from": "gpt", "value": "A cat."}


def write(path: Path, data: list[Any], *, lines: bool = True) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in data) if lines else json.dumps(data, indent=1)
    path.write_text(text, encoding="utf-8")
    return path


def opened(path: Path, kind: str, **more: str) -> SourceData:
    settings = TypeAdapter(Source).validate_python({"format": kind, "path": str(path), **more})
    return open_source(settings, "mine")


def llava(folder: Path, *data: dict[str, Any]) -> SourceData:
    return opened(write(folder / "rows.jsonl", list(data)), "llava")


def openai(folder: Path, *messages: Any, **row: Any) -> SourceData:
    return opened(write(folder / "rows.jsonl", [{"messages": list(messages), **row}]), "openai")


def shown(sample: Sample) -> list[tuple[str, Any]]:
    """(role, text or picture's data) of each part, targets in capitals."""
    return [
        (
            part.role.upper() if part.target else part.role,
            part.content.data if isinstance(part.content, Image) else part.content,
        )
        for part in sample.parts
    ]


# ---------------------------------------------------------------------------------------------------------------- llava


def test_llava_pictures_stand_at_their_markers(tmp_path: Path) -> None:
    value = "First <image>\nthen <image> and\n<image>"
    source = llava(
        tmp_path,
        {
            "id": "a",
            "image": ["x.png", "y.png", "sub/z.png"],
            "conversations": [{"from": "human", "value": value}, ANSWER],
        },
    )
    assert shown(source[0]) == [
        (Role.USER, "First "),
        (Role.USER, tmp_path / "x.png"),
        (Role.USER, "then "),
        (Role.USER, tmp_path / "y.png"),
        (Role.USER, " and"),
        (Role.USER, tmp_path / "sub/z.png"),
        ("ASSISTANT", "A cat."),
    ]
    assert (source[0].id, source[0].source, source.name) == ("0:a", "mine", "mine")


def test_llava_turns_speakers_and_text_only(tmp_path: Path) -> None:
    row = {
        "conversations": [
            {"from": "system", "value": "Be short."},
            {"from": "human", "value": "Hello"},
            {"from": "gpt", "value": "At [10, 20, 30, 40]."},
            {"from": "human", "value": "Bye"},
            {"from": "gpt", "value": "Bye."},
        ]
    }
    sample = llava(tmp_path, row)[0]
    assert shown(sample) == [
        (Role.SYSTEM, "Be short."),
        (Role.USER, "Hello"),
        ("ASSISTANT", "At [10, 20, 30, 40]."),
        (Role.USER, "Bye"),
        ("ASSISTANT", "Bye."),
    ]
    assert sample.id == "0" and not sample.images


def test_llava_pictures_without_markers_come_first(tmp_path: Path) -> None:
    """In the first human turn, as LLaVA puts them."""
    turns = [{"from": "system", "value": "S"}, {"from": "human", "value": "Compare."}, ANSWER]
    sample = llava(tmp_path, {"image": ["a.png", "b.png"], "conversations": turns})[0]
    assert [content for _, content in shown(sample)] == [
        "S",
        tmp_path / "a.png",
        tmp_path / "b.png",
        "Compare.",
        "A cat.",
    ]


def test_llava_list_and_lines_are_the_same_rows(tmp_path: Path) -> None:
    """A JSON list, JSONL, byte order marks, other than ASCII, blank lines, Windows line ends, no last line end."""
    data = [
        {"id": i, "image": f"{i}.png", "conversations": [QUESTION, {"from": "gpt", "value": f"ünï€ {i} 汉 😀"}]}
        for i in range(50)
    ]
    a = opened(write(tmp_path / "a.jsonl", data), "llava")
    b = opened(write(tmp_path / "b.json", data, lines=False), "llava")
    raw = json.dumps(data, ensure_ascii=False)
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf  " + raw.encode())
    lines = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in data)
    (tmp_path / "d.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    others = [b, opened(tmp_path / "c.json", "llava"), opened(tmp_path / "d.jsonl", "llava")]
    for other in others:
        assert len(other) == len(a) == 50
        for i in (49, 0, 7, 49):
            assert shown(other[i]) == shown(a[i]) and other[i].id == a[i].id == f"{i}:{i}"
    assert a[7].parts[-1].content == "ünï€ 7 汉 😀"
    with pytest.raises(IndexError):
        a[50]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.png", "conversations": [QUESTION, QUESTION, ANSWER]}, "2 <image> markers and 1 pictures"),
        ({"conversations": [QUESTION, ANSWER]}, "1 <image> markers and 0 pictures"),
        ({"conversations": [{"from": "martian", "value": "?"}]}, "turn 0 needs 'from' .one of human"),
        ({"conversations": [{"from": "human", "value": 3}]}, "a text as 'value'"),
        ({"conversations": ["hello"]}, "turn 0 needs 'from'"),
        ({"conversations": "hello"}, "'conversations' is a list of turns, got 'hello'"),
        ({"text": "hello"}, "'conversations' is a list of turns, got None"),
        ({"image": 3, "conversations": [QUESTION, ANSWER]}, "a picture is named by a path"),
        ({"image": "https://x.org/a.png", "conversations": [QUESTION, ANSWER]}, "is on the web; download it"),
        ({"conversations": [{"from": "human", "value": "?"}]}, "the assistant says nothing"),
        ({"image": "a.png", "conversations": [ANSWER]}, "1 pictures, but no turn is the user's"),
    ],
)  # fmt: skip
def test_llava_rows_that_cannot_be_used(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    """One line with file, line number, id and both numbers; the other rows stay usable."""
    good = {"image": "a.png", "conversations": [QUESTION, ANSWER]}
    source = llava(tmp_path, good, {"id": "bad", **row}, good)
    with pytest.raises(UserError, match=message) as error:
        source[1]
    assert str(error.value).startswith(f"{tmp_path / 'rows.jsonl'} line 2 (id 'bad'): ")
    assert "\n" not in str(error.value)
    assert len(source[2].images) == 1


# --------------------------------------------------------------------------------------------------------------- openai


def test_openai_texts_and_pictures(tmp_path: Path) -> None:
    """Contents as text or parts, in order; paths, file: and data: addresses; developer is system."""
    file = io.BytesIO()
    PILImage.new("RGB", (3, 2), (200, 0, 0)).save(file, "PNG")
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    sample = openai(
        tmp_path,
        {"role": "developer", "content": "Be short."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "One"},
                {"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}},
                {"type": "image_url", "image_url": "file:///data/b%20c.png"},
                {"type": "image", "image": address},
                {"type": "text", "text": "two"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        id=7,
    )[0]
    assert shown(sample) == [
        (Role.SYSTEM, "Be short."),
        (Role.USER, "One"),
        (Role.USER, tmp_path / "a.png"),
        (Role.USER, "/data/b c.png"),
        (Role.USER, file.getvalue()),
        (Role.USER, "two"),
        ("ASSISTANT", "Yes."),
    ]
    assert sample.id == "0:7"


def test_openai_pictures_from_the_rows_list(tmp_path: Path) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "?"}, {"type": "image"}]
    answer = {"role": "assistant", "content": "A."}
    path = write(
        tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": content}, answer], "images": ["a", "b"]}]
    )
    assert [i.data for i in opened(path, "openai", images="/pictures")[0].images] == [
        Path("/pictures/a"),
        Path("/pictures/b"),
    ]
    with pytest.raises(UserError, match="named by a path or a data: address, got None"):
        openai(tmp_path, {"role": "user", "content": content}, answer, images=["a"])[0]
    with pytest.raises(UserError, match="'images' names 3 pictures, and the messages show 2 of them"):
        openai(tmp_path, {"role": "user", "content": content}, answer, images=["a", "b", "c"])[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}], "on the web; download it and name"),
        ([{"type": "image_url", "image_url": "HTTP://x.org/a.png"}], "is on the web"),
        ([{"type": "image_url", "image_url": {}}], "named by a path or a data: address, got None"),
        ([{"type": "image_url", "image_url": "data:image/png,abc"}], "is no picture; write data:image/png;base64,"),
        ([{"type": "image_url", "image_url": "data:image/png;base64,a*"}], "base64 of a data: address is damaged"),
        ([{"type": "audio"}], "type text, image_url or image, got {'type': 'audio'}"),
        (["hello"], "type text, image_url or image, got 'hello'"),
        (3, "'content' is a text or a list of parts, got 3"),
    ],
)  # fmt: skip
def test_openai_contents_that_cannot_be_used(tmp_path: Path, content: Any, message: str) -> None:
    source = openai(tmp_path, {"role": "user", "content": content}, {"role": "assistant", "content": "A."})
    with pytest.raises(UserError, match=message) as error:
        source[0]
    assert "rows.jsonl line 1: " in str(error.value) and "\n" not in str(error.value)


def test_openai_messages_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="message 1 has role 'tool'; use one of system, developer, user, assistant"):
        openai(tmp_path, {"role": "user", "content": "?"}, {"role": "tool", "content": "3"})[0]
    with pytest.raises(UserError, match="message 0 has role None"):
        openai(tmp_path, "hello")[0]
    with pytest.raises(UserError, match="the assistant says nothing"):
        openai(tmp_path, {"role": "user", "content": "?"}, {"role": "assistant", "content": ""})[0]


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", ["llava", "openai"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; check the path"),
        (b"", "holds no rows"),
        (b"\n \n\n", "holds no rows"),
        (b"[]", "holds no rows"),
        (b"[ {}, \n {} \n", "line 3: not valid JSON .it ends in the middle, expected ',' or '].."),
        (b"[{}, {},\n]", "line 2: not valid JSON"),
        (b"[{}] x", "line 1: not valid JSON .text after the end"),
        (b"{\n}", "line 1: not valid JSON"),
        (b"id,image\n1,a.png\n", "line 1: not valid JSON"),
        (b"3\n", "line 1: a row is an object in braces, this is int"),
        (b"[3]", "line 1: a row is an object in braces, this is int"),
        (b'{"id": 3}', r"rows of this format have '(conversations|messages)', this one has \['id'\]"),
        (b'["\xff"]', "line 1: not UTF-8 text at byte 1"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path: Path, kind: str, content: bytes | None, message: str) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        opened(path, kind)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a folder without \.jsonl files; name another, or a pattern such as"):
        opened(tmp_path, "llava")


def test_a_bad_line_is_named_and_the_others_work(tmp_path: Path) -> None:
    good = json.dumps({"conversations": [{"from": "human", "value": "?"}, ANSWER]})
    (tmp_path / "a.jsonl").write_text(f"{good}\n\n{good}\n{{broken\n{good}")
    source = opened(tmp_path / "a.jsonl", "llava")
    assert len(source) == 4
    with pytest.raises(UserError, match=r"a\.jsonl line 4: not valid JSON"):
        source[2]
    assert source[3].id == "3"


def test_lines_longer_than_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "CHUNK", 64)
    data = [{"conversations": [{"from": "human", "value": "x" * (37 * i)}, ANSWER]} for i in range(20)]
    source = llava(tmp_path, *data)
    assert [len(source[i].parts[0].content) if i else 0 for i in range(20)] == [37 * i for i in range(20)]
    assert source.rows.where(13) == f"{tmp_path / 'rows.jsonl'} line 14"


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    """The same file again: the same; one character changed or a row more: another. It starts with name and length."""
    row = {"conversations": [{"from": "human", "value": "?"}, ANSWER]}
    first = llava(tmp_path, row).fingerprint
    assert first.startswith("mine:1:") and llava(tmp_path, row).fingerprint == first
    changed = {"conversations": [{"from": "human", "value": "!"}, ANSWER]}
    others = [llava(tmp_path, changed), llava(tmp_path, row, row)]
    others += [opened(write(tmp_path / "list.json", [one], lines=False), "llava") for one in (row, changed)]
    assert len({first, *(other.fingerprint for other in others)}) == 5


def _answer(source: SourceData, index: int, out: multiprocessing.Queue) -> None:
    out.put(source[index].parts[-1].content)


@pytest.mark.parametrize("lines", [True, False])
def test_sources_work_in_other_processes(tmp_path: Path, lines: bool) -> None:
    """Forked after use, and pickled."""
    data = [{"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": str(i)}]} for i in range(9)]
    source = opened(write(tmp_path / "a.json", data, lines=lines), "llava")
    assert pickle.loads(pickle.dumps(source))[5].parts[-1].content == "5"
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_answer, args=(source, i, queue)) for i in range(3)]
    for process in processes:
        process.start()
    assert sorted(queue.get(timeout=20) for _ in processes) == ["0", "1", "2"]
    for process in processes:
        process.join()


# ---------------------------------------------------------------------------------------------------------------- world


def world(**settings: Any) -> SourceData:
    return open_source(TypeAdapter(Source).validate_python({"format": "world", "kind": "ground", **settings}), "mine")


def test_world_samples_are_the_worlds() -> None:
    source = world(level=2, size=96, seed=3, split="heldout", samples=10)
    sample, wanted = source[4], make("ground", 4, level=2, size=96, seed=3, split="heldout")
    assert len(source) == 10 and sample.source == "mine" and sample.id == wanted.id and sample.meta == wanted.meta
    assert all(
        np.array_equal(a.content.data, b.content.data) if isinstance(a.content, Image) else a == b
        for a, b in zip(sample.parts, wanted.parts, strict=True)
    )
    with pytest.raises(IndexError):
        source[10]
    prints = {world(**change).fingerprint for change in ({}, {"seed": 1}, {"level": 2}, {"size": 64}, {"samples": 9})}
    assert len(prints) == 5 and world().fingerprint in prints and world().fingerprint.startswith("mine:1000000:")


def test_world_settings_that_do_not_exist() -> None:
    with pytest.raises(UserError, match="did you mean 'ground'"):
        open_source(TypeAdapter(Source).validate_python({"format": "world", "kind": "grond"}), "mine")
    with pytest.raises(UserError, match="level 9"):
        world(level=9)


@pytest.mark.parametrize("silent", [0, 1, 2, 3])
def test_a_turn_that_says_nothing_is_an_error_not_a_merger(tmp_path: Path, silent: int) -> None:
    said = ["How many?", "Two.", "And now?", "Three."]
    said[silent] = ""
    speakers = ["human", "gpt", "human", "gpt"]
    row = {"conversations": [{"from": who, "value": what} for who, what in zip(speakers, said, strict=True)]}
    with pytest.raises(UserError, match=r"line 1: a turn of the (user|assistant) says nothing"):
        llava(tmp_path, row)[0]
