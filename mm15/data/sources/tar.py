"""Where the samples of a tar lie: its headers are read once, and its contents never, nor is anything unpacked.

    a/1.jpg  a/1.txt  a/2.jpg  a/2.txt  b/1.seg.png      ->  samples a/1, a/2, b/1 with jpg and txt, ..., seg.png

A sample is what shares a key, the path up to the first dot of its last component, wherever in the tar it stands; so
WebDataset has it. Members whose name has no dot or begins with one belong to no sample. Names are keys and nothing
else: no file is ever written under them.

The index is kept beside the tar as NAME.mm15.npz, or below $MM15_CACHE (~/.cache/mm15) where that cannot be written,
and made again when the tar's size or time of change is another. It takes 20 bytes a member, 16 and its key a sample, on
disk and in memory: 65 MB for a million pairs. Making it costs 10 us and a seek a member, and once 300 bytes a sample.

A tar that is cut off or damaged is refused with a line that says how many samples before that are whole, and the
command that keeps those. Links, sparse files and other members that are no plain files are refused one by one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import tempfile
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import UserError
from .locate import file_system, is_local, reason

BLOCK = 512
_VERSION = 1
_ZEROS = bytes(BLOCK)
_RECORD = 20 * BLOCK
"""What tar pads an archive to; behind its end mark nothing else is looked for further than twice this."""
_MOST_NAME = 1 << 20
"""Bytes of a long name or of extended attributes; more is no name."""
_LINK, _SPARSE, _OTHER = -1, -2, -3
_REFUSED = {
    _LINK: "a link; store the file itself (tar --dereference --hard-dereference)",
    _SPARSE: "a sparse file; store it whole (tar without --sparse)",
    _OTHER: "no ordinary file",
}
"""What stands in place of the size of members that cannot be read -> what they are."""
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


class _DamagedError(Exception):
    """The tar cannot be read from here on."""


@dataclass(frozen=True)
class _Header:
    name: bytes
    start: int
    """First byte of its header, extended ones included."""
    data: int
    """First byte of its content."""
    size: int
    """Bytes of content, or one of the negative numbers of _REFUSED."""


@dataclass(frozen=True, eq=False)
class TarIndex:
    """S samples, M members. Sample s has the members firsts[s] up to firsts[s + 1], and the key that ends at
    key_ends[s] in `keys`."""

    keys: np.ndarray
    """uint8, one key after the other."""
    key_ends: np.ndarray
    """int64 [S]."""
    firsts: np.ndarray
    """int64 [S + 1]."""
    offsets: np.ndarray
    """int64 [M], the first byte of a member's content."""
    sizes: np.ndarray
    """int64 [M], its bytes; negative: why it cannot be read."""
    kinds: np.ndarray
    """int32 [M], its number in `suffixes`."""
    suffixes: tuple[str, ...]
    """What follows the key and a dot in a member's name, in lower case."""

    def __len__(self) -> int:
        return len(self.key_ends)

    def key(self, sample: int) -> str:
        """The key of a sample."""
        start = int(self.key_ends[sample - 1]) if sample else 0
        return self.keys[start : int(self.key_ends[sample])].tobytes().decode("utf-8", "backslashreplace")

    def members(self, sample: int) -> dict[str, tuple[int, int]]:
        """Suffix -> (first byte, size) of each member. UserError where one is there twice or is no plain file."""
        found: dict[str, tuple[int, int]] = {}
        for m in range(int(self.firsts[sample]), int(self.firsts[sample + 1])):
            suffix, size = self.suffixes[self.kinds[m]], int(self.sizes[m])
            if suffix in found:
                raise UserError(f"member .{suffix} is there twice; keep one of them")
            if size < 0:
                raise UserError(f"member .{suffix} is {_REFUSED[size]}")
            found[suffix] = (int(self.offsets[m]), size)
        return found

    def digest(self) -> bytes:
        """32 bytes that change with names, places and sizes."""
        digest = hashlib.sha256(json.dumps(self.suffixes).encode())
        for part in self._arrays().values():
            digest.update(np.ascontiguousarray(part).data)
        return digest.digest()

    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in ("keys", "key_ends", "firsts", "offsets", "sizes", "kinds")}

    def dump(self, stamp: str) -> bytes:
        """As a file's content."""
        buffer = io.BytesIO()
        head = json.dumps({"version": _VERSION, "stamp": stamp, "suffixes": self.suffixes})
        arrays: dict[str, Any] = {"head": np.frombuffer(head.encode(), np.uint8), **self._arrays()}
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def read(cls, file: Path, stamp: str) -> TarIndex | None:
        """The index in a file; None when there is none, or it is of another tar or version, or damaged."""
        try:
            with np.load(file, allow_pickle=False) as arrays:
                head = json.loads(arrays["head"].tobytes())
                if (head["version"], head["stamp"]) != (_VERSION, stamp):
                    return None
                fields = {name: arrays[name] for name in cls.__dataclass_fields__ if name != "suffixes"}
                return cls(**fields, suffixes=tuple(head["suffixes"]))
        except Exception:  # whatever is wrong with it, it can be made again
            return None


