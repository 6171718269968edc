"""WebDataset: what the members of a sample become, where they are found, and one line for what is wrong with them."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from tars import opened, pairs, picture, shown, tar

from mm15 import progress
from mm15.data.sources import SourceData
from mm15.data.sources import tar as indexing
from mm15.errors import UserError
from mm15.regions import Box, Region
from mm15.sample import Role, Sample


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM15_CACHE", str(tmp_path / "cache"))


def everything(source: SourceData) -> list[tuple[str, list[Any]]]:
    return [(source[i].id, shown(source[i])) for i in range(len(source))]


# --------------------------------------------------------------------------------------------------------------- pairs


def test_a_pair_is_a_picture_and_its_caption(tmp_path: Path) -> None:
    members = [
        ("a/1.jpg", picture(1, "JPEG")),
        ("a/1.txt", "\ufeffein Hund, ünï 汉\n"),
        ("a/1.json", {"caption": "not this", "width": 12}),
        ("a/2.seg.png", picture(9)),
        ("a/2.json", {"caption": "a cat"}),
        ("a/2.WEBP", picture(2, "WEBP")),
        ("README", "no sample"),
        ("a/._1.jpg", b"left by a Mac"),
    ]
    source = opened(tar(tmp_path / "a.tar", members))
    assert everything(source) == [
        ("0:a/1", [picture(1, "JPEG"), "ein Hund, ünï 汉"]),
        ("1:a/2", [picture(2, "WEBP"), "a cat"]),
    ]
    sample = source[1]
    assert [(part.role, part.target) for part in sample.parts] == [(Role.DOCUMENT, False), (Role.DOCUMENT, True)]
    assert (sample.source, source.name, len(source)) == ("mine", "mine", 2)
    with pytest.raises(IndexError):
        source[2]


def test_members_of_a_sample_may_stand_anywhere(tmp_path: Path) -> None:
    """All pictures first, then all captions; files of folders with one name are of two samples."""
    shuffled = sorted(pairs(20), key=lambda member: member[0].split(".")[1])
    assert everything(opened(tar(tmp_path / "a.tar", shuffled))) == everything(
        opened(tar(tmp_path / "b.tar", pairs(20)))
    )
    two = [(f"{folder}/{name}", content) for folder in "xy" for name, content in pairs(1)]
    assert [opened(tar(tmp_path / "c.tar", two))[i].id for i in range(2)] == ["0:x/0000", "1:y/0000"]


BAD_PAIRS = [
    ([("b.txt", "x")], "one picture, this has 0 among its members .txt"),
    ([("b.png", picture(1)), ("b.jpg", picture(1)), ("b.txt", "x")], "this has 2 among its members .png, .jpg, .txt"),
    ([("b.png", picture(1))], "no caption: neither .txt nor .json"),
    ([("b.png", picture(1)), ("b.txt", " \n")], "its caption is a text with something in it"),
    ([("b.png", picture(1)), ("b.txt", b"\xff\xfe")], "member .txt is not UTF-8 text at byte 0"),
    ([("b.png", picture(1)), ("b.json", {"text": "x"})], "got None"),
    ([("b.png", picture(1)), ("b.json", {"caption": ["x"]})], "its caption is a text"),
    ([("b.png", picture(1)), ("b.json", "[1]")], "an object in braces, this is list"),
    ([("b.png", picture(1)), ("b.json", "{")], "member .json is not valid JSON"),
    ([("b.png", picture(1)), ("b.json", "[" * 100_000)], "member .json is not valid JSON"),
    ([("b.png", picture(1)), ("b.txt", "x"), ("b.txt", "y")], "member .txt is there twice"),
    ([("b.png", picture(1)), ("b.txt", "x"), ("b.PNG", picture(2))], "member .png is there twice"),
]


@pytest.mark.parametrize(("members", "message"), BAD_PAIRS)
def test_pairs_that_cannot_be_used(tmp_path: Path, members: list[Any], message: str) -> None:
    source = opened(tar(tmp_path / "s.tar", [*pairs(1), *members, *pairs(1, first=2)]))
    with pytest.raises(UserError, match=message) as error:
        source[1]
    assert str(error.value).startswith(f"{tmp_path}/s.tar sample 'b': ") and "\n" not in str(error.value)
    assert shown(source[0])[1] == "caption 0" and shown(source[2])[1] == "caption 2"


def test_places_in_captions_are_read(tmp_path: Path) -> None:
    """In pixels of the picture, which is 12x8; ferret's places are thousandths."""
    members = [
        ("a.png", picture(1)),
        ("a.txt", "a dog [250, 500, 750, 1000] runs"),
        ("b.png", picture(2)),
        ("b.txt", "a dog [250, 500, 50, 1000]"),
    ]
    path = tar(tmp_path / "a.tar", members)
    before, region, after = (part.content for part in opened(path, regions="ferret")[0].parts[1:])
    assert (before, after) == ("a dog ", " runs") and isinstance(region, Region)
    assert tuple(region.shape) == pytest.approx((3, 4, 9, 8), abs=0.02) and region.image == 0
    assert isinstance(region.shape, Box)
    with pytest.raises(UserError, match=r"a.tar sample 'b': .*50"):
        opened(path, regions="ferret")[1]
    assert opened(path)[0].parts[1].content == "a dog [250, 500, 750, 1000] runs"
    assert opened(path).fingerprint != opened(path, regions="ferret").fingerprint


