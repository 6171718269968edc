"""Two processes are one: gradients, losses and checkpoints of FSDP2 on gloo against a single process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mm15 import recipe
from mm15.regions import Coordinates
from mm15.text import tokenizer as tokenizers
from mm15.train import checkpoint, parallel
from mm15.train.metrics import read
from mm15.train.optim import make_optimizer
from mm15.train.run import make_model

HERE = Path(__file__).parent


def step(out: Path, processes: int, second: str, decoder: str) -> dict:
    """Results of two_ranks.py on so many processes."""
    out.mkdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*(launch if processes > 1 else [sys.executable]), str(HERE / "two_ranks.py"), str(out), second, decoder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=HERE.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out / "rank0.pt")


@pytest.mark.parametrize(("second", "decoder"), [("pictures", "dense"), ("text", "dense"), ("text", "moe")])
def test_two_processes_equal_one(tmp_path: Path, second: str, decoder: str) -> None:
    """Gradients to 1e-6, the losses of three steps to 1e-5; with "text" the second rank has no picture at all."""
    one = step(tmp_path / "one", 1, second, decoder)
    two = step(tmp_path / "two", 2, second, decoder)
    assert one["gradients"].keys() == two["gradients"].keys()
    assert any(name.startswith("vision") and g.abs().max() > 1e-6 for name, g in one["gradients"].items())
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(
            two["gradients"][name], gradient, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    torch.testing.assert_close(two["norm"], one["norm"], rtol=1e-5, atol=1e-6)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    if decoder == "dense" and second == "text":
        loads_in_one(tmp_path / "two", two["weights"])


def loads_in_one(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """What two processes saved, one loads: weights exactly, and an optimiser that has taken three steps."""
    settings = recipe.load(HERE / "tiny.yaml")
    tokenizer = tokenizers.prepare(tokenizers.train(["Where is it?"] * 9, vocab_size=400), coordinates=Coordinates(100))
    model = make_model(settings, tokenizer, tile=32)
    optimizer = make_optimizer(model.parameters(), settings.stages["sft"].optimizer)
    path = checkpoint.latest(folder / "steps")
    assert path is not None
    checkpoint.load(path, model=model, optimizer=optimizer, world=parallel.World())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    assert {int(state["step"]) for state in optimizer.state.values()} == {3}


def test_a_whole_run_on_two_processes_equals_one(tiny_run: Path, tmp_path: Path) -> None:
    """All three stages through torchrun: data, losses, checkpoints, export and evaluation by the main process."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mm15"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [*launch, "run", str(HERE / "tiny.yaml"), "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("blank pictures") == 6  # one line a group, from the main process only
    for name in recipe.load(HERE / "tiny.yaml").stages:
        one, two = (read(folder / "stages" / name / "metrics.jsonl") for folder in (tiny_run, tmp_path / "two"))
        assert [line["samples"] for line in two] == [line["samples"] for line in one]
        assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], abs=1e-5)
        assert (tmp_path / "two" / "evaluation" / f"{name}.json").exists()