def index_tar(address: str, progress: Callable[[int], None] = lambda at: None) -> tuple[TarIndex, int]:
    """(index, size in bytes) of a tar, from its sidecar or its headers. `progress` hears how far the latter are read.

    Raises UserError for what is no plain tar, is cut off or damaged, or cannot be read.
    """
    fs, path = file_system(address)
    try:
        info = fs.info(path)
        size, stamp = int(info["size"]), _stamp(info)
        places = [_cached(address)]
        if is_local(fs):
            places.insert(0, Path(path + ".mm15.npz"))
        for place in places:
            found = TarIndex.read(place, stamp)
            if found is not None:
                return found, size
        with open(path, "rb") if is_local(fs) else fs.open(path, "rb") as file:
            index = _scan(file, size, address, progress)
    except UserError:
        raise
    except Exception as error:  # each remote file system has its own
        raise UserError(f"{address}: cannot be read ({reason(error)}); check the path") from None
    content = index.dump(stamp)
    for place in places:
        if _write(place, content):
            break
    return index, size


def _stamp(info: dict[str, Any]) -> str:
    """What tells one state of a file from another, as far as its file system knows."""
    known = (
        info[key] for key in ("mtime", "ETag", "etag", "LastModified", "last_modified", "created") if info.get(key)
    )
    return f"{info['size']} {next(known, '')}"


def _cached(address: str) -> Path:
    root = Path(os.environ.get("MM15_CACHE") or "~/.cache/mm15").expanduser()
    return root / "tar" / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.npz"


def _write(place: Path, content: bytes) -> bool:
    """Whole or not at all, whoever else writes it at the same time; False when it cannot be written there."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=place.parent, prefix=place.name, suffix=".partial")
    except OSError:
        return False
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.chmod(partial, 0o644)
        os.replace(partial, place)
    except OSError:
        Path(partial).unlink(missing_ok=True)
        return False
    return True


# ------------------------------------------------------------------------------------------------------------ headers


def _scan(file: BinaryIO, size: int, address: str, progress: Callable[[int], None]) -> TarIndex:
    """The index of an open tar of `size` bytes."""
    if not size:
        raise UserError(f"{address}: the file is empty (0 bytes)")
    numbers: dict[bytes, int] = {}
    suffixes: dict[str, int] = {}
    sample, offsets, sizes, kinds = array("q"), array("q"), array("q"), array("i")
    current, run, before = b"", 0, 0
    try:
        for header in _headers(file, size):
            progress(header.start)
            named = _split(header.name)
            if named is None:
                continue
            key, suffix = named
            if key != current:
                current, run, before = key, header.start, len(numbers)
            if header.data + max(header.size, 0) > size:
                raise _DamagedError(f"is cut off at byte {size}, in {header.name.decode('utf-8', 'backslashreplace')}")
            sample.append(numbers.setdefault(key, len(numbers)))
            offsets.append(header.data)
            sizes.append(header.size)
            kinds.append(suffixes.setdefault(suffix, len(suffixes)))
    except _DamagedError as damage:
        raise UserError(_how_to_go_on(file, address, str(damage), whole=before, end=run)) from None
    samples = np.array(sample, dtype=np.int64)
    order = np.argsort(samples, kind="stable")
    return TarIndex(
        keys=np.frombuffer(b"".join(numbers), np.uint8),
        key_ends=np.cumsum(np.fromiter(map(len, numbers), np.int64, len(numbers))),
        firsts=np.searchsorted(samples[order], np.arange(len(numbers) + 1)),
        offsets=np.array(offsets, dtype=np.int64)[order],
        sizes=np.array(sizes, dtype=np.int64)[order],
        kinds=np.array(kinds, dtype=np.int32)[order],
        suffixes=tuple(suffixes),
    )


def _split(name: bytes) -> tuple[bytes, str] | None:
    """(key, suffix in lower case) of a member's name, as WebDataset cuts it; None when it has none."""
    slash = name.rfind(b"/") + 1
    dot = name.find(b".", slash)
    return (name[:dot], name[dot + 1 :].decode("utf-8", "backslashreplace").lower()) if dot > slash else None


