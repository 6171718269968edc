"""Parquet through datasets: folders as on the hub, the columns of the field, and one line for what is wrong."""

from __future__ import annotations

import builtins
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from tars import opened, picture, shown

from mm15.data.sources import SourceData
from mm15.errors import UserError
from mm15.regions import Region
from mm15.sample import Role

TURN = {"user": "What is it?", "assistant": "A cat."}
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
TURNS = pa.list_(pa.struct({"user": pa.string(), "assistant": pa.string(), "source": pa.string()}))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "huggingface")


def row(number: int, pictures: int = 1) -> dict[str, Any]:
    images = [{"bytes": picture(number + i), "path": None} for i in range(pictures)]
    return {"images": images, "texts": [{**TURN, "assistant": f"Answer {number}.", "source": "vqa"}]}


def write(path: Path, rows: list[dict[str, Any]], images: pa.DataType | None = None, **columns: Any) -> Path:
    """Rows as a parquet file; `columns` are further ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "images": pa.array([row["images"] for row in rows], images or pa.list_(STRUCT)),
            "texts": pa.array([row["texts"] for row in rows], TURNS),
            **columns,
        }
    )
    parquet.write_table(table, path, row_group_size=2)
    return path


def chat(path: Path | str, layout: str = "chat", **more: Any) -> SourceData:
    return opened(path, layout, kind="parquet", **more)


def answers(source: SourceData) -> list[Any]:
    return [shown(source[i])[-1] for i in range(len(source))]


# ---------------------------------------------------------------------------------------------------------------- chat


def test_pictures_stand_before_the_first_question(tmp_path: Path) -> None:
    """As the_cauldron and FineVision have it; rows without pictures are text; the bytes are not decoded."""
    broken = {"images": [{"bytes": b"no picture at all", "path": "a.png"}], "texts": [TURN]}
    talk = {"images": None, "texts": [TURN, {"user": "And this?", "assistant": "A dog."}]}
    source = chat(write(tmp_path / "a.parquet", [row(0, 2), talk, {**talk, "images": []}, broken]))
    assert shown(source[0]) == [picture(0), picture(1), "What is it?", "Answer 0."]
    assert [(part.role, part.target) for part in source[0].parts] == [
        (Role.USER, False), (Role.USER, False), (Role.USER, False), (Role.ASSISTANT, True)
    ]  # fmt: skip
    assert shown(source[1]) == shown(source[2]) == ["What is it?", "A cat.", "And this?", "A dog."]
    assert shown(source[3])[0] == b"no picture at all"
    assert [source[i].id for i in range(4)] == ["0", "1", "2", "3"]
    with pytest.raises(IndexError):
        source[4]


def test_every_way_to_keep_a_picture(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(picture(1))
    ways: dict[str, tuple[pa.DataType, Any]] = {
        "list of structs": (pa.list_(STRUCT), [{"bytes": picture(1), "path": "x.png"}]),
        "one struct": (STRUCT, {"bytes": picture(1), "path": None}),
        "bytes": (pa.binary(), picture(1)),
        "list of bytes": (pa.list_(pa.large_binary()), [picture(1)]),
        "path": (pa.string(), "p.png"),
        "list of paths": (pa.list_(pa.string()), [str(tmp_path / "p.png")]),
        "struct with a path": (pa.list_(STRUCT), [{"bytes": None, "path": "p.png"}]),
    }
    for name, (kind, value) in ways.items():
        found = chat(write(tmp_path / "a.parquet", [{"images": value, "texts": [TURN]}], kind))[0].images[0].data
        assert (found if isinstance(found, bytes) else Path(found).read_bytes()) == picture(1), name
    (tmp_path / "other").mkdir()
    os.rename(tmp_path / "p.png", tmp_path / "other" / "p.png")
    path = write(tmp_path / "a.parquet", [{"images": "p.png", "texts": [TURN]}], pa.string())
    assert chat(path, images=str(tmp_path / "other"))[0].images[0].data == tmp_path / "other" / "p.png"


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [row(5)])
    table = parquet.read_table(path).rename_columns(["image", "conversation"])
    parquet.write_table(table, path)
    assert shown(chat(path, columns={"images": "image", "texts": "conversation"})[0])[-1] == "Answer 5."
    assert answers(chat(path, columns={"images": "", "texts": "conversation"})) == ["Answer 5."]
    assert not chat(path, columns={"images": "", "texts": "conversation"})[0].images
    with pytest.raises(UserError, match=r"no column 'images', there are image, conversation; name it with columns: {i"):
        chat(path)
    with pytest.raises(UserError, match=r"no column 'texts', there are image, conversation"):
        chat(path, columns={"images": "image"})
    with pytest.raises(UserError, match=r"no column 'sample', there are image, conversation; is this layout chat\?"):
        chat(tmp_path / "a.parquet", "mm15", columns={})


def test_turns_as_a_dictionary_of_lists(tmp_path: Path) -> None:
    """Older files of datasets keep a sequence of dictionaries so."""
    turns = {"user": ["a", "b"], "assistant": ["c", "d"]}
    table = pa.table({"images": pa.array([None], pa.list_(STRUCT)), "texts": [turns]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert shown(chat(tmp_path / "a.parquet")[0]) == ["a", "c", "b", "d"]


BAD = [
    ({"texts": [{"user": "a", "assistant": None}]}, "turn 0 needs texts as 'user' and 'assistant', got"),
    ({"texts": [TURN, None]}, "turn 1 needs texts"),
    ({"texts": None}, "the turns are a list"),
    ({"texts": []}, "the assistant says nothing"),
    ({"texts": [{"user": "a", "assistant": ""}]}, "the assistant says nothing"),
    ({"images": [{"bytes": None, "path": None}]}, "a picture is bytes, a path"),
    ({"images": [{"bytes": None, "path": "https://x.org/a.png"}]}, "is on the web; download it"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_rows_that_cannot_be_used(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    source = chat(write(tmp_path / "a.parquet", [row(0), {**row(1), **change}, row(2)]))
    with pytest.raises(UserError, match=message) as error:
        source[1]
    assert str(error.value).startswith(f"{tmp_path}/a.parquet row 1: ") and "\n" not in str(error.value)
    assert [shown(source[i])[-1] for i in (0, 2)] == ["Answer 0.", "Answer 2."]


def test_places_in_texts_are_read(tmp_path: Path) -> None:
    """In pixels of the last picture, which is 12x8."""
    rows = [{**row(0), "texts": [{"user": "Where is [500, 500]?", "assistant": "At [250, 500, 750, 1000]."}]}]
    parts = chat(write(tmp_path / "a.parquet", rows), regions="ferret")[0].parts
    regions = [part for part in parts if isinstance(part.content, Region)]
    assert [(part.role, part.target) for part in regions] == [(Role.USER, False), (Role.ASSISTANT, True)]
    assert tuple(regions[1].content.shape) == pytest.approx((3, 4, 9, 8), abs=0.02)  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------------------------- files


def test_a_path_is_a_file_a_folder_a_pattern_or_a_range(tmp_path: Path) -> None:
    """Of folders the parquet files alone, whatever lies beside them, as of those that `mm15 data build` writes."""
    for n in range(3):
        write(tmp_path / "d" / f"shard-{n:06d}.parquet", [row(2 * n), row(2 * n + 1)])
    for name in ("dataset.json", "ledger-0.json", "ledger-1.json", "ledger-2.json", "notes.txt"):
        (tmp_path / "d" / name).write_text("{}")
    everything = [f"Answer {n}." for n in range(6)]
    for path, wanted in {
        "d": everything,
        "d/shard-*.parquet": everything,
        "d/shard-{000001..000002}.parquet": everything[2:],
        "d/shard-000001.parquet": everything[2:4],
    }.items():
        assert answers(chat(tmp_path / path)) == wanted, path
    assert answers(chat((tmp_path / "d").as_uri() + "/shard-000000.parquet")) == everything[:2]


def test_a_folder_laid_out_as_on_the_hub(tmp_path: Path) -> None:
    """Splits by the names of files; with a dataset card, splits and configs are what it says."""
    repo = tmp_path / "repo"
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        write(repo / "data" / f"{name}.parquet", [row(number)])
    assert answers(chat(repo)) == ["Answer 0.", "Answer 1."]
    assert answers(chat(repo, split="test")) == ["Answer 2."]
    with pytest.raises(UserError, match=r"no split 'val', there are train, test"):
        chat(repo, split="val")
    with pytest.raises(UserError, match=r"config 'x' is for the hub and folders with a README"):
        chat(repo, config="x")
    write(repo / "ai2d" / "some.parquet", [row(7)])
    card = "---\nconfigs:\n- config_name: ai2d\n  data_files:\n  - split: train\n    path: ai2d/*.parquet\n"
    (repo / "README.md").write_text(card + "- config_name: all\n  data_files: data/*.parquet\n---\n")
    assert answers(chat(repo, config="ai2d")) == ["Answer 7."]
    assert len(chat(repo, config="all")) == 3
    with pytest.raises(UserError, match=r"ai2d"):
        chat(repo, config="none")


def test_a_name_that_is_nothing_local_is_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is asked for exactly that, with the config; without one to ask, one line says so."""
    import datasets

    folder = write(tmp_path / "repo" / "train.parquet", [row(3)]).parent
    real, asked = datasets.load_dataset_builder, []

    def hub(path: str, name: str | None = None, **more: Any) -> Any:
        asked.append((path, name))
        return real(str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset_builder", hub)
        assert answers(chat("someone/screens.v2", config="ui")) == ["Answer 3."]
    assert asked == [("someone/screens.v2", "ui")]

    def gone(*_: Any, **__: Any) -> Any:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub\nor cannot be accessed.")

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset_builder", gone)
        with pytest.raises(UserError, match=r"a/b: no such file, and the hub has no such dataset that you may read"):
            chat("a/b")
    for path in ("gone.parquet", "./a/b", "a/b/c", "/a/b", "x*.parquet"):
        with pytest.raises(UserError, match=r"no such file|no file matches"):
            chat(path)


def test_what_is_no_parquet(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.parquet", [row(0)]).read_bytes()
    for data in (b"", b"x", b"hello" * 100, bytes(500), whole[:-1], whole[:400], whole[:-8] + b"\xff\xff\xff\x7fPAR1"):
        (tmp_path / "a.parquet").write_bytes(data)
        with pytest.raises(UserError, match=r"a.parquet: no parquet file, or one that is cut off") as error:
            chat(tmp_path / "a.parquet")
        assert "\n" not in str(error.value)
    damaged = bytearray(whole)
    damaged[-100:-50] = b"\xff" * 50
    (tmp_path / "a.parquet").write_bytes(damaged)
    with pytest.raises(UserError, match=r"cannot be read through datasets") as error:
        chat(tmp_path / "a.parquet")
    assert "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty.*no file matches"):
        chat(tmp_path / "empty")
    with pytest.raises(UserError, match=r"holds no rows"):
        chat(write(tmp_path / "none.parquet", []))


def test_without_datasets_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "datasets":
            raise ImportError(name)
        return real(name, *rest)

    path = write(tmp_path / "a.parquet", [row(0)])
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"need `datasets`: pip install 'mm15\[datasets\]'"):
        chat(path)


