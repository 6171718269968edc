"""Shards: the same samples give the same bytes, every part comes back, and a file is there whole or not at all."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from pydantic import TypeAdapter
from same import assert_same

from mm15.data.sources import SourceData, open_source
from mm15.data.writers.shards import open_shard
from mm15.errors import UserError
from mm15.recipe import Source
from mm15.regions import Box, Point, Region
from mm15.sample import Image, Sample, Video, assistant, document, system, user

ENDINGS = {"webdataset": "tar", "parquet": "parquet"}
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def encoded(kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(PIXELS).save(buffer, kind, **settings)
    return buffer.getvalue()


def samples(folder: Path) -> list[Sample]:
    """Everything a sample can be."""
    (folder / "a photo.JPG").write_bytes(encoded("JPEG"))
    turns = (
        *system("Be short."),
        *user(Image(folder / "a photo.JPG"), "Where?\n", Region(Point(1.5, 2.25))),
        *user(Image(encoded("PNG"))),
        *assistant(Region(Box(1, 2, 30, 20), 1, "ünï 😀"), " there"),
        *assistant("not learnt", target=False),
    )
    return [
        Sample("7/ü", "s", turns, {"answer": "x", "list": [1, 2.5, None]}),
        Sample("text", "s", document("Only\ttext.")),
        Sample("late", "s", document("Before ", Image(encoded("WEBP", lossless=True)), " after")),
        Sample("clip", "s", (*user(Video("a/b.mp4"), "What?"), *assistant("A dog."))),
        *(Sample(str(i), "s", document(Image(encoded(kind)), kind)) for i, kind in enumerate(("GIF", "TIFF", "BMP"))),
    ]


def write(path: Path, what: list[Sample]) -> Path:
    with open_shard(path, to="parquet" if path.suffix == ".parquet" else "webdataset") as shard:
        for sample in what:
            shard.add(sample)
    assert shard.samples == len(what)
    return path


def opened(path: Path, **more: Any) -> SourceData:
    kind = "parquet" if path.suffix == ".parquet" else "webdataset"
    settings = {"format": kind, "layout": "mm15", "path": str(path), **more}
    return open_source(TypeAdapter(Source).validate_python(settings), "s")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "huggingface")
    monkeypatch.setenv("MM15_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("to", ENDINGS)
def test_every_part_comes_back(to: str, tmp_path: Path) -> None:
    wanted = samples(tmp_path)
    source = opened(write(tmp_path / f"shard-000000.{ENDINGS[to]}", wanted))
    assert len(source) == len(wanted)
    for index, sample in enumerate(wanted):
        found = source[index]
        assert_same(found, sample)
        assert (found.id, found.source, found.meta) == (sample.id, "s", sample.meta)


@pytest.mark.parametrize("to", ENDINGS)
def test_pictures_that_were_never_stored_keep_their_pixels(to: str, tmp_path: Path) -> None:
    clear = PILImage.fromarray(PIXELS).convert("RGBA")
    clear.putalpha(0)
    given = Sample("a", "s", document(Image(PIXELS), Image(PILImage.fromarray(PIXELS)), Image(clear), "x"))
    found = opened(write(tmp_path / f"a.{ENDINGS[to]}", [given]))[0]
    first, second, third = (np.asarray(PILImage.open(io.BytesIO(image.data))) for image in found.images)
    assert (first == PIXELS).all() and (second == PIXELS).all()
    assert (third == 255).all(), "what shows nothing is white, as everywhere"


@pytest.mark.parametrize("to", ENDINGS)
def test_the_same_samples_give_the_same_bytes(to: str, tmp_path: Path) -> None:
    """In another folder, at another time, in another process with another hash seed."""
    name = f"shard-000007.{ENDINGS[to]}"
    (tmp_path / "b").mkdir()
    one = write(tmp_path / name, samples(tmp_path)).read_bytes()
    program = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_shards as t\n"
        "time.time = lambda: 1e9\n"
        "t.write(Path(sys.argv[3]), t.samples(Path(sys.argv[2])))"
    )
    arguments = [str(Path(__file__).parent), str(tmp_path), str(tmp_path / "b" / name)]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, env={"PYTHONHASHSEED": "5"})
    assert (tmp_path / "b" / name).read_bytes() == one
    assert write(tmp_path / name, samples(tmp_path)[::-1]).read_bytes() != one


def test_a_tar_as_other_programs_see_it(tmp_path: Path) -> None:
    """Members side by side, keys without dots, nothing of this machine, pictures byte for byte."""
    path = write(tmp_path / "my.pages-000002.tar", samples(tmp_path)[:2])
    with tarfile.open(path) as tar:
        assert tar.getnames() == [
            "my_pages-000002-000000.json",
            "my_pages-000002-000000.0.jpg",
            "my_pages-000002-000000.1.png",
            "my_pages-000002-000001.json",
        ]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}
        assert tar.extractfile("my_pages-000002-000000.0.jpg").read() == encoded("JPEG")
        row = json.load(tar.extractfile("my_pages-000002-000000.json"))
    assert row["parts"][1] == {"role": "user", "image": "my_pages-000002-000000.0.jpg"}
    assert row["parts"][5] == {
        "role": "assistant", "box": [1, 2, 30, 20], "of": 1, "label": "ünï 😀", "target": True
    }  # fmt: skip


def test_parquet_as_other_programs_see_it(tmp_path: Path) -> None:
    import datasets
    import pyarrow as pa
    from pyarrow import parquet

    path = write(tmp_path / "a.parquet", samples(tmp_path)[:2])
    table = parquet.read_table(path)
    pictures = pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    assert table.schema.remove_metadata() == pa.schema({"id": pa.string(), "sample": pa.string(), "images": pictures})
    assert table["images"][0].as_py() == [
        {"bytes": encoded("JPEG"), "path": "0.jpg"},
        {"bytes": encoded("PNG"), "path": "1.png"},
    ]
    rows = datasets.load_dataset("parquet", data_files=str(path), split="train")
    assert np.array_equal(np.asarray(rows[0]["images"][1]), PIXELS), "datasets shows them as pictures"


def test_row_groups_stay_small(tmp_path: Path) -> None:
    """Reading one sample reads its group: 100 samples or 32 MB."""
    from pyarrow import parquet

    path = write(tmp_path / "a.parquet", [Sample(str(i), "s", document("x")) for i in range(250)])
    groups = parquet.ParquetFile(path).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [100, 100, 50]


@pytest.mark.parametrize("to", ENDINGS)
def test_bytes_depend_on_the_samples_alone(to: str, tmp_path: Path) -> None:
    with open_shard(tmp_path / f"a.{ENDINGS[to]}", to=to) as shard:
        grown = []
        for sample in samples(tmp_path)[1:3]:
            before = shard.bytes
            shard.add(sample)
            grown.append(shard.bytes - before)
    assert grown[0] == len(b'{"id":"text","parts":[{"role":"document","text":"Only\\ttext.","target":true}]}')
    assert grown[1] > len(encoded("WEBP", lossless=True))


@pytest.mark.parametrize("to", ENDINGS)
def test_a_sample_is_written_whole_or_not_at_all(to: str, tmp_path: Path) -> None:
    """What cannot be written is named, and the file is as if it had never been asked for."""
    good = samples(tmp_path)[0]
    parts = good.parts
    bad = [
        (replace(good, parts=(*parts, *user(Image(tmp_path / "gone.png")))), "sample '7/ü' of 's', picture 2.*no such"),
        (replace(good, parts=(*parts, *user(Image(b"hello")))), "picture 2: not a picture"),
        (replace(good, meta={"x": {1, 2}}), "cannot be written as JSON"),
        (replace(good, meta={"x": float("nan")}), "cannot be written as JSON"),
        (replace(good, parts=(*parts, *user("\ud800"))), "cannot be written as JSON"),
    ]
    path = tmp_path / f"a.{ENDINGS[to]}"
    with open_shard(path, to=to) as shard:
        for sample, message in bad:
            with pytest.raises(UserError, match=message) as error:
                shard.add(sample)
            assert "\n" not in str(error.value)
        shard.add(good)
    assert shard.samples == 1
    mixed = path.read_bytes()
    assert write(path, [good]).read_bytes() == mixed


@pytest.mark.parametrize("to", ENDINGS)
def test_a_file_appears_on_close_alone(to: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ENDINGS[to]}"
    pictures = samples(tmp_path)
    others = set(tmp_path.iterdir())
    with open_shard(path, to=to) as shard:
        shard.add(pictures[0])
        assert not path.exists()
    assert set(tmp_path.iterdir()) == others | {path}
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), open_shard(path, to=to) as shard:
        shard.add(pictures[1])
        raise KeyboardInterrupt
    assert path.read_bytes() == before and set(tmp_path.iterdir()) == others | {path}
    with pytest.raises(UserError, match=r"nowhere/a\.\w+: cannot be written \(No such file"):
        open_shard(tmp_path / "nowhere" / path.name, to=to)
