"""Converting: every sample accounted for, the way back written beside it, nothing left half done; the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from same import assert_same
from test_formats import A, block, opened

from mm15.data.convert import BESIDE, Report, convert, described, read_block
from mm15.data.sources import open_source
from mm15.errors import UserError
from mm15.sample import Image, Sample


def llava(folder: Path, rows: list[Any]) -> Path:
    (folder / "a.png").write_bytes(A)
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "in.jsonl"


def row(question: str, answer: str = "A cat.", **more: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"image": "a.png", "conversations": turns, **more}


BOX = "<box>[[250, 250, 500, 750]]</box>"


def converted(source: Path, out: Path, to: str, *, regions: str | None = None, **settings: Any) -> Report:
    read = open_source(block(format="llava", path=str(source), regions=regions), "in")
    return convert(read, block(format=to, path=str(out), **settings))


def test_every_sample_is_accounted_for(tmp_path: Path) -> None:
    """read = written + skipped; reasons of one kind are one, with the first samples they happened to."""
    rows = [
        row("<image>\nWhere?", BOX, id="one"),
        row("<image>\nIs it [1, 2, 3, 4, 5]?", id="two"),
        row("<image>\n<image>\n?", id="three"),
        row("<image>\n<image>\n<image>\n?", id="four"),
        row("<image>\nSay <bbox>.", id="five"),
        row("<image>\nThe <ref>cat</ref>" + BOX, id="six"),
    ]
    report = converted(llava(tmp_path, rows), tmp_path / "out.jsonl", "swift", regions="internvl")
    told = report.as_dict()
    assert (told["read"], told["written"], told["lost"]) == (6, 3, [])
    assert sorted((reason["samples"], reason["what"], reason["examples"]) for reason in told["skipped"]) == [
        (1, "its text holds <bbox>, which the format reads as a place for something else", ["4"]),
        (2, "2 <image> markers and 1 pictures; there must be one marker for each", ["2", "3"]),
    ]
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [one["id"] for one in written] == ["one", "two", "six"]
    assert written[0]["objects"] == {"ref": [], "bbox": [[16, 12, 32, 36]], "bbox_type": "real"}
    assert written[2]["objects"]["ref"] == ["cat"] and written[2]["images"] == ["a.png"]
    assert "2 <image> markers" in report.table() and "(first: 2, 3)" in report.table()


def test_the_way_back_is_written_beside_it(tmp_path: Path) -> None:
    """X.source.yaml is a recipe's block with the convention; what it reads is what was written."""
    source = llava(tmp_path, [row("<image>\nWhere?", BOX), row("<image>\nWhat?")])
    read = open_source(block(format="llava", path=str(source), regions="internvl"), "in")
    target = {
        "format": "openai",
        "path": str(tmp_path / "out.jsonl"),
        "regions": {"convention": "qwen2.5-vl", "max_pixels": 50176},
    }
    report = convert(read, block(**target))
    assert report.written == 2
    back = read_block(tmp_path / f"out.jsonl{BESIDE}")
    assert back == block(**target)
    assert_same(read[0], open_source(back, "x")[0], tolerance=0.5)
    assert "bbox_2d" in (tmp_path / "out.jsonl").read_text()
    (tmp_path / "not.source.yaml").write_text("sources: []")
    with pytest.raises(UserError, match=r"not\.source\.yaml: not a file that names one source"):
        read_block(tmp_path / "not.source.yaml")


CHAIN = [
    {"format": "openai", "path": "1.jsonl", "regions": "qwen2-vl"},
    {"format": "swift", "path": "2.jsonl"},
    {"format": "parquet", "layout": "chat", "path": "3.parquet", "regions": "internvl"},
    {"format": "ferret", "path": "4.json"},
    {"format": "webdataset", "layout": "mm15", "path": "5.tar"},
    {"format": "anthropic", "path": "6.jsonl", "regions": "qwen3-vl"},
    {"format": "sharegpt", "path": "7.jsonl", "regions": "kosmos-2"},
    {"format": "mm15", "path": "8.jsonl"},
]


def test_around_all_formats_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight conversions in a row: the same samples, boxes within a patch of Kosmos-2, the coarsest on the way."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    source = llava(tmp_path, [row("<image>\nWhere?", BOX, id="a"), row("<image>\nAt " + BOX + "?", "A cat.\n", id="b")])
    first = last = open_source(block(format="llava", path=str(source), regions="internvl"), "x")
    for step in CHAIN:
        settings = block(**{**step, "path": str(tmp_path / step["path"])})
        report = convert(last, settings)
        assert (report.written, report.lost) == (2, []), step
        last = open_source(settings, "x")
    for index in (0, 1):
        assert_same(first[index], last[index], tolerance=2.1)
    assert [last[0].id, last[1].id] == ["0", "1"]  # parquet's chats and pairs have none


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    """One line; no file is left, and none that is there is touched."""
    source = llava(tmp_path, [row("<image>\nWhere?", BOX, id="a")])
    before = sorted(tmp_path.iterdir())
    read = open_source(block(format="llava", path=str(source), regions="internvl"), "in")
    molmo = {"regions": "molmo"}
    for to, settings, message in (
        ("llava", {}, r"sample 'a': it holds places, .* say how with --regions .one of ferret, internvl"),
        ("llava", molmo, "none of 1 samples can be written as llava: molmo has no boxes"),
        ("text", {"unit": "line"}, "none of 1 samples can be written as text: a conversation, .* .1 of them."),
        ("webdataset", {"layout": "pairs"}, "none of 1 samples .* a conversation, and pairs are documents"),
    ):
        with pytest.raises(UserError, match=message):
            convert(read, block(format=to, path=str(tmp_path / "out.x"), **settings))
        assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(UserError, match=r"in\.jsonl: is there already"):
        converted(source, source, "llava")
    with pytest.raises(UserError, match="the world is generated, not written"):
        convert(opened(source, format="llava"), block(format="world", kind="ground"))