# --------------------------------------------------------------------------------------------------------- interleaved


def test_obelics(tmp_path: Path) -> None:
    """Pictures by their numbers in order, whether those count pictures or places; or by name."""
    row = {
        "texts": [None, "One.", None, None, "Two.", "", "Three."],
        "images": ["https://x.org/1.png", None, "https://x.org/2.png", "https://x.org/3.png", None, None, None],
    }
    wanted = [picture(0), "One.", picture(1), picture(2), "Two.", "Three."]
    paragraphs = {"texts": ["Two.", "Three.", None, "Four."], "images": [None, None, "x", None]}
    counted = [("a.json", row), *((f"a.{n}.png", picture(n)) for n in range(3))]
    placed = [("b.json", row), *((f"b.{n}.png", picture(k)) for k, n in ((2, 10), (1, 2), (0, 0)))]
    names = ["d/c.cat.png", "c.Dog.png", "bird.png"]
    named = {**row, "images": [names[0], None, names[1], names[2], None, None, None]}
    by_name = [("d/c.json", named), *((f"d/c.{n}.png", picture(k)) for k, n in enumerate(("cat", "dog", "bird")))]
    members = [*counted, *placed, *by_name, ("e.json", paragraphs), ("e.0.png", picture(4))]
    source = opened(tar(tmp_path / "a.tar", members), "interleaved")
    assert [shown(source[i]) for i in range(3)] == [wanted] * 3
    assert shown(source[3]) == ["Two.", "\n\nThree.", picture(4), "Four."]
    assert [part.target for part in source[0].parts] == [False, True, False, False, True, True]
    assert {part.role for part in source[0].parts} == {Role.DOCUMENT}


def test_mmc4(tmp_path: Path) -> None:
    row = {
        "text_list": ["One.", "Two.", "Three."],
        "image_info": [
            {"matched_text_index": 2, "image_name": "last.png"},
            {"matched_text_index": 0, "image_name": "a.jpg"},
            {"matched_text_index": 2, "image_name": "b.png"},
        ],
    }
    unnamed = {**row, "image_info": [{"matched_text_index": 1, "image_name": None}]}
    pictures = [("x.last.png", picture(1)), ("x.a.jpg", picture(2, "JPEG")), ("x.b.png", picture(3))]
    members = [("x.json", row), *pictures, ("y.json", unnamed), ("y.7.png", picture(4))]
    source = opened(tar(tmp_path / "a.tar", members), "interleaved")
    assert shown(source[0]) == [picture(2, "JPEG"), "One. ", "Two.", picture(1), picture(3), "Three."]
    assert shown(source[1]) == ["One.", picture(4), "Two. ", "Three."]


