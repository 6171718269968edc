"""The bar: nothing at first, a bar on a terminal, lines now and then elsewhere, nothing left behind."""

from __future__ import annotations

import io
import sys

import pytest

from mm15 import progress
from mm15.progress import Bar, track


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *, patience: float, quiet: float) -> str:
    """What `stream` holds after four things were done."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", patience)
    monkeypatch.setattr(progress, "QUIET_SECONDS", quiet)
    assert list(track("abcd", "reading", total=4, unit="letters")) == list("abcd")
    return stream.getvalue()


def test_what_is_over_soon_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (Terminal(), io.StringIO()):
        assert shown(monkeypatch, stream, patience=60, quiet=0) == ""


def test_a_terminal_gets_a_bar_with_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal(), patience=-1, quiet=0)
    assert "reading" in text and "4/4" in text and "letters/s" in text


def test_elsewhere_a_line_every_so_often_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, io.StringIO(), patience=-1, quiet=60).splitlines()
    assert len(lines) == 1 and lines[0].startswith("reading 4/4  ") and "left" not in lines[0]
    lines = shown(monkeypatch, io.StringIO(), patience=-1, quiet=-1).splitlines()
    assert len(lines) == 4 and lines[0].startswith("reading 1/4  ") and lines[0].endswith(" s left")


def test_a_note_stands_in_place_of_the_rate_and_nothing_is_shown_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", -1)
    for told in (True, False):
        monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
        with Bar("stage", total=9, done=3, shown=told) as bar:
            bar.update(9, "loss 1.5")
        assert ("stage 9/9  loss 1.5" in stream.getvalue()) is told