def test_the_world_in_every_format(tmp_path: Path) -> None:
    """Thousands of pictures in memory: written beside; what has no field is named."""
    world = open_source(block(format="world", kind="ground_caption", samples=20), "w")
    report = convert(world, block(format="llava", path=str(tmp_path / "a.json"), regions="internvl"))
    assert [(reason.what, reason.samples) for reason in report.lost] == [("meta", 20)]
    assert len(list((tmp_path / "a.json.images" / "000").iterdir())) == 20
    back = opened(tmp_path / "a.json", format="llava", regions="internvl")
    for index in range(20):
        parts = [part for part in world[index].parts if not isinstance(part.content, Image)]
        again = [part for part in back[index].parts if not isinstance(part.content, Image)]
        assert_same(Sample("", "", tuple(parts)), Sample("", "", tuple(again)), tolerance=0.07)


def test_settings_from_the_command_line() -> None:
    found = described("x.jsonl", "sharegpt", {"images": None}, ["columns.images=pics", "tags.user=Q"], "IN")
    assert found == block(format="sharegpt", path="x.jsonl", columns={"images": "pics"}, tags={"user": "Q"})
    assert described("ground", "world", {}, ["samples=7"], "IN") == block(format="world", kind="ground", samples=7)
    for form, sets, message in (
        ("lava", [], "IN: no format 'lava'; did you mean 'llava'?"),
        ("llava", ["columns.x=1"], "IN: columns: unknown setting"),
        ("llava", ["columns"], "IN: 'columns'; settings are written KEY=VALUE"),
        ("llava", ["path.x=1"], "settings are written KEY=VALUE"),
        ("llava", ["regions=[}"], "is not a YAML value"),
        ("llava", ["regions=feret"], "did you mean 'ferret'"),
        ("text", ["unit=page"], "IN: unit: Input should be"),
    ):
        with pytest.raises(UserError) as error:
            described("x", form, {}, sets, "IN")
        assert message in str(error.value) and "\n" not in str(error.value)


def test_the_command(tmp_path: Path, mm15_command: Command) -> None:
    """Options, the report for people and as JSON, the block beside it as input, and status 2 with one line."""
    source = llava(tmp_path, [row("<image>\nWhere?", BOX, id="a"), row("?", id="b")])
    back = ["--from", "llava", "--from-regions", "internvl"]
    done = mm15_command("data", "convert", source, tmp_path / "o.jsonl", *back, "--to", "ferret", "--copy-pictures")
    assert done.returncode == 0, done.stderr
    assert "2 samples read, 2 written to" in done.stdout and f"o.jsonl{BESIDE}" in done.stdout
    assert (tmp_path / "o.jsonl.images/000/00000000.0.png").read_bytes() == A
    again = [tmp_path / f"o.jsonl{BESIDE}", tmp_path / "c.json", "--to", "coco", "--to-set", "task=find", "--json"]
    done = mm15_command("data", "convert", *again)
    assert done.returncode == 2 and "none of 2 samples can be written as coco: it holds" in done.stderr
    done = mm15_command(
        "data", "convert", tmp_path / f"o.jsonl{BESIDE}", tmp_path / "s.jsonl", "--to", "swift", "--json"
    )
    told = json.loads(done.stdout)
    assert (told["read"], told["written"], told["skipped"]) == (2, 2, [])
    for arguments, message in (
        ([source, "x", "--to", "swift"], "--from FORMAT is missing"),
        ([source, "x", "--from", "llava", "--to", "swif"], "OUT: no format 'swif'; did you mean 'swift'?"),
    ):
        done = mm15_command("data", "convert", *arguments)
        assert done.returncode == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_in_the_middle(tmp_path: Path, end: signal.Signals) -> None:
    """No file under its name; after Ctrl-C nothing at all. The next run is not disturbed by what a kill left."""
    source = llava(tmp_path, [row(f"<image>\n{i}?") for i in range(30_000)])
    arguments = [sys.executable, "-m", "mm15", "data", "convert", str(source), str(tmp_path / "o.jsonl")]
    arguments += ["--from", "llava", "--to", "openai", "--copy-pictures"]
    process = subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "o.jsonl.images.partial").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(end)
    assert process.wait(timeout=60) != 0
    left = {path.name for path in tmp_path.iterdir()} - {"a.png", "in.jsonl"}
    assert left == (set() if end is signal.SIGINT else {"o.jsonl.partial", "o.jsonl.images.partial"})
    source.write_text(json.dumps(row("<image>\n?")))
    converted(source, tmp_path / "o.jsonl", "openai")
    assert len(opened(tmp_path / "o.jsonl", format="openai")) == 1
    left = {path.name for path in tmp_path.iterdir()} - {"a.png", "in.jsonl"}
    assert left == {"o.jsonl", f"o.jsonl{BESIDE}"}
