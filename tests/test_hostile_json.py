"""JSON files as they should not be: every one refused in one line, fast, in bounded memory, or read right."""

from __future__ import annotations

import json
import os
import random
import time
import tracemalloc
from pathlib import Path
from typing import Any

import fsspec
import pytest
from test_formats import A, block, opened

from mm15.data.sources import index, open_source, stored
from mm15.errors import UserError

ANSWER = {"from": "gpt", "value": "A."}
GOOD = {"conversations": [{"from": "human", "value": "?"}, ANSWER]}


def value(dice: random.Random, depth: int = 0) -> Any:
    """Any JSON, full of what brackets and strings can be mistaken for."""
    kind = dice.randrange(8)
    if depth > 3 or kind < 3:
        return "".join(dice.choice('a"\\,[]{}\n\té😀 ') for _ in range(dice.randrange(12)))
    if kind == 3:
        return dice.random()
    if kind == 4:
        return None
    if kind == 5:
        return [value(dice, depth + 1) for _ in range(dice.randrange(4))]
    return {str(value(dice, 9)): value(dice, depth + 1) for _ in range(dice.randrange(4))}


def test_elements_are_found_as_a_parser_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against json itself: random lists and objects of lists, read in pieces of any size; cut off, they are refused."""
    dice, path = random.Random(5), tmp_path / "a.json"
    for _ in range(120):
        monkeypatch.setattr(stored, "CHUNK", dice.choice([1, 2, 3, 5, 16, 100, 1000]))
        rows = [value(dice) for _ in range(dice.randrange(5))]
        text = json.dumps(rows, indent=dice.choice([None, 1]), ensure_ascii=dice.random() < 0.5)
        raw = (dice.choice(["", "\ufeff \n"]) + text + dice.choice(["", "\n "])).encode()
        path.write_bytes(raw)
        found = index.index_list(stored.Stored(str(path)))
        assert [json.loads(raw[a:b]) for a, b in zip(found.starts, found.ends, strict=True)] == rows
        for a, b, line in zip(found.starts, found.ends, found.lines, strict=True):
            piece = raw[a:b]
            if piece.strip().startswith(b"{"):
                assert line == raw[: a + len(piece) - len(piece.lstrip())].count(b"\n") + 1
        lists = {"info": {"x": [1, {}]}, "rows": rows, "n": 3, "more": [rows, 1]}
        path.write_text(json.dumps(lists, indent=dice.choice([None, 2])))
        raw = path.read_bytes()
        by_key = index.index_lists(stored.Stored(str(path)))
        assert {
            k: [json.loads(raw[a:b]) for a, b in zip(f.starts, f.ends, strict=True)] for k, f in by_key.items()
        } == {
            "rows": rows,
            "more": [rows, 1],
        }
        cut = text.encode()[: dice.randrange(1, len(text.encode()))]
        path.write_bytes(cut)
        with pytest.raises(UserError, match="not valid JSON"):
            index.index_list(stored.Stored(str(path)))


ROWS = {
    b'{"conversations": NaN}': "not valid JSON .NaN is no JSON, write null.",
    b'{"conversations": -Infinity}': "-Infinity is no JSON",
    b'{"a": 1, "b": {"x": 1, "x": 2}}': "key 'x' stands twice in an object",
    b'{"a": "\\ud800"}': "half of a surrogate pair",
    b'{"a": "\\uDFFF!"}': "half of a surrogate pair",
    b'{"a": "\xff"}': "line 2: not UTF-8 text at byte 7; save it as UTF-8",
    b'{"a": "\xed\xa0\x80"}': "not UTF-8 text at byte 7",
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000: "its lists and objects are nested too deep",
    b"[" * 100_000 + b"]" * 100_000: "its lists and objects are nested too deep",
    b'{"a": ' + b"9" * 5000 + b"}": "not valid JSON .Exceeds the limit",
    b'{"a": "\x01"}': "Invalid control character",
    b'{"conversations": [{"from": ["human"], "value": "?"}]}': "turn 0 needs 'from'",
    b'{"conversations": [null]}': "turn 0 needs 'from'",
    b"[]": "a row is an object in braces, this is list",
    b'"text"': "a row is an object in braces, this is str",
}


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_rows_that_are_no_rows(tmp_path: Path, row: bytes) -> None:
    """One line with file and line number, in JSONL; the rows around it can be used."""
    good = json.dumps(GOOD).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good, row, good]))
    source = opened(tmp_path / "a.jsonl", format="llava")
    with pytest.raises(UserError, match=ROWS[row]) as error:
        source[1]
    assert str(error.value).startswith(f"{tmp_path / 'a.jsonl'} line 2: ") and len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 400
    assert source[2].parts[-1].content == "A."


def test_whole_surrogate_pairs_are_characters(tmp_path: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "😀"}, ANSWER]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row).replace("\\ud83d\\ude00", "\\uD83D\\uDE00"))
    assert opened(tmp_path / "a.jsonl", format="llava")[0].parts[0].content == "😀"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe[\0", "UTF-16 text; save it as UTF-8"),
        (b"\0" * 10, "no text .byte 0 is zero."),
        (json.dumps(GOOD).encode() + b"\n\0", "no text .byte 85 is zero.; the file is damaged or was not"),
        (b"[{}, {}]]", "line 1: not valid JSON .text after the end."),
        (b"[{}, {}]\n[{}]", "line 2: not valid JSON .text after the end."),
        (b"[{}, {} }", "line 1: not valid JSON"),
        (b'[{"a": "}]', "line 1: not valid JSON .it ends in the middle"),
        (b"[5 {}]", "line 1: not valid JSON .Extra data"),
    ],
)  # fmt: skip
def test_files_that_are_no_json(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        opened(tmp_path / "a.json", format="llava")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("head", [b"", b"[", json.dumps(GOOD).encode() + b"\n", b"[" + b'{"a": 1}, ' * 10_000])
def test_ten_gigabytes_of_nothing_are_refused_at_once(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "big.json"
    path.write_bytes(head)
    os.truncate(path, 10 * 2**30)
    start = time.monotonic()
    with pytest.raises(UserError, match=r"big\.json: no text \(byte \d+ is zero\)"):
        opened(path, format="llava")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("as_list", [True, False])
def test_rows_longer_than_any_row_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_list: bool) -> None:
    """Before they are in memory, with their line."""
    monkeypatch.setattr(stored, "CHUNK", 1000)
    monkeypatch.setattr(index, "LONGEST", 5000)
    rows = [GOOD, GOOD, {"a": "x" * 20_000}]
    text = "[" + ",\n".join(map(json.dumps, rows)) + "]" if as_list else "\n".join(map(json.dumps, rows))
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="line 3: a row of more than 0 MiB; rows are read whole, split it"):
        opened(tmp_path / "a.json", format="llava")


def test_a_list_is_looked_through_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty times the file: the same memory but for the index, 24 bytes a row and as much while it is joined."""
    monkeypatch.setattr(stored, "CHUNK", 1 << 16)
    row, peaks = json.dumps({**GOOD, "pad": "x" * 10_000}), []
    for count in (20, 400):
        (tmp_path / "a.json").write_text("[" + ", ".join([row] * count) + "]")
        tracemalloc.start()
        assert len(index.index_list(stored.Stored(str(tmp_path / "a.json")))) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 400 * 200 + 100_000