def test_many_processes_read_one_source(tmp_path: Path) -> None:
    source = chat(write(tmp_path / "a.parquet", [row(n) for n in range(50)]))
    wanted = [f"Answer {n}." for n in range(50)]
    assert answers(pickle.loads(pickle.dumps(source))) == wanted == answers(source)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert [shown(sample)[-1] for sample in pool.map(source.__getitem__, range(50))] == wanted


def test_the_fingerprint_changes_with_the_data_alone(tmp_path: Path) -> None:
    changed = {**row(1), "texts": [{**TURN, "assistant": "Answer 9.", "source": "vqa"}]}
    found = set()
    for rows in ([row(0), row(1)], [row(1), row(2, 2)], [row(0)], [row(0), changed]):
        source = chat(write(tmp_path / "a.parquet", rows))
        assert source.fingerprint.startswith(f"mine:{len(rows)}:")
        found.add(source.fingerprint)
        os.utime(tmp_path / "a.parquet", (5, 5))
        assert chat(tmp_path / "a.parquet").fingerprint == source.fingerprint
    assert len(found) == 4
    assert chat(write(tmp_path / "elsewhere" / "a.parquet", rows)).fingerprint == source.fingerprint
    assert chat(tmp_path / "a.parquet", regions="ferret").fingerprint not in found


def test_native_rows_that_cannot_be_used(tmp_path: Path) -> None:
    """Whole ones: test_shards."""
    part = '{"role": "document", "%s": "%s"}'
    texts = ["no json", "[]", '{"parts": [' + part % ("image", "1.png") + "]}", None]
    images = pa.array([[{"bytes": picture(0), "path": "0.png"}]] * 4, pa.list_(STRUCT))
    parquet.write_table(pa.table({"id": ["a"] * 4, "sample": texts, "images": images}), tmp_path / "a.parquet")
    source = chat(tmp_path / "a.parquet", "mm15")
    for index, message in enumerate(
        ["sample is no row of mm15", "sample is no row", r"picture '1.png' is not .* has \['0.png'\]", "no row of mm15"]
    ):
        with pytest.raises(UserError, match=f"row {index}: .*{message}") as error:
            source[index]
        assert "\n" not in str(error.value)
