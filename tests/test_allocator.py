"""Memory that a training step frees is there for the next, without the system."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mm15 import recipe
from mm15.train.optim import make_optimizer

SCRIPT = """
import resource, sys
from mm15.train.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    before = faults()
    bytearray(b"x") * (64 << 20)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept() -> None:
    """A second piece of 64 MB takes no pages from the system; by itself glibc would fetch all 16,384 again."""

    def faults(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 200
    assert faults("leave") > 5_000


def test_averages_of_adamw_are_made_before_the_first_step() -> None:
    """Of every parameter, as torch makes them in it: two steps end bit for bit where torch's own do."""

    def trained(make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]) -> tuple[Any, list[torch.Tensor]]:
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(size)) for size in ((5, 3), (3,), (2, 2))]
        optimizer = make(parameters)
        before = {name: len(optimizer.state[p]) for name, p in zip("abc", parameters, strict=True)}
        for _ in range(2):
            for p in parameters[:2]:  # the last has no gradient: it stays as it is
                p.grad = torch.randn_like(p)
            optimizer.step()
        return before, [*parameters, *(t for p in parameters[:2] for t in optimizer.state[p].values())]

    settings = recipe.Optimizer(weight_decay=0.0)
    before, ours = trained(lambda parameters: make_optimizer(parameters, settings))
    options: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps, "weight_decay": 0.0}
    _, theirs = trained(lambda parameters: torch.optim.AdamW(parameters, fused=True, **options))
    assert before == {"a": 3, "b": 3, "c": 3}
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(ours, theirs, strict=True))
