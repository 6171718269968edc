"""Checkpoints as files: which are kept, written while training goes on, damaged, of another shape, in other layouts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from traceback import StackSummary
from typing import Any

import pytest
import torch
from reshard_harness import LAYOUTS, flat
from torch import nn

from mm15 import recipe
from mm15.errors import UserError
from mm15.train import checkpoint
from mm15.train.parallel import World

HERE = Path(__file__).parent
WORLD = World()


class Small:
    """A layer, its optimiser after a step or more, and ways to save and load them."""

    def __init__(self, seed: int = 0, width: int = 3) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.step()

    def step(self) -> None:
        self.model(torch.ones(2, self.model[0].in_features)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, saver: checkpoint.Saver, step: int) -> Path:
        return saver.save(step, model=self.model, optimizer=self.optimizer, state={"mine": [step]})

    def load(self, path: Path) -> None:
        checkpoint.load(path, model=self.model, optimizer=self.optimizer, world=WORLD)

    def state(self, optimizer: bool = True) -> dict[str, Any]:
        """Copies of everything a checkpoint holds."""
        found = flat([dict(self.model.state_dict()), self.optimizer.state_dict() if optimizer else {}])
        return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in found.items()}


def saver(folder: Path, **settings: Any) -> checkpoint.Saver:
    return checkpoint.Saver(folder, recipe.Checkpoint(**settings), WORLD)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two flattened states hold the same to the bit."""
    assert one.keys() == other.keys()
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(one.values(), other.values(), strict=True)
    )


def steps(folder: Path) -> list[int]:
    return [checkpoint.step_of(path) for path in checkpoint.complete(folder)]


# --------------------------------------------------------------------------------------------------------------- which


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_newest_are_kept_and_some_for_good(tmp_path: Path, asynchronous: bool) -> None:
    """`keep` newest and every one whose step `keep_every` divides; that of a stop at any step is only a newest one."""
    small = Small()
    with saver(tmp_path, every=2, keep=2, keep_every=5, asynchronous=asynchronous) as mine:
        assert [step for step in range(1, 21) if mine.due(step)] == [2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20]
        for step in (2, 4, 5, 6, 7, 8, 10, 12, 14):
            small.save(mine, step)
    assert steps(tmp_path) == [5, 10, 12, 14]
    assert {path.name for path in tmp_path.iterdir()} == {f"step-{step:06d}" for step in steps(tmp_path)}
    assert checkpoint.read_state(tmp_path / "step-000010") == {"step": 10, "mine": [10]}


def test_what_was_begun_and_never_finished_gives_its_room_back_first(tmp_path: Path) -> None:
    """And a folder of the same step that is whole is not trusted again: it is written anew."""
    small = Small()
    left = tmp_path / "step-000004"
    left.mkdir()
    (left / "__0_0.distcp").write_bytes(b"half")
    with saver(tmp_path) as mine:
        assert checkpoint.latest(tmp_path) is None
        small.save(mine, 2)
        assert not left.exists()
        small.save(mine, 4)
        before = small.state()
        small.step()
        small.save(mine, 4)
    assert steps(tmp_path) == [2, 4]
    small.load(tmp_path / "step-000004")
    assert not same(before, small.state())


# -------------------------------------------------------------------------------------------------------- asynchronous


def slowly(patch: pytest.MonkeyPatch) -> threading.Event:
    """Writes wait for the event."""
    go, write = threading.Event(), checkpoint.dcp.state_dict_saver.save

    def waiting(*given: Any, **named: Any) -> Any:
        assert go.wait(30)
        return write(*given, **named)

    patch.setattr(checkpoint.dcp.state_dict_saver, "save", waiting)
    return go


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the state of its own step to the bit, and has no marker before it is whole; one is written at a time."""
    small, go = Small(), slowly(monkeypatch)
    before = small.state()
    with saver(tmp_path, asynchronous=True) as mine:
        path = small.save(mine, 1)
        for _ in range(3):
            small.step()
        assert path.exists() and checkpoint.latest(tmp_path) is None
        second = threading.Thread(target=small.save, args=(mine, 2))
        second.start()
        second.join(0.2)
        assert second.is_alive() and not (tmp_path / "step-000002").exists()
        go.set()
        second.join(30)
    assert steps(tmp_path) == [1, 2]
    other = Small(seed=1)
    other.load(path)
    assert same(other.state(), before) and not same(small.state(), before)


@pytest.mark.parametrize("when", ["at the next save", "at the end", "when the run has failed"])
def test_a_write_that_fails_is_told(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, by one line; if the run fails in another way, that is what is raised, and the write is logged."""
    small = Small()
    small.save(saver(tmp_path), 1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.dcp.state_dict_saver, "save", full)
    with pytest.raises((UserError, ZeroDivisionError)) as caught, saver(tmp_path, asynchronous=True) as mine:
        small.save(mine, 2)
        if when == "at the next save":
            small.save(mine, 3)
        if when == "when the run has failed":
            _ = 1 / 0
    if when == "when the run has failed":
        assert caught.type is ZeroDivisionError and "step-000002: the checkpoint could not be saved" in caplog.text
    else:
        place = tmp_path / "step-000002"
        full = f"{place}: the checkpoint cannot be saved ([Errno 28] No space left on device); make room"
        assert str(caught.value).startswith(full)
    assert steps(tmp_path) == [1]


