"""Hostile files from their sources through the processor to the loader: handled right, or skipped with a line each."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hostile import BAD, GOOD, HEIGHT, WIDTH
from PIL import Image as PILImage
from pyarrow import parquet
from tars import opened, tar

from mm15.data.loader import Batch, PackedLoader
from mm15.data.mixture import Mixture
from mm15.data.sources import SourceData
from mm15.errors import UserError
from mm15.image import Tiling, open_picture
from mm15.processor import MM15Processor, build_processor
from mm15.recipe import Category, Group
from mm15.regions import Coordinates
from mm15.sample import Image, Sample, document
from mm15.text import tokenizer as tokenizers

HOLE = 10 << 30
FILES: dict[str, tuple[str, bytes]] = {
    name: (ending, made()) for name, (ending, made, *_) in [*GOOD.items(), *BAD.items()]
}


@pytest.fixture(scope="module")
def processor() -> MM15Processor:
    trained = tokenizers.train(["What is it? A thing."] * 20, vocab_size=300)
    return build_processor(
        tokenizers.prepare(trained, coordinates=Coordinates()),
        tiling=Tiling(tile=32, min_tiles=1, max_tiles=4),
        coordinates=Coordinates(),
        tokens_per_tile=4,
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "huggingface")
    monkeypatch.setenv("MM15_CACHE", str(tmp_path / "cache"))


def hole(path: Path, start: bytes = b"", size: int = HOLE) -> Path:
    """A file of 10 GB that takes no room."""
    with open(path, "wb") as file:
        file.write(start)
        file.truncate(size)
    return path


def epoch(source: SourceData, processor: MM15Processor, workers: int) -> tuple[dict[int, Batch], PackedLoader]:
    """(the row of each sample that could be used, the loader) after one pass over a source."""
    groups = {"all": Group(categories={"all": Category(sources={"mine": 1})})}
    loader = PackedLoader(
        Mixture(groups, {"mine": len(source)}), {"mine": source}, processor.encode, processor.measure,
        tokens=64, tiles=5, rows=1, workers=workers, lookahead=1,
    )  # fmt: skip
    rows: dict[int, Batch] = {}
    for batch in (batch for step in loader for batch in step):
        assert len(batch.refs) <= 1, "a row holds one of them, so that its tiles are its own"
        if batch.refs:  # else its document could be measured but not encoded
            rows.setdefault(batch.refs[0].index, batch)
        loader.state_dict()  # which tells what was found unusable only when it was encoded
        if {*rows, *(one.index for one in loader.skipped)} == set(range(len(source))):
            return rows, loader
    raise AssertionError("the loader has no end")


def check(
    source: SourceData, names: list[str], processor: MM15Processor, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    """Sample i is the picture names[i]: its tiles are those of the pixels known beforehand, or its line is there."""
    with caplog.at_level(logging.WARNING, logger="mm15.data.loader"):
        rows, loader = epoch(source, processor, workers)
    for index, batch in rows.items():
        _, _, pixels, cost = GOOD[names[index]]
        wanted = processor.encode(Sample("x", "x", document(Image(pixels()), "x"))).tiles.astype(float)
        found = batch.tiles.numpy()
        assert found.shape == wanted.shape, names[index]
        assert np.abs(found - wanted).mean() <= cost, names[index]
    reasons = {names[one.index]: one.reason for one in loader.skipped}
    assert {names[i] for i in rows} == set(GOOD) & set(names) and set(reasons) == set(names) - set(GOOD)
    logged = [record.getMessage() for record in caplog.records]
    for name, reason in reasons.items():
        ending, words = BAD[name][0], BAD[name][2]
        assert words in reason and "\n" not in reason and len(reason) < 500, (name, ending, reason)
        assert any(reason in line for line in logged)


# ------------------------------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize("workers", [0, 2])
def test_a_webdataset_of_all_of_them(
    workers: int, tmp_path: Path, processor: MM15Processor, caplog: pytest.LogCaptureFixture
) -> None:
    members = [
        member
        for number, (ending, data) in enumerate(FILES.values())
        for member in ((f"../../{number:03d}.{ending}", data), (f"../../{number:03d}.txt", "A thing."))
    ]
    check(opened(tar(tmp_path / "a.tar", members)), list(FILES), processor, caplog, workers)
    assert not list(tmp_path.rglob("0*"))


def test_a_parquet_of_all_of_them(tmp_path: Path, processor: MM15Processor, caplog: pytest.LogCaptureFixture) -> None:
    images = [[{"bytes": data, "path": f"../../{name}"}] for name, (_, data) in FILES.items()]
    texts = [[{"user": "What is it?", "assistant": "A thing."}]] * len(images)
    parquet.write_table(pa.table({"images": images, "texts": texts}), tmp_path / "a.parquet")
    check(opened(tmp_path / "a.parquet", "chat", kind="parquet"), list(FILES), processor, caplog, 0)


def llava(folder: Path, files: dict[str, str]) -> SourceData:
    """One row for each: its picture is the path."""
    with open(folder / "rows.jsonl", "w") as file:
        for name, path in files.items():
            turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A thing."}]
            file.write(json.dumps({"id": name, "image": path, "conversations": turns}) + "\n")
    return opened(folder / "rows.jsonl", None, kind="llava")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_of_all_of_them_and_of_what_only_folders_can_hold(
    workers: int,
    tmp_path: Path,
    processor: MM15Processor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Folders, links that lead round in circles, pipes, and 10 GB of nothing."""
    files: dict[str, str] = {}
    for number, (name, (ending, data)) in enumerate(FILES.items()):
        files[name] = f"{number}.{ending}"
        (tmp_path / files[name]).write_bytes(data)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "round").symlink_to(tmp_path / "round")
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    os.mkfifo(tmp_path / "pipe.png")
    hole(tmp_path / "hole.png")
    hole(tmp_path / "head.png", FILES["EXIF-rotated PNG"][1][:33] + b"\x7f\xff\xff\xffnoNe")
    (tmp_path / "a.zip").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../../evil.png", FILES["1 bit PNG"][1])
    only = {
        "a folder": ("folder.png", "this is a folder"),
        "a link to itself": ("round", "no such file"),
        "below links in a circle": ("one/a.png", "no such file"),
        "a pipe": ("pipe.png", "no such file"),
        "a hole": ("hole.png", "10,737,418,240 bytes"),
        "a head and a hole": ("head.png", "10,737,418,240 bytes"),
        "a zip": ("a.zip", "not a picture"),
        "nothing": ("gone.png", "no such file"),
        "a name with a zero": ("a\0b.png", "no such file"),
        "an endless name": ("x" * 5000, "File name too long"),
    }
    for name, (path, words) in only.items():
        files[name] = path
        monkeypatch.setitem(BAD, name, ("", bytes, words))
    check(llava(tmp_path, files), list(files), processor, caplog, workers)


