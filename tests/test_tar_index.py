"""The index of a tar against Python's own reader, on every kind of header, every cut, and what is no tar at all."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tars import opened, pairs, picture, shown, tar

from mm15.data.sources import SourceData
from mm15.data.sources import tar as indexing
from mm15.data.sources.tar import TarIndex, index_tar
from mm15.errors import UserError

LONG = "x" * 120
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MM15_CACHE", str(tmp_path / "cache"))


def contents(path: Path, index: TarIndex) -> dict[str, bytes]:
    """Name of every member -> its bytes, at the places of the index."""
    raw = path.read_bytes()
    return {
        f"{index.key(s)}.{suffix}": raw[at : at + size]
        for s in range(len(index))
        for suffix, (at, size) in index.members(s).items()
    }


def by_tarfile(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive if m.isreg()}


def refusal(path: Path, data: bytes | None = None) -> str:
    """The one line with which a tar is refused."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        opened(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    return line


def captions(source: SourceData) -> list[str]:
    return [shown(source[i])[1] for i in range(len(source))]


# ------------------------------------------------------------------------------------------------------------- headers


def test_members_keep_their_order(tmp_path: Path) -> None:
    """Also where those of a sample stand far apart."""
    orders = [np.random.default_rng(seed).permutation(2000) for seed in range(4)]
    names = [f"{n}.{ending}" for ending, order in zip("bacd", orders, strict=True) for n in order]
    index, _ = index_tar(str(tar(tmp_path / "a.tar", [(name, b"") for name in names])))
    assert [list(index.members(s)) for s in range(2000)] == [["b", "a", "c", "d"]] * 2000
    assert [index.key(s) for s in range(2000)] == [str(n) for n in orders[0]]


@pytest.mark.parametrize("form", FORMATS)
def test_places_are_those_python_finds(form: str, tmp_path: Path) -> None:
    """Sizes around a block, names longer than a header's field, with folders, and in other scripts."""
    names = ["a.bin", "d/e/b.bin", f"{LONG[:90]}/{LONG[:60]}.bin", f"{LONG[:90]}/{LONG[:60]}.json"]
    if form != "ustar":
        names += [f"{LONG}{LONG}/{LONG}.txt", "ünï/汉字.txt", "after.bin"]
    sizes = [0, 1, 511, 512, 513, 5000, 77]
    members: list[tuple[str, Any]] = [("d", tarfile.TarInfo())]
    members[0][1].type = tarfile.DIRTYPE
    members += [(name, os.urandom(size)) for name, size in zip(names, sizes, strict=False)]
    path = tar(tmp_path / "a.tar", members, form=FORMATS[form])
    index, size = index_tar(str(path))
    assert size == path.stat().st_size
    assert contents(path, index) == by_tarfile(path) and len(by_tarfile(path)) == len(names)


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_writes(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    for name, content in pairs(5):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    command = ["tar", f"--format={form}", "-C", folder, "-cf", tmp_path / "a.tar", "--sort=name", "."]
    subprocess.run(command, check=True)
    assert captions(opened(tmp_path / "a.tar")) == [f"caption {n}" for n in range(5)]


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_members_above_8_gb(form: str, tmp_path: Path) -> None:
    """Their size is in base 256 or in an extended header; here of files that are mostly a hole."""
    big = tarfile.TarInfo("b.png")
    big.size = 10 << 30
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        file.write(tar(tmp_path / "x.tar", pairs(1)).read_bytes()[:2048])
        file.write(big.tobuf(FORMATS[form]))
        file.seek(big.size, os.SEEK_CUR)
        file.write(tar(tmp_path / "x.tar", pairs(1, first=7)).read_bytes())
    source = opened(path)
    assert [source[i].id for i in (0, 2)] == ["0:0000", "2:0007"]
    with pytest.raises(UserError, match=r"sample 'b': no caption"):
        source[1]
    rows = [("b.txt", "x"), ("b.png", picture(0))]
    whole = tar(tmp_path / "y.tar", rows).read_bytes()
    path.unlink()
    with open(path, "wb") as file:
        file.write(whole[:1024] + big.tobuf(FORMATS[form]))
        file.truncate(file.tell() + big.size + 1024)
    with pytest.raises(UserError, match=r"member .png is 10,737,418,240 bytes, more than 1,073,741,824"):
        opened(path)[0]


LINKS = [
    (tarfile.SYMTYPE, "a link"),
    (tarfile.LNKTYPE, "a link"),
    (tarfile.FIFOTYPE, "no ordinary file"),
    (tarfile.CHRTYPE, "no ordinary file"),
    (tarfile.GNUTYPE_SPARSE, "a sparse file"),
]


@pytest.mark.parametrize(("kind", "message"), LINKS)
def test_what_is_no_plain_file_is_refused_where_it_stands(kind: bytes, message: str, tmp_path: Path) -> None:
    member = tarfile.TarInfo()
    member.type, member.linkname = kind, "/etc/passwd"
    member.size = 0 if kind == tarfile.GNUTYPE_SPARSE else 3000  # which says nothing: no content follows
    source = opened(tar(tmp_path / "a.tar", [*pairs(1), ("b.png", member), ("b.txt", "x"), *pairs(1, first=2)]))
    with pytest.raises(UserError, match=f"sample 'b': member .png is {message}"):
        source[1]
    assert shown(source[2]) == [picture(2), "caption 2"]


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_files_as_gnu_tar_stores_them(form: str, tmp_path: Path) -> None:
    """With more holes than a header has room for; what follows is found."""
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "c.png").write_bytes(picture(3))
    (folder / "c.txt").write_text("after")
    (folder / "a.txt").write_text("x")
    with open(folder / "b.png", "wb") as file:
        for _ in range(60):
            file.seek(1 << 20, os.SEEK_CUR)
            file.write(b"data")
    subprocess.run(
        ["tar", "--sparse", f"--format={form}", "-C", folder, "-cf", tmp_path / "a.tar", "--sort=name", "."], check=True
    )
    source = opened(tmp_path / "a.tar")
    assert [source[2].id, shown(source[2])] == ["2:./c", [picture(3), "after"]]
    with pytest.raises(UserError, match=r"member .png is a sparse file; store it whole"):
        source[1]


