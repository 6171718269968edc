"""AdaFactor: equal to transformers' on one process, and to itself on two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from adafactor_ranks import Weights, train

from mm15.train.adafactor import Adafactor

HERE = Path(__file__).parent


def test_equals_transformers() -> None:
    """Five steps of every kind of parameter, gradients over five orders of magnitude, with weight decay."""
    from transformers.optimization import Adafactor as Theirs

    ours, theirs = Weights(), Weights()
    options = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    found = train(ours, Adafactor(ours.parameters(), lr=0.02, weight_decay=0.1))
    right = train(theirs, Theirs(theirs.parameters(), lr=0.02, weight_decay=0.1, **options))
    torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-6)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Sharded evenly and unevenly by FSDP2."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(HERE / "adafactor_ranks.py"), str(tmp_path / "two.pt")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one = Weights()
    right = train(one, Adafactor(one.parameters(), lr=0.02, weight_decay=0.1))
    torch.testing.assert_close(torch.load(tmp_path / "two.pt"), right, rtol=1e-6, atol=1e-6)