# ---------------------------------------------------------------------------------------------------------------- holes


@pytest.mark.parametrize("start", [b"", b'{"id": 1, "conversations": []}\n', b"[", b'[{"id": 1},', b'{"id": "'])
def test_rows_with_ten_gigabytes_of_nothing(start: bytes, tmp_path: Path) -> None:
    hole(tmp_path / "rows.jsonl", start)
    with pytest.raises(UserError, match=r"rows.jsonl.*zero") as error:
        opened(tmp_path / "rows.jsonl", None, kind="llava")
    assert "\n" not in str(error.value)


def test_parquet_with_ten_gigabytes_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no parquet file, or one that is cut off"):
        opened(hole(tmp_path / "a.parquet", b"PAR1"), "chat", kind="parquet")


def test_links_in_circles_are_no_sources(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for path in ("round", "round/a.tar", "round/*.tar", "round/**/*.tar"):
        with pytest.raises(UserError, match=r"round"):
            opened(tmp_path / path)
    for path in ("round", "round/a.parquet", "round/*.parquet"):
        with pytest.raises(UserError, match=r"round"):
            opened(tmp_path / path, "chat", kind="parquet")


def test_refusing_takes_little_memory(tmp_path: Path) -> None:
    """Every file that is refused, opened in a process of its own whose memory is looked at afterwards."""
    for number, name in enumerate(BAD):
        (tmp_path / f"{number}").write_bytes(FILES[name][1])
    hole(tmp_path / "hole")
    hole(tmp_path / "head", FILES["EXIF-rotated PNG"][1][:33] + b"\x7f\xff\xff\xffnoNe")
    program = """
        import resource, sys
        from pathlib import Path
        from mm15.errors import UserError
        from mm15.image import open_picture
        from mm15.sample import Image
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused = 0
        for path in sorted(Path(sys.argv[1]).iterdir()):
            if path.is_file():
                try:
                    open_picture(Image(path), "x")
                except UserError:
                    refused += 1
        print(refused, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True, check=True
    )
    refused, grown = map(int, done.stdout.split())
    assert refused == len(BAD) + 2 and grown < 150, f"{grown} MB"


def test_the_pictures_here_are_what_they_are_said_to_be() -> None:
    """As Pillow alone sees them: modes, frames and orientation, so that the tests above test what they say."""

    def looked(name: str) -> PILImage.Image:
        return PILImage.open(io.BytesIO(FILES[name][1]))

    assert looked("CMYK JPEG").mode == looked("CMYK TIFF").mode == "CMYK"
    assert looked("16 bit grey PNG").mode == "I;16" and looked("1 bit PNG").mode == looked("1 bit TIFF").mode == "1"
    assert looked("palette with transparency, PNG").mode == "P"
    assert looked("animated GIF").n_frames == looked("animated WebP").n_frames == 3
    assert looked("EXIF-rotated JPEG").size == (HEIGHT, WIDTH)
    assert looked("LAB TIFF").mode == "LAB" and looked("JPEG called png").format == "JPEG"
    assert open_picture(Image(FILES["animated GIF"][1]), "x").size == (WIDTH, HEIGHT)
