"""What a run does when something goes wrong under it: SIGTERM, full disks, other runs, a loss that is not finite.

Each ends in one line that says what to do, and the run that does it equals one that was never disturbed.
"""

from __future__ import annotations

import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.checkpoint import state_dict_saver

from mm15 import cli, recipe
from mm15.data.skips import SkipLedger
from mm15.errors import Stopped, UserError
from mm15.files import alone_in
from mm15.processor import MM15Processor
from mm15.train import checkpoint, loop, models, stage
from mm15.train import run as runs
from mm15.train.loop import NotFiniteError
from mm15.train.metrics import Metrics, read
from mm15.train.run import LOCK, run

TINY = Path(__file__).parent / "tiny.yaml"
STEPS = 6
SHORT = ["stages.pretrain.steps=6", "stages.continual.steps=2", "stages.sft.steps=2"]


def settings(*changes: str) -> recipe.Recipe:
    return recipe.load(TINY, [*SHORT, *changes])


def lines(out: Path, name: str = "pretrain") -> list[list[float]]:
    return [[line["step"], line["loss"], line["grad_norm"]] for line in read(out / "stages" / name / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of the first stage."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(settings(), out, only="pretrain")
    return out


def at_step(number: int, do: Callable[[], Any], patch: pytest.MonkeyPatch) -> None:
    """Does something after a step has been computed and before its metrics are written."""
    add = Metrics.add

    def first(self: Metrics, line: dict[str, Any]) -> None:
        if line["step"] == number:
            do()
        add(self, line)

    patch.setattr(Metrics, "add", first)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def goes_on(out: Path, whole: Path, *changes: str, **options: Any) -> None:
    """The same command again ends as the undisturbed run did: metrics and weights."""
    run(settings(*changes), out, only="pretrain", **options)
    assert lines(out) == lines(whole)
    weights = [folder / "model" / "model.safetensors" for folder in (out, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


# ------------------------------------------------------------------------------------------------------------- SIGTERM


@pytest.mark.parametrize("asynchronous", [False, True])
def test_sigterm_finishes_the_step_and_saves_it(whole: Path, tmp_path: Path, asynchronous: bool) -> None:
    """Between two saves; the handler of before is back afterwards."""
    how = f"checkpoint.asynchronous={asynchronous}"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        at_step(2, terminate, patch)
        with pytest.raises(Stopped, match=r"^stopped by SIGTERM after step 3 of pretrain; the same command continues$"):
            run(settings(how), tmp_path / "run", only="pretrain")
    assert signal.getsignal(signal.SIGTERM) == before
    newest = checkpoint.latest(tmp_path / "run" / "stages" / "pretrain")
    assert newest is not None and newest.name == "step-000003"
    assert len(lines(tmp_path / "run")) == 3
    goes_on(tmp_path / "run", whole, how)


def test_sigterm_and_a_disk_that_is_full(whole: Path, tmp_path: Path) -> None:
    """The step in flight could not be saved, also not by a thread: that is what the run says."""
    how = "checkpoint.asynchronous=true"
    with pytest.MonkeyPatch.context() as patch:
        at_step(2, terminate, patch)
        full_in(state_dict_saver, "save", patch, size=100_000, first=2)
        with pytest.raises(UserError, match="step-000003: the checkpoint cannot be saved"):
            run(settings(how), tmp_path / "run", only="pretrain")
    goes_on(tmp_path / "run", whole, how)


def test_sigterm_anywhere_else_ends_at_once(whole: Path, tmp_path: Path) -> None:
    """While the model is built, at the stage's last step, while it is exported, while it is evaluated."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "build", lambda *_, **__: terminate())
        with pytest.raises(Stopped, match=r"^stopped by SIGTERM; the same"):
            run(settings(), out, only="pretrain")
    with pytest.MonkeyPatch.context() as patch:
        at_step(STEPS, terminate, patch)
        with pytest.raises(Stopped, match="after step 6 of pretrain"):
            run(settings(), out, only="pretrain")
    assert not (out / "model").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.MM15ForConditionalGeneration, "save_pretrained", lambda *_, **__: terminate())
        with pytest.raises(Stopped):
            run(settings(), out, only="pretrain")
    assert not (out / "model").exists() and not list(out.glob(".model*"))
    with pytest.raises(Stopped):
        run(settings(), out, only="pretrain", evaluate=lambda *_: terminate())
    asked = []
    goes_on(out, whole, evaluate=lambda *given: asked.append(given))
    assert len(asked) == 1


def test_sigterm_is_status_143_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    at_step(2, terminate, monkeypatch)
    monkeypatch.setattr("sys.argv", ["mm15", "run", str(TINY), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 143
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("mm15:")]
    assert told == ["mm15: stopped by SIGTERM after step 3 of pretrain; the same command continues"]


def test_sigterm_to_torchrun_reaches_both_processes(tmp_path: Path) -> None:
    """It hands the signal on: both say the same line, and there is a checkpoint of that step."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mm15", "run"]
    changes = ["stages.pretrain.steps=100000", "checkpoint.every=100000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [*launch, str(TINY), *changes, "--out", str(tmp_path / "run")]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    folder, until = tmp_path / "run" / "stages" / "pretrain", time.monotonic() + 200
    while not (folder / "metrics.jsonl").exists() and running.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, told = running.communicate(timeout=100)
    newest = checkpoint.latest(folder)
    assert newest is not None, told[-3000:]
    assert len(read(folder / "metrics.jsonl")) == checkpoint.step_of(newest)
    line = f"mm15: stopped by SIGTERM after step {checkpoint.step_of(newest)} of pretrain; the same command continues"
    assert told.splitlines().count(line) == 2, told[-3000:]


# ---------------------------------------------------------------------------------------------------------- full disks


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may become larger, as on a disk that has no more room; the limit may be lifted again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full_in(home: Any, name: str, patch: pytest.MonkeyPatch, *, size: int, first: int = 1) -> None:
    """From its `first` call on, what `home.name` writes meets a full disk."""
    original, calls = getattr(home, name), count(1)

    def limited(*given: Any, **named: Any) -> Any:
        if next(calls) < first:
            return original(*given, **named)
        with files_up_to(size):
            return original(*given, **named)

    patch.setattr(home, name, limited)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_disk_full_while_saving(whole: Path, tmp_path: Path, asynchronous: bool) -> None:
    """One line; nothing is left of the checkpoint that failed, the former one is whole, and the run goes on from it."""
    out, how = tmp_path / "run", f"checkpoint.asynchronous={asynchronous}"
    with pytest.MonkeyPatch.context() as patch:
        full_in(checkpoint.dcp, "save", patch, size=100_000, first=2)
        full_in(state_dict_saver, "save", patch, size=100_000, first=2)  # where the asynchronous one calls it
        with pytest.raises(UserError, match=r"step-000004: the checkpoint cannot be saved .*make room") as caught:
            run(settings(how), out, only="pretrain")
    assert "\n" not in str(caught.value)
    assert len(lines(out)) == (6 if asynchronous else 4)  # told at the next save
    assert [path.name for path in (out / "stages" / "pretrain").glob("step-*")] == ["step-000002"]
    goes_on(out, whole, how)


@pytest.mark.parametrize("file", ["metrics.jsonl", "skipped.jsonl", "mixture.json", "recipe.yaml", "model"])
def test_a_disk_full_while_writing_anything_else(whole: Path, tmp_path: Path, file: str) -> None:
    """Small files in the middle of a line, and the exported model: one line, nothing damaged, and the run goes on."""
    home, name, size, first = {
        "metrics.jsonl": (Metrics, "add", 500, 3),
        "skipped.jsonl": (SkipLedger, "save", 100, 1),
        "mixture.json": (stage, "_write_shares", 100, 2),
        "recipe.yaml": (runs, "write_atomically", 500, 1),
        "model": (models, "replace_folder", 100_000, 1),
    }[file]
    out = tmp_path / "run"
    few = ["stages.pretrain.batch.tokens=60"] if file == "skipped.jsonl" else []  # many samples are larger than a row
    with pytest.MonkeyPatch.context() as patch:
        full_in(home, name, patch, size=size, first=first)
        with pytest.raises(UserError, match=r"run: no room left on its disk .*make room and run again") as caught:
            run(settings(*few), out, only="pretrain")
    assert "\n" not in str(caught.value)
    assert not list(out.glob(".model*"))
    run(settings(*few), out, only="pretrain")
    if not few:
        assert lines(out) == lines(whole)
    skipped = [json.loads(line)["draw"] for line in (out / "stages/pretrain/skipped.jsonl").read_text().splitlines()]
    counted = json.loads((out / "stages/pretrain/mixture.json").read_text())["realised"]
    assert len(set(skipped)) == len(skipped) == sum(one["skipped"] for one in counted.values())
    assert bool(skipped) == bool(few)


# -------------------------------------------------------------------------------------------------------------- workers


def test_a_loader_worker_that_hangs(whole: Path, tmp_path: Path) -> None:
    """The run ends with the sample's name, and goes on from its checkpoint, with another time limit or without."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        at_step(2, terminate, patch)
        with pytest.raises(Stopped):
            run(settings(), out, only="pretrain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MM15Processor, "encode", lambda *_: time.sleep(60))
        with pytest.raises(UserError, match=r"a loader worker has been at sample \d+ of source '\w+'") as caught:
            run(settings("workers=1", "worker_timeout=1"), out, only="pretrain")
    assert "\n" not in str(caught.value) and "then run again to resume" in str(caught.value)
    goes_on(out, whole, "workers=1")


# ------------------------------------------------------------------------------------------------- damaged checkpoints


@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata", "state.json"])
def test_a_damaged_checkpoint_and_what_its_line_says_to_do(whole: Path, tmp_path: Path, file: str) -> None:
    """The run names the folder and changes nothing; without the folder it goes on from the former one."""
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        at_step(5, terminate, patch)
        patch.setattr(checkpoint.Saver, "due", lambda *_: True)
        with pytest.raises(Stopped):
            run(settings(), out, only="pretrain")
    newest = out / "stages/pretrain/step-000006"
    os.truncate(newest / file, (newest / file).stat().st_size // 2)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(
        UserError, match=f"{newest}: unreadable checkpoint .*; delete this folder to resume from the for"
    ):
        run(settings(), out, only="pretrain")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    shutil.rmtree(newest)
    goes_on(out, whole)


# ------------------------------------------------------------------------------------------- losses that are not finite


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_loss_that_is_not_finite(whole: Path, tmp_path: Path, asynchronous: bool) -> None:
    """Names step and samples, saves nothing more, and says settings with which the same run really goes on."""
    out, clip, steps = tmp_path / "run", loop.clip, count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "clip", lambda *given: clip(*given) if next(steps) != 5 else math.nan)
        write = state_dict_saver.save  # where an asynchronous save calls it: it is still at work when the loss is lost
        patch.setattr(state_dict_saver, "save", lambda *a, **k: (time.sleep(0.3), write(*a, **k)))
        with pytest.raises(NotFiniteError) as caught:
            run(settings(f"checkpoint.asynchronous={asynchronous}"), out, only="pretrain")
    told = re.fullmatch(
        r"pretrain, step 5: loss [\d.]+, gradient norm nan; look at its samples: (\w+\[\d+\](?:, \w+\[\d+\])*); "
        r"to go on from step 4 with a lower rate add (\S+) --accept-changes",
        str(caught.value),
    )
    assert told is not None, caught.value
    newest = checkpoint.latest(out / "stages" / "pretrain")
    assert newest is not None and newest.name == "step-000004" and lines(out) == lines(whole)[:4]
    with pytest.raises(UserError, match=r"optimizer.lr: .* restore the settings or add --accept-changes$"):
        run(settings(told[2]), out, only="pretrain")
    run(settings(told[2]), out, only="pretrain", accept_changes=True)
    rates = [line["lr"] for line in read(out / "stages/pretrain/metrics.jsonl")]
    before = [line["lr"] for line in read(whole / "stages/pretrain/metrics.jsonl")]
    assert rates == [*before[:4], *(pytest.approx(rate / 2) for rate in before[4:])]
    assert lines(out)[:4] == lines(whole)[:4] and lines(out)[5] != lines(whole)[5]
    for change, accept in (("stages.pretrain.optimizer.lr=1", True), ("stages.continual.optimizer.lr=1", False)):
        with pytest.raises(UserError, match=r"optimizer\.lr"):  # that stage is finished; this one was not asked for
            run(settings(told[2], change), out, only="pretrain", accept_changes=accept)


# ------------------------------------------------------------------------------------------------- one folder, one run


def test_two_runs_in_one_folder(whole: Path) -> None:
    """One line for the second, before it has changed anything; what a dead run held is free."""
    with alone_in(whole, LOCK, busy="held by this test"), pytest.raises(UserError, match="another run is at work here"):
        run(settings("workers=1"), whole, only="pretrain")
    assert recipe.load(whole / "recipe.yaml") == settings()
    run(settings(), whole, only="pretrain")


def test_settings_that_may_change_and_that_may_not(whole: Path, tmp_path: Path) -> None:
    """How a run is spread, saved and evaluated may change; what it learns may not, and the line names the setting."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    run(settings("workers=1", "checkpoint.keep=1", "parallel.activation_checkpointing=full"), out, only="pretrain")
    for change, shown in [
        ("seed=1", "seed: 0 -> 1"),
        ("stages.pretrain.batch.rows=4", "stages.pretrain.batch.rows: 2 -> 4"),
        ("model.connector.tokens=9", "model.connector.tokens: 4 -> 9"),
        ("stages.sft.optimizer.name=adafactor", "stages.sft.optimizer.name: adamw -> adafactor"),
    ]:
        with pytest.raises(UserError, match=f"another recipe .{re.escape(shown)}.*restore the settings$"):
            run(settings(change), out, only="pretrain", accept_changes=True)


def test_a_stage_never_starts_from_fresh_weights_because_checkpoints_are_gone(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for path in out.glob("stages/pretrain/step-*"):
        shutil.rmtree(path)
    with pytest.raises(UserError, match="stages/pretrain: no checkpoint is left for stage 'continual' to start from"):
        run(settings(), out, only="continual")
