"""What runs on a GPU, on a device that only pretends to be one: nothing is made on, or left on, the wrong side.

The numbers are computed on the CPU (see elsewhere.py), so they are the CPU's to the last bits; kernels of GPUs are
checked by ``python -m bench.gpu``.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ELSEWHERE, CPU = [str(HERE / "elsewhere.py")], ["-m", "mm15"]
TASKS = (
    "evaluation.groups={all: {ground: {format: world, kind: ground, size: 64}, facts: {format: world, kind: fact_qa}}}"
)
SHORT = [
    TASKS,
    *(f"stages.{stage}.steps={steps}" for stage, steps in {"pretrain": 4, "continual": 2, "sft": 4}.items()),
]
ADAPTED = ["stages.sft.freeze=[vision]", "stages.sft.lora.rank=2"]
SPARSE = [
    "model.decoder.family=qwen3_moe",
    "model.decoder.shape.num_experts=4",
    "model.decoder.shape.moe_intermediate_size=32",
    "stages.continual.optimizer.name=adafactor",
    "parallel.activation_checkpointing=full",
]


Mm15 = Callable[..., str]


@pytest.fixture
def mm15(mm15_command: Callable[..., subprocess.CompletedProcess[str]]) -> Mm15:
    """What ``mm15 ...``, started in a way, prints."""

    def command(start: list[str], *arguments: str | Path) -> str:
        done = mm15_command(*arguments, start=start)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return command


def run(mm15: Mm15, start: list[str], out: Path, *arguments: str) -> list[dict[str, float]]:
    """The steps of the stages of a short run; how long they took is left out."""
    mm15(start, "run", HERE / "tiny.yaml", "--out", out, *SHORT, *arguments)
    files = [out / "stages" / stage / "metrics.jsonl" for stage in ("pretrain", "continual", "sft")]
    lines = [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("overrides", [ADAPTED, SPARSE], ids=["dense, adapted", "sparse, AdaFactor, checkpointed"])
def test_a_run_goes_as_on_the_cpu(mm15: Mm15, overrides: list[str], tmp_path: Path) -> None:
    """Training, checkpoints, export and evaluation of three stages: the CPU's losses, norms and router losses; and
    what it wrote answers as on the CPU."""
    there, here = run(mm15, ELSEWHERE, tmp_path / "there", *overrides), run(mm15, CPU, tmp_path / "here", *overrides)
    assert len(there) == 10
    for one, other in zip(there, here, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    question = ["chat", tmp_path / "there", HERE.parent / "examples" / "shapes.png", "-p", "What is it?"]
    assert mm15(ELSEWHERE, *question) == mm15(CPU, *question)


def test_bf16_is_autocast(mm15: Mm15, tmp_path: Path) -> None:
    """Losses near those of fp32 on the CPU, and not the same."""
    runs = {"bf16": ELSEWHERE, "fp32": CPU}
    rounded, exact = (
        [
            step["loss"]
            for step in run(mm15, start, tmp_path / kind, "--stage", "pretrain", f"precision={kind}", *SPARSE)
        ]
        for kind, start in runs.items()
    )
    assert len(rounded) == 4
    assert rounded == pytest.approx(exact, rel=1e-2)
    assert all(one != other for one, other in zip(rounded, exact, strict=True))
