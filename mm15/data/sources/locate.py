"""From the `path` of a source to the files it means: local ones, or any that fsspec knows the address of.

    corpus/a.tar    corpus    corpus/*.tar    corpus/**/*.tar    s3://bucket/shard-{000..123}.tar

Files come sorted, but those of a range {000..123} in the order of the range; each comes only once, also where a link
leads to it a second time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from ...errors import UserError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST = 1_000_000
"""A range may stand for so many files."""


def file_system(address: str) -> tuple[Any, str]:
    """(fsspec file system, path in it) of an address; UserError when nothing here can read such addresses.

    To be asked for in each process anew (fsspec keeps them): file systems that have threads do not survive a fork.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(os.path.expanduser(address))
    except (ImportError, ValueError) as error:
        raise UserError(f"{address}: {error}") from None


def is_local(fs: Any) -> bool:
    """Whether files of this file system can be opened by their path."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(fs, LocalFileSystem)


def locate(path: str, ending: str) -> list[str]:
    """The files that `path` means: paths of local ones, addresses of others. `ending` says which files of a folder.

    Raises UserError when there are none, when a file of a range is missing, and when the place cannot be read.
    """
    found: dict[str, str] = {}
    for one in _expand(path):
        try:
            for file in _files(one, ending):
                found.setdefault(os.path.realpath(file) if "://" not in file else file, file)
        except UserError:
            raise
        except Exception as error:  # each remote file system has its own
            raise UserError(f"{one}: cannot be read ({reason(error)}); check the path") from None
    return list(found.values())


def _files(path: str, ending: str) -> list[str]:
    fs, inner = file_system(path)
    if fs.isfile(inner):
        return [inner if is_local(fs) else path]
    if fs.isdir(inner):
        entries = [entry["name"] for entry in fs.ls(inner, detail=True) if entry["type"] == "file"]
        names = [name for name in entries if name.endswith(ending)]
        what = f"a folder without {ending} files; name another, or a pattern such as {path.rstrip('/')}/**/*{ending}"
    elif re.search(r"[*?\[]", inner):
        names = [name for name in fs.glob(inner) if fs.isfile(name)]
        what = "no file matches; check the pattern"
    else:
        names, what = [], "no such file; check the path"
    if not names:
        raise UserError(f"{path}: {what}")
    return sorted(names) if is_local(fs) else [fs.unstrip_protocol(name) for name in sorted(names)]


def _expand(path: str) -> Iterator[str]:
    """The paths that one with ranges {000..123} stands for; zeros in front count."""
    match = _RANGE.search(path)
    if match is None:
        yield path
        return
    first, last = match.groups()
    if not int(first) <= int(last) < int(first) + _MOST:
        raise UserError(f"{path}: the range {match[0]} runs from the smaller to the larger number, at most {_MOST:,}")
    for number in range(int(first), int(last) + 1):
        yield from _expand(path[: match.start()] + f"{number:0{len(first)}d}" + path[match.end() :])


def reason(error: Exception) -> str:
    """What an error of a file system says, in one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