def test_a_conversation_of_a_hundred_thousand_turns(tmp_path: Path) -> None:
    """Linear in its turns (a million take ten times as long)."""
    turns = [{"from": "human", "value": "?"}, ANSWER] * 50_000
    (tmp_path / "a.jsonl").write_text(json.dumps({"conversations": turns}))
    start = time.monotonic()
    assert len(opened(tmp_path / "a.jsonl", format="llava")[0].parts) == 100_000
    assert time.monotonic() - start < 10


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    for name in ("pipe.jsonl", "loop.jsonl", "none*.jsonl", "no\nsuch.jsonl"):
        with pytest.raises(UserError, match=r"no such file; check the path|no file matches; check the pattern"):
            opened(tmp_path / name, format="llava")
    for address, message in (
        ("memory://nowhere/a.jsonl", "no such file"),
        ("no-such://a/b.jsonl", "Protocol not known"),
    ):
        with pytest.raises(UserError, match=message):
            opened(address, format="llava")


# --------------------------------------------------------------------------------------------------- many and far files


def test_a_pattern_is_one_source(tmp_path: Path) -> None:
    """Files in the order of their names; pictures beside each; errors name the file; content counts."""
    for name, count in (("b", 2), ("a", 3)):
        (tmp_path / name).mkdir()
        rows = [{"image": f"{i}.png", **GOOD} for i in range(count)]
        (tmp_path / name / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = opened(tmp_path / "*" / "rows.jsonl", format="llava")
    shown = [source[i].images[0].data for i in range(5)]
    assert shown == [tmp_path / "a" / f"{i}.png" for i in range(3)] + [tmp_path / "b" / f"{i}.png" for i in range(2)]
    assert opened(tmp_path / "*" / "rows.jsonl", format="llava", images="/p")[4].images[0].data == Path("/p/1.png")
    before = source.fingerprint
    (tmp_path / "b" / "rows.jsonl").write_text('{"conversations": 3}')
    changed = opened(tmp_path / "*" / "rows.jsonl", format="llava")
    assert before.startswith("mine:5:") and changed.fingerprint != before
    with pytest.raises(UserError, match=r"b/rows\.jsonl line 1: 'conversations' is a list of turns"):
        changed[3]


def test_pictures_anywhere(tmp_path: Path) -> None:
    """Absolute and upward paths are followed; addresses are fetched; a folder of pictures may be an address."""
    memory = fsspec.filesystem("memory")
    for name in ("/pics/deep/a.png", "/pics/b.png"):
        memory.pipe(name, A)
    names = ["/abs/a.png", "../up.png", "file:///f/a%20b.png", "memory://pics/b.png"]
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": names, **GOOD}))
    data = [image.data for image in opened(tmp_path / "a.jsonl", format="llava")[0].images]
    assert data == [Path("/abs/a.png"), tmp_path / "../up.png", "/f/a b.png", A]
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": ["a.png", "../b.png", "/abs/a.png"], **GOOD}))
    source = opened(tmp_path / "a.jsonl", format="llava", images="memory://pics/deep")
    assert [image.data for image in source[0].images] == [A, A, Path("/abs/a.png")]
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "none.png", **GOOD}))
    with pytest.raises(UserError, match=r"line 1: picture memory://pics/none\.png cannot be read"):
        open_source(block(format="llava", path=str(tmp_path / "a.jsonl"), images="memory://pics"), "x")[0]


def test_a_loop_of_links_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "a.png", **GOOD}))
    source = opened(tmp_path / "a.jsonl", format="llava", regions="ferret")
    from mm15.image import picture_size

    with pytest.raises(UserError, match=r"no such file|Too many levels"):
        picture_size(source[0].images[0], "x")