def _how_to_go_on(file: BinaryIO, address: str, damage: str, *, whole: int, end: int) -> str:
    if not end and not whole:
        file.seek(0)
        start = file.read(8)
        packed = next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)
        if packed:
            return f"{address}: a {packed} archive; samples are read in place, which needs a plain tar: unpack it first"
    advice = "fetch it again"
    if whole and "://" not in address:
        quoted = shlex.quote(address)
        advice += f", or keep those alone: truncate -s {end} {quoted} && truncate -s {end + 2 * BLOCK} {quoted}"
    return f"{address}: the tar {damage}; {whole} samples before that are whole: {advice}"


def _headers(file: BinaryIO, size: int) -> Iterator[_Header]:
    """The headers of all members but folders, in order; _DamagedError where the tar does not go on as one must."""
    at = start = 0
    told: dict[bytes, bytes] = {}
    while (block := _block(file, at, size)) is not None:
        kind, length = block[156:157], _number(block[124:136], at)
        if kind in b"xXLK":
            told |= _extended(file, at, kind, length)
            at = _next(at + BLOCK, length)
            continue
        length = int(told.get(b"size", length))
        data = _after_map(file, at + BLOCK) if kind == b"S" else at + BLOCK
        name = told.get(b"GNU.sparse.name") or told.get(b"path") or _name(block)
        if kind not in b"5g" and not name.endswith(b"/"):
            sparse = kind == b"S" or any(key.startswith(b"GNU.sparse") for key in told)
            code = _SPARSE if sparse else _LINK if kind in b"12" else length if kind in b"\x0007" else _OTHER
            yield _Header(name, start, data, code)
        at = start = data if kind in b"123456" else _next(data, length)  # those have a size and no content
        told = {}


def _block(file: BinaryIO, at: int, size: int) -> bytes | None:
    """The header block at a byte; None at the end mark."""
    block = _read(file, at, BLOCK)
    if block == _ZEROS:
        if _read(file, at, 2 * _RECORD).strip(b"\0"):
            raise _DamagedError(f"ends at byte {at} and another follows in the file; join tars with tar --concatenate")
        return None
    if at >= size:
        raise _DamagedError(f"stops at byte {size} without an end mark, as one that was cut off does")
    if len(block) < BLOCK or not _is_header(block):
        raise _DamagedError(
            f"has no header at byte {at}; it is cut off or damaged" if at else "has no header, so it is none"
        )
    return block


def _extended(file: BinaryIO, at: int, kind: bytes, length: int) -> dict[bytes, bytes]:
    """What a header that stands before a member's own says of it."""
    if length > _MOST_NAME:
        raise _DamagedError(f"has a name of {length} bytes at byte {at}")
    body = _read(file, at + BLOCK, length)
    if kind in b"xX":
        return _pax(body, at)
    return {b"path": body.rstrip(b"\0")} if kind == b"L" else {}


def _after_map(file: BinaryIO, at: int) -> int:
    """The first byte after the blocks that say where the holes of an old sparse file are."""
    more = _read(file, at - BLOCK, BLOCK)[482]
    while more:
        block = _read(file, at, BLOCK)
        at, more = at + BLOCK, len(block) == BLOCK and block[504]
    return at


def _next(data: int, length: int) -> int:
    return data + -(-length // BLOCK) * BLOCK


def _read(file: BinaryIO, at: int, length: int) -> bytes:
    file.seek(at)
    return file.read(length)


def _is_header(block: bytes) -> bool:
    """Whether the sum of its bytes, its own field taken as spaces, is what the header says."""
    try:
        said = int(block[148:156].split(b"\0")[0], 8)
    except ValueError:
        return False
    return said == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _number(field: bytes, at: int) -> int:
    """An octal number, or one in base 256 where the first bit is set."""
    try:
        if field[0] & 0x80:
            return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        return int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        raise _DamagedError(f"has a damaged size at byte {at}") from None


def _name(block: bytes) -> bytes:
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _pax(body: bytes, at: int) -> dict[bytes, bytes]:
    """Extended attributes, ``LENGTH KEY=VALUE\\n`` each."""
    found, place = {}, 0
    try:
        while place < len(body) and body[place]:
            length = int(body[place : place + 20].split(b" ")[0])
            key, _, value = body[place : place + length - 1].partition(b" ")[2].partition(b"=")
            found[key] = value
            place += max(length, 1)
        if int(found.get(b"size", 0)) < 0:
            raise ValueError("a negative size")
    except ValueError:
        raise _DamagedError(f"has damaged extended attributes at byte {at}") from None
    return found