def test_names_are_keys_and_nothing_else(tmp_path: Path) -> None:
    """Paths that lead out of everything are read like others, and no file appears anywhere."""
    (tmp_path / "in").mkdir()
    names = ["../../evil", "/etc/cron.d/evil", "..", "a/../../b", "c\nd"]
    members = [m for n in names for m in ((f"{n}.png", picture(1)), (f"{n}.txt", n.replace("\n", " ")))]
    source = opened(tar(tmp_path / "in" / "a.tar", members))
    assert captions(source) == ["../../evil", "/etc/cron.d/evil", "a/../../b", "c d"]
    assert source[0].id == "0:../../evil"
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} == {"in", "in/a.tar", "in/a.tar.mm15.npz"}


# ---------------------------------------------------------------------------------------------------------- what is cut


@pytest.mark.parametrize("form", FORMATS)
def test_every_cut_is_noticed_and_can_be_mended(form: str, tmp_path: Path) -> None:
    """At every half of a block: the line says how many samples are whole, and its command leaves these."""
    members = pairs(4) if form == "ustar" else [(LONG + name, content) for name, content in pairs(4)]
    path = tar(tmp_path / "a file.tar", members, form=FORMATS[form])
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        starts = [m.offset_data - 512 for m in archive]
        end = archive.offset
    for cut in [*range(0, end + 512, 256), len(data)]:
        path.write_bytes(data[:cut])
        if cut >= end + 512:
            assert captions(opened(path)) == [f"caption {n}" for n in range(4)]
            continue
        line = refusal(path)
        seen = {n // 2 for n, start in enumerate(starts) if start + 512 <= cut}
        if len(seen) < 2:
            assert ("truncate" not in line and "fetch it again" in line) or "is empty" in line
            continue
        assert f"; {len(seen) - 1} samples before that are whole: fetch it again, or keep those alone: trunc" in line
        subprocess.run(line.split("alone: ")[1], shell=True, check=True)
        assert captions(opened(path)) == [f"caption {n}" for n in range(len(seen) - 1)]


def test_what_is_damaged_inside(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", pairs(6))
    data = bytearray(path.read_bytes())
    place = data.index(b"0003.png")
    data[place + 5] ^= 1
    assert f"has no header at byte {place}; it is cut off or damaged; 2 samples before" in refusal(path, bytes(data))
    joined = tar(path, pairs(2)).read_bytes() + tar(tmp_path / "b.tar", pairs(2)).read_bytes()
    assert "another follows in the file; join tars with tar --concatenate" in refusal(path, joined)


def test_hostile_headers_cost_nothing(tmp_path: Path) -> None:
    """A name of 10 GB, a size that leads backwards, a sum with letters: refused at once."""

    def header(kind: bytes, size: int, name: str = "x.png") -> bytes:
        member = tarfile.TarInfo(name)
        member.size, member.type = size, kind
        return member.tobuf(tarfile.GNU_FORMAT)

    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        file.write(header(b"L", 10 << 30))
        file.truncate(11 << 30)
    assert "a name of 10737418240 bytes" in refusal(path)
    assert "has damaged extended attributes" in refusal(path, header(b"x", 512) + b"11 size=-9\n".ljust(512, b"\0"))
    assert "has damaged extended attributes" in refusal(path, header(b"x", 512) + b"zz size=9\n".ljust(512, b"\0"))
    assert "is cut off" in refusal(path, header(b"0", 8 << 60))
    assert "has no header, so it is none" in refusal(path, b"x" * 2048)


def test_ten_gigabytes_of_nothing(tmp_path: Path) -> None:
    with open(tmp_path / "a.tar", "wb") as file:
        file.truncate(10 << 30)
    assert "no samples" in refusal(tmp_path / "a.tar")


def test_what_is_no_tar_says_what_it_is(tmp_path: Path) -> None:
    plain = tar(tmp_path / "x.tar", pairs(2)).read_bytes()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("../../evil.png", picture(1))
    for name, data in {
        "gzip": gzip.compress(plain),
        "bzip2": bz2.compress(plain),
        "xz": lzma.compress(plain),
        "zip": zipped.getvalue(),
    }.items():
        line = refusal(tmp_path / "a.tar", data)
        assert f"a {name} archive; samples are read in place, which needs a plain tar: unpack it first" in line
    assert "the file is empty (0 bytes)" in refusal(tmp_path / "a.tar", b"")
    assert "so it is none" in refusal(tmp_path / "a.tar", b"hello")
    with pytest.raises(UserError, match=r"a folder without"):
        (tmp_path / "folder.tar").mkdir()
        opened(tmp_path / "folder.tar")


# ------------------------------------------------------------------------------------------------------------- sidecar


def test_an_index_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.tar", pairs(5))
    first = opened(path)
    assert (tmp_path / "a.tar.mm15.npz").exists() and not list(tmp_path.glob("*.partial"))
    path.chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setattr(indexing, "_scan", None)
        assert opened(path).fingerprint == first.fingerprint and captions(opened(path)) == captions(first)
    os.utime(path, (1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(indexing, "_scan", None)
        with pytest.raises(UserError):
            opened(path)
    tar(path, pairs(5, first=3))
    assert captions(opened(path)) == [f"caption {n}" for n in range(3, 8)]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "version"])
def test_a_damaged_index_is_made_again(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.tar", pairs(5))
    wanted = captions(opened(path))
    sidecar = tmp_path / "a.tar.mm15.npz"
    raw = sidecar.read_bytes()
    if damage == "version":
        monkeypatch.setattr(indexing, "_VERSION", 2)
    else:
        sidecar.write_bytes({"cut": raw[:-100], "empty": b"", "text": b"hello"}[damage])
    assert captions(opened(path)) == wanted
    assert (sidecar.read_bytes() == raw) is (damage != "version")


def test_an_index_that_cannot_be_kept_beside_the_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to the cache; and where that cannot be written either, it is made each time."""
    path = tar(tmp_path / "a.tar", pairs(3))
    (tmp_path / "a.tar.mm15.npz").mkdir()
    wanted = captions(opened(path))
    assert len(list((tmp_path / "cache" / "tar").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(indexing, "_scan", None)
        assert captions(opened(path)) == wanted
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MM15_CACHE", str(tmp_path / "file"))
    assert captions(opened(path)) == wanted


def test_a_tar_that_changes_under_the_source(tmp_path: Path) -> None:
    source = opened(tar(tmp_path / "a.tar", pairs(5)))
    with open(tmp_path / "a.tar", "r+b") as file:
        file.truncate(3000)
    with pytest.raises(UserError, match=r"a.tar sample '0004': member .png ends early; the tar has changed"):
        source[4]
    (tmp_path / "a.tar").unlink()
    with pytest.raises(UserError, match=r"sample '0000': cannot be read \(No such file"):
        source[0]


def test_a_million_samples_take_less_than_100_mb(tmp_path: Path) -> None:
    """Counted on 5,000 pairs: arrays, not objects."""
    empty = tarfile.TarInfo("")
    with open(tmp_path / "a.tar", "wb") as file:
        for n in range(5_000):
            for ending in ("jpg", "txt"):
                empty.name = f"{n:012d}.{ending}"
                file.write(empty.tobuf())
        file.write(bytes(1024))
    index, _ = index_tar(str(tmp_path / "a.tar"))
    held = [value for value in vars(index).values() if isinstance(value, np.ndarray)]
    assert len(index) == 5_000 and len(held) == 6 and len(index.suffixes) == 2
    assert sum(array.nbytes for array in held) < 100 * len(index)
