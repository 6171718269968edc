"""Every source says where a sample stands, and its errors begin with that place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from pydantic import TypeAdapter
from tars import tar

from mm15.data.sources import open_source
from mm15.errors import UserError
from mm15.recipe import Source

EMPTY = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": ""}]}
GOOD = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}


def opened(**block: Any) -> Any:
    """The source of a block, named mine."""
    return open_source(TypeAdapter(Source).validate_python(block), "mine")


def written(path: Path, text: str) -> str:
    """The path of a file with this text."""
    path.write_text(text)
    return str(path)


def sources(folder: Path) -> dict[str, tuple[Any, str]]:
    """Sources whose sample 1 cannot be used, and its place."""
    rows = "\n".join(map(json.dumps, (GOOD, EMPTY)))
    chats = [[{"user": "Q", "assistant": "A"}], [{"user": "Q", "assistant": ""}]]
    table = pyarrow.table({"images": pyarrow.array([[], []], pyarrow.list_(pyarrow.binary())), "texts": chats})
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    shards = tar(folder / "a.tar", [("a.json", {"id": "0", "parts": []}), ("b.json", {"id": "1", "parts": []})])
    picture = {"id": 1, "file_name": "x.png", "width": 9, "height": 9}
    coco = {"images": [picture, {**picture, "id": 2}], "annotations": [], "categories": []}
    (folder / "texts").mkdir()
    for name, text in (("a.txt", "words"), ("b.txt", "")):
        written(folder / "texts" / name, text)
    files = f"{folder}/texts/*.txt"
    return {
        "openai": (opened(format="openai", path=written(folder / "a.jsonl", rows)), f"{folder}/a.jsonl line 2"),
        "parquet": (opened(format="parquet", path=f"{folder}/a.parquet"), f"{folder}/a.parquet row 1"),
        "webdataset": (opened(format="webdataset", path=str(shards)), f"{folder}/a.tar sample 'b'"),
        "coco": (opened(format="coco", path=written(folder / "a.json", json.dumps(coco, indent=1))), "a.json line "),
        "text": (opened(format="text", path=files), f"{folder}/texts/b.txt"),
    }


@pytest.mark.parametrize("form", ["openai", "parquet", "webdataset", "coco", "text"])
def test_errors_begin_with_the_place(tmp_path: Path, form: str) -> None:
    source, place = sources(tmp_path)[form]
    assert place in source.where(1) and source.where(0) != source.where(1)
    with pytest.raises(UserError) as error:
        source[1]
    assert str(error.value).startswith(source.where(1))


def test_lines_and_generated_samples_have_places_too(tmp_path: Path) -> None:
    lines = opened(format="text", unit="line", path=written(tmp_path / "a.txt", "one\n\ntwo\n"))
    assert lines.where(1) == f"{tmp_path}/a.txt line 3"
    assert opened(format="world", kind="scene_count").where(7) == "mine[7]"