def test_what_is_no_disks_fault_is_not_blamed_on_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that fails for another reason says which."""
    small = Small()
    small.save(saver(tmp_path), 1)

    def broken(*_: Any, **__: Any) -> None:
        raise checkpoint.CheckpointException("save", {0: (ValueError("no such stream"), StackSummary())})

    monkeypatch.setattr(checkpoint.dcp, "save", broken)
    with pytest.raises(UserError, match=r"cannot be saved \(no such stream\); mend that and run again"):
        small.save(saver(tmp_path), 2)
    assert steps(tmp_path) == [1]


# ------------------------------------------------------------------------------------------------------------- damaged


def cut(file: Path, share: float) -> None:
    os.truncate(file, int(file.stat().st_size * share))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": lambda file: file.unlink(),
    "empty": lambda file: cut(file, 0),
    "a tenth": lambda file: cut(file, 0.1),
    "half": lambda file: cut(file, 0.5),
    "nearly all": lambda file: cut(file, 0.95),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_file_of_a_checkpoint_cut_anywhere(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """With its marker: one line that names the folder and what to do; without: it was never there."""
    small = Small()
    with saver(tmp_path) as mine:
        for step in (1, 2):
            small.save(mine, step)
    former, newest = checkpoint.complete(tmp_path)
    files = [file.name for file in newest.iterdir() if file.name != checkpoint.MARKER]
    assert sorted(files) == [".metadata", "__0_0.distcp", "state.json"]
    for file in files:
        broken = tmp_path / "broken" / "step-000002"
        shutil.copytree(newest, broken)
        DAMAGE[damage](broken / file)
        with pytest.raises(UserError) as caught:
            checkpoint.read_state(broken)
            Small(seed=1).load(broken)
        told = str(caught.value)
        assert told.startswith(f"{broken}: unreadable checkpoint (") and "\n" not in told, file
        assert told.endswith("); delete this folder to resume from the former one"), file
        (broken / checkpoint.MARKER).unlink()
        assert checkpoint.latest(broken.parent) is None
        shutil.rmtree(broken.parent)
    logged = [r for r in caplog.records if r.levelname in ("WARNING", "ERROR") and "NullHandler" not in r.name]
    assert not logged  # DCP would write tracebacks to the terminal
    shutil.rmtree(newest)
    assert checkpoint.latest(tmp_path) == former
    small.load(former)


OTHERS: list[tuple[Callable[[], Small], str]] = [
    (lambda: Small(width=4), r"0\.weight: \(3, 3\) there, \(4, 4\) here"),
    (
        lambda: _with(Small(), nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))),
        r"2\.weight: not there, ",
    ),
    (lambda: _with(Small(), nn.Sequential(nn.Linear(3, 3))), r"1\.weight: \(3,\) there, not here"),
]


@pytest.mark.parametrize(("other", "word"), OTHERS)
def test_a_checkpoint_of_another_model(tmp_path: Path, other: Callable[[], Small], word: str) -> None:
    """Other sizes, a layer more, one less (which DCP would load): one line, and nothing of it is loaded."""
    path = Small().save(saver(tmp_path), 1)
    mine = other()
    before = mine.state(optimizer=False)
    for optimizer in (None, mine.optimizer):
        with pytest.raises(UserError, match=f"step-000001: a checkpoint of another model .*{word}") as caught:
            checkpoint.load(path, model=mine.model, optimizer=optimizer, world=WORLD)
        assert "\n" not in str(caught.value)
    assert same(mine.state(optimizer=False), before)


def _with(small: Small, model: nn.Module) -> Small:
    small.model, small.optimizer = model, torch.optim.AdamW(model.parameters())
    return small


# ------------------------------------------------------------------------------------------------------- other layouts


def test_other_layouts_load_what_two_processes_saved(tmp_path: Path) -> None:
    """One process, four, two copies, four in two copies: weights and optimiser to the bit, from both kinds of save."""
    command = [sys.executable, str(HERE / "reshard_harness.py"), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=HERE.parent, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    saved = flat(torch.load(tmp_path / "saved.pt"))
    assert sum("exp_avg_sq" in name for name in saved) > 40
    assert all(saved[name].abs().max() > 0 for name in saved if name.endswith("exp_avg"))
    for kind in ("at once", "asynchronous"):
        for name in LAYOUTS:
            assert same(flat(torch.load(tmp_path / f"{kind}, {name}.pt")), saved), (kind, name)
    assert len(list((tmp_path / "at once" / "step-000002").glob("*.distcp"))) == 2