BAD_DOCUMENTS = [
    ({"texts": ["a", None], "images": [None, "gone.png"]}, "1 pictures, of which 0 .* .not 'gone.png'. and 2 are numb"),
    ({"texts": ["a"], "images": []}, "are lists of one length"),
    ({"texts": ["a"]}, "are lists of one length"),
    ({"texts": ["a", "b"], "images": [None, "0.png"]}, "place 1 holds a text or a picture, got 'b' and '0.png'"),
    ({"texts": [None], "images": [None]}, "place 0 holds a text or a picture"),
    ({"texts": [3], "images": [None]}, "place 0 holds a text"),
    ({"texts": [None, None], "images": ["0.png", "1.png"]}, "no text to learn"),
    ({"text_list": ["a"], "image_info": [{"matched_text_index": 1}]}, "picture 0 has matched_text_index 1 of 1 texts"),
    ({"text_list": ["a"], "image_info": [{}]}, "matched_text_index None"),
    ({"text_list": "a", "image_info": []}, "'text_list' is a list"),
    ({"text_list": ["a"]}, "'image_info' is a list"),
    ({"caption": "a"}, "a document has 'texts' and 'images', or 'text_list'"),
    ("nonsense", "member .json is not valid JSON"),
]


@pytest.mark.parametrize(("row", "message"), BAD_DOCUMENTS)
def test_documents_that_cannot_be_used(tmp_path: Path, row: Any, message: str) -> None:
    members = [("a.json", row), ("a.0.png", picture(0)), ("a.1.png", picture(1)), ("b.txt", "x")]
    source = opened(tar(tmp_path / "a.tar", members), "interleaved")
    with pytest.raises(UserError, match=message) as error:
        source[0]
    assert str(error.value).startswith(f"{tmp_path}/a.tar sample 'a': ") and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"sample 'b': no member \.json; it has \.txt"):
        source[1]


def test_native_rows_that_cannot_be_used(tmp_path: Path) -> None:
    """Whole ones: test_shards."""
    row = {"id": "x", "parts": [{"role": "document", "image": "b.9.png"}, {"role": "document", "text": "t"}]}
    members = [("a.json", {"parts": 3}), ("b.json", row), ("b.0.png", picture(0))]
    source = opened(tar(tmp_path / "a.tar", members), "mm15")
    with pytest.raises(UserError, match=r"sample 'a': 'parts' is a list"):
        source[0]
    with pytest.raises(UserError, match=r"sample 'b': picture 'b.9.png' is no member; it has \.json, \.0\.png"):
        source[1]


# --------------------------------------------------------------------------------------------------------------- files


def test_a_path_is_a_file_a_folder_a_pattern_or_a_range(tmp_path: Path) -> None:
    for n in range(12):
        tar(tmp_path / f"shard-{n:03d}.tar", pairs(1, first=n))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "again.tar").symlink_to(tmp_path / "shard-003.tar")
    (tmp_path / "more" / "round").symlink_to(tmp_path)
    tar(tmp_path / "more" / "n[1].tar", pairs(1, first=50))
    wanted = {
        "shard-007.tar": [7],
        "": range(12),
        "shard-00*.tar": range(10),
        "shard-{003..011}.tar": range(3, 12),
        "shard-0{0..1}{0..1}.tar": [0, 1, 10, 11],
        "**/*.tar": [3, 50, *(n for n in range(12) if n != 3)],
        "more/n[1].tar": [50],
    }
    for path, numbers in wanted.items():
        source = opened(tmp_path / path)
        assert [shown(source[i])[1] for i in range(len(source))] == [f"caption {n}" for n in numbers], path
    for path, message in {
        "gone.tar": "gone.tar: no such file",
        "shard-{009..013}.tar": "shard-012.tar: no such file",
        "x*.tar": "no file matches",
        "shard-{5..1}.tar": "from the smaller to the larger",
    }.items():
        with pytest.raises(UserError, match=message):
            opened(tmp_path / path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"a folder without \.tar files; .*\*\*/\*\.tar"):
        opened(tmp_path / "empty")


