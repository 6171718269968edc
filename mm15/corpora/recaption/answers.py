"""What a captioner has said, one JSON line an answer, so that no picture is ever asked about twice.

Lines are added whole; of a line that a crash cut short, nothing is kept. The key of an answer covers the captioner, the
prompt and the picture's pixels, so one file may hold the answers of several models, and any order of lines means the
same.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any

from PIL import Image as PILImage

from ...errors import UserError
from .captioners import Answer


def key_of(identity: dict[str, Any], prompt: str, draw: int, picture: str) -> str:
    """The key of an answer: 32 hex digits of captioner, prompt, number of the draw and the picture's digest."""
    text = json.dumps([identity, prompt, draw, picture], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def picture_digest(picture: PILImage.Image) -> str:
    """32 hex digits of a picture's size and RGB pixels."""
    digest = hashlib.sha256(f"{picture.width}x{picture.height}".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()[:32]


class Answers:
    """The answers of a file, by key; `add` appends. UserError for a file that is none of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Answer] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = open(path, "a+b")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); give another --answers or --out") from None
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            end += len(line)
            self._take(line, number)
        self._file.truncate(end)

    def _take(self, line: bytes, number: int) -> None:
        try:
            row = json.loads(line)
            answer = Answer(row["key"], row["text"], bool(row["cut"]), row["refused"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.path} line {number}: not an answer of recaption ({error}); remove the line"
            ) from None
        self.known[answer.key] = answer

    def add(self, answer: Answer) -> None:
        """Keep an answer that is final; it is on the disk when this returns."""
        row = {"key": answer.key, "text": answer.text, "cut": answer.cut, "refused": answer.refused}
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        self._file.write(line)
        self._file.flush()
        self._take(line, 0)  # what will be read next time

    def close(self) -> None:
        """Everything on the disk for good."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
