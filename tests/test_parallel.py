"""Many processes are one: every parallel setting, and two nodes, against a single process, on gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parallel_harness import SETTINGS, STEPS, TIED
from torch import nn

from mm15 import recipe
from mm15.errors import UserError
from mm15.regions import Coordinates
from mm15.text import tokenizer as tokenizers
from mm15.train import checkpoint, parallel
from mm15.train.metrics import read
from mm15.train.optim import make_optimizer
from mm15.train.run import make_model

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that parallel_harness.py filled: two dozen seconds for all settings, instead of a start for each."""
    out = tmp_path_factory.mktemp("parallel")
    command = [sys.executable, str(HERE / "parallel_harness.py"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=ENVIRONMENT, cwd=HERE.parent)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


CASES = [(processes, name) for processes, settings in SETTINGS.items() if processes > 1 for name in settings]


@pytest.mark.parametrize(("processes", "name"), [case for case in CASES if "bf16" not in case[1]])
def test_many_processes_equal_one(harness: Path, processes: int, name: str) -> None:
    """Gradients of the first step to 1e-6, losses and norms of all steps to 1e-5, and the same use of experts.

    In fp32 sums differ in their order only.
    """
    one = torch.load(harness / "1.pt")[name.split()[0]]
    many = torch.load(harness / f"{processes}.pt")[name]
    assert one["gradients"].keys() == many["gradients"].keys()
    assert any(name.startswith("vision") and g.abs().max() > 1e-6 for name, g in one["gradients"].items())
    for weight, gradient in one["gradients"].items():
        torch.testing.assert_close(
            many["gradients"][weight], gradient, rtol=0, atol=1e-6, msg=lambda m, n=weight: f"{n}: {m}"
        )
    assert len(many["losses"]) == STEPS
    assert many["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert many["norms"] == pytest.approx(one["norms"], rel=1e-5)
    for router, expected in zip(many["router"], one["router"], strict=True):
        assert router == pytest.approx(expected, abs=1e-5)
    assert many.get("experts") == one.get("experts")


def test_two_processes_in_bf16(harness: Path) -> None:
    """Rows are computed alike, so the first loss is the same but for the order of one sum in fp64.

    Later ones: weights differ in the last bits of fp32, of which bf16 has 8, so now and then one rounds the other way
    (2^-9 of its value). That is noise of bf16's own size, a hundredth of what bf16 does to fp32's losses.
    """
    one, many = (torch.load(harness / f"{n}.pt")["dense bf16"]["losses"] for n in (1, 2))
    plain = torch.load(harness / "1.pt")["dense"]["losses"]
    assert many[0] == pytest.approx(one[0], abs=1e-6)
    assert many == pytest.approx(one, abs=1e-3)
    assert one[0] != pytest.approx(plain[0], abs=1e-6)


def test_what_two_processes_saved_one_loads(harness: Path) -> None:
    """Weights exactly, and an optimiser that has taken as many steps."""
    weights = torch.load(harness / "2.pt")["dense"]["weights"]
    settings = recipe.load(HERE / "tiny.yaml", TIED)
    tokenizer = tokenizers.prepare(tokenizers.train(["Where is it?"] * 9, vocab_size=400), coordinates=Coordinates(100))
    model = make_model(settings, tokenizer, tile=32)
    optimizer = make_optimizer(model, settings.stages["sft"].optimizer)
    path = checkpoint.latest(harness / "steps")
    assert path is not None
    checkpoint.load(path, model=model, optimizer=optimizer, world=parallel.World())
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, weights[name]), name
    assert {int(state["step"]) for state in optimizer.state.values()} == {STEPS}


def test_a_process_that_is_killed_ends_the_others(harness: Path) -> None:
    """Not after a timeout of half an hour but at once, with one line that says what to do."""
    seconds, line = (harness / "lost.txt").read_text().splitlines()
    assert float(seconds) < 60
    assert "another process of the run ended" in line and "run again" in line


def test_two_nodes_equal_one_process(tiny_run: Path, tmp_path: Path) -> None:
    """Two torchrun agents that meet over c10d, each a copy of the model: data, losses, export, evaluation."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agents = []
    for _ in range(2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=tiny", "--local-addr=127.0.0.1"]
        run = ["-m", "mm15", "run", str(HERE / "tiny.yaml"), "--out", str(tmp_path / "two"), "parallel.replicate=2"]
        command = [*launch, *meet, *run]
        agents.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        )
    told = [agent.communicate(timeout=600) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], told[0][1][-3000:] + told[1][1][-3000:]
    said = "".join(out for out, _ in told)
    assert said.count("blank pictures") == 6  # one line a group, from the main process only
    for name in recipe.load(HERE / "tiny.yaml").stages:
        one, two = (read(folder / "stages" / name / "metrics.jsonl") for folder in (tiny_run, tmp_path / "two"))
        assert [line["samples"] for line in two] == [line["samples"] for line in one]
        assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], abs=1e-5)
        assert (tmp_path / "two" / "evaluation" / f"{name}.json").exists()


def test_copies_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"parallel.replicate is 3, and this run has 4 processes"):
        parallel.start(recipe.Parallel(replicate=3))


@pytest.mark.parametrize("most", [0.5, 20, 22.9, 30])  # the norm is 22.80
def test_clip_is_torchs(most: float) -> None:
    """On one process the same norm and gradients as torch's own; the harness holds the sharded ones against it."""
    ours, theirs = (nn.Linear(3, 4) for _ in range(2))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.grad = torch.arange(mine.numel(), dtype=torch.float32).view_as(mine)
        other.grad = mine.grad.clone()
    assert parallel.clip(ours.parameters(), most) == pytest.approx(
        nn.utils.clip_grad_norm_(theirs.parameters(), most).item()
    )
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_totals_of_one_process() -> None:
    assert parallel.World().totals({"a": 2, "b": torch.tensor(0.5)}) == {"a": 2.0, "b": 0.5}