def test_remote_tars_are_read_by_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    for n in range(2):
        content = tar(tmp_path / "x.tar", pairs(3, first=3 * n)).read_bytes()
        memory.pipe(f"/bucket/s-{n}.tar", content)
    sources = [opened(f"memory://bucket{path}") for path in ("", "/*.tar", "/s-{0..1}.tar")]
    asked = []
    plain = type(memory).cat_file

    def cat_file(self: Any, path: str, start: int, end: int) -> bytes:
        asked.append(end - start)
        return plain(self, path, start=start, end=end)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    for source in sources:
        assert everything(source) == [(f"{i}:{i:04d}", [picture(i), f"caption {i}"]) for i in range(6)]
    assert max(asked) == max(len(picture(i)) for i in range(6)), "a member at a time, nothing around it"
    assert len({source.fingerprint for source in sources}) == 1
    monkeypatch.setattr(indexing, "_scan", None)
    assert len(opened("memory://bucket")) == 6, "its index is in the cache"
    memory.pipe("/bucket/s-1.tar", b"")
    with pytest.raises(UserError):
        opened("memory://bucket")
    with pytest.raises(UserError, match=r"sample '0003': .*; the tar has changed"):
        sources[0][3]
    memory.rm("/bucket", recursive=True)
    with pytest.raises(UserError, match=r"sample '0000': cannot be read"):
        sources[0][0]
    with pytest.raises(UserError, match=r"memory://bucket"):
        opened("memory://bucket")
    with pytest.raises(UserError, match=r"nofs://x/a.tar: "):
        opened("nofs://x/a.tar")


def test_many_processes_and_threads_read_one_source(tmp_path: Path) -> None:
    for n in range(3):
        tar(tmp_path / f"{n}.tar", pairs(40, first=40 * n))
    source = opened(tmp_path)
    wanted = [shown(source[i])[1] for i in range(120)]
    assert everything(pickle.loads(pickle.dumps(source))) == everything(source)
    pool = multiprocessing.get_context("fork").Pool(3)
    assert [shown(sample)[1] for sample in pool.map(source.__getitem__, range(120))] == wanted
    pool.close()  # not terminated, which needs SIGTERM to have its first meaning in this process
    pool.join()
    with ThreadPoolExecutor(8) as threads:
        assert [shown(sample) for sample in threads.map(source.__getitem__, range(120))] == [
            [picture(i), f"caption {i}"] for i in range(120)
        ]


def test_the_fingerprint_changes_with_the_data_alone(tmp_path: Path) -> None:
    changes = [
        pairs(5),
        pairs(6),
        pairs(4),
        pairs(5, first=1),
        [*pairs(4), ("0004.png", picture(4)), ("0004.txt", "a longer caption")],
        [(name.replace("png", "jpg"), content) for name, content in pairs(5)],
    ]
    found = set()
    for members in changes:
        source = opened(tar(tmp_path / "a.tar", members))
        assert source.fingerprint.startswith(f"mine:{len(source)}:")
        found.add(source.fingerprint)
    assert len(found) == len(changes)
    (tmp_path / "b").mkdir()
    assert opened(tar(tmp_path / "b" / "a.tar", pairs(5))).fingerprint in found


def test_a_layout_that_cannot_be_is_refused_when_opened(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", pairs(1))
    with pytest.raises(UserError, match=r"a.tar: layout mm15 needs .json members, these are .png, .txt"):
        opened(path, "mm15")
    with pytest.raises(UserError, match=r"layout pairs needs members such as .jpg and .txt, these are .json"):
        opened(tar(tmp_path / "b.tar", [("a.json", {})]))
    with pytest.raises(UserError, match=r"`images` is not for webdataset"):
        opened(path, images="elsewhere")
    with pytest.raises(UserError, match=r"no samples"):
        opened(tar(tmp_path / "c.tar", [("README", "x")]))


def test_a_bar_shows_only_when_opening_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for patience, bar in ((2.0, False), (-1.0, True)):
        monkeypatch.setattr(sys, "stderr", terminal := Terminal())
        monkeypatch.setattr(progress, "PATIENCE_SECONDS", patience)
        opened(tar(tmp_path / f"{bar}.tar", pairs(2)))
        assert ("indexing tars" in terminal.getvalue()) is bar


def test_a_foreign_reader_sees_the_same_samples(tmp_path: Path) -> None:
    """What GNU tar and Python's tarfile take out of the tar is what the source reads in place."""
    path = tar(tmp_path / "a.tar", pairs(9))
    subprocess.run(["tar", "xf", path, "-C", tmp_path], check=True)
    source = opened(path)
    rng = np.random.default_rng(0)
    for i in rng.permutation(9):
        sample: Sample = source[int(i)]
        key = sample.id.split(":")[1]
        assert shown(sample) == [(tmp_path / f"{key}.png").read_bytes(), (tmp_path / f"{key}.txt").read_text()]
