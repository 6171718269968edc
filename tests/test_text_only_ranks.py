"""Processes whose rows are of different kinds, one without any picture: no waiting, and one process's gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rank_kinds import CASES, KEPT, start, two_steps
from safetensors.torch import load_file

from mm15.train import checkpoint, stage
from mm15.train.parallel import World

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all cases on two gloo processes, in one launch that must not hang, left their results."""
    out = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, str(HERE / "rank_kinds.py"), str(out)], capture_output=True, text=True, timeout=400, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def two_processes(launched: Path) -> dict:
    """Losses and gradients of all cases."""
    return torch.load(launched / "rank0.pt")


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(two_processes: dict, name: str) -> None:
    """Losses and gradients of two steps to 1e-5 of the largest; a part without pictures has gradients of zero."""
    two, one = two_processes[name], two_steps(CASES[name], World())
    assert (one["tiles"][0] == 0) is ("text" in CASES[name].first) and (one["tiles"][1] == 0) is (
        "text" in CASES[name].second
    )
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    for mine, theirs in zip(one["gradients"], two["gradients"], strict=True):
        assert mine.keys() == theirs.keys()
        most = max(g.abs().max() for g in mine.values())
        assert most > 1e-3
        for key, gradient in mine.items():
            torch.testing.assert_close(theirs[key], gradient, rtol=0, atol=1e-5 * most, msg=f"{name}: {key}")
    trained = {key.partition(".")[0] for key in one["gradients"][0]}
    frozen = next((s for s in CASES[name].settings if ".freeze=" in s), "")
    assert trained == {part for part in ("vision", "connector", "decoder") if part not in frozen}
    if any("lora" in s and "parts" in s for s in CASES[name].settings):
        assert all("lora_" in key for key in one["gradients"][0])
    if sum(one["tiles"]) == 0:
        assert not any(g.any() for key, g in one["gradients"][1].items() if not key.startswith("decoder"))


def test_adapters_of_two_processes_are_merged_and_resumed_by_one(launched: Path) -> None:
    """The export is the checkpoint merged by hand, bit for bit; weights, optimiser and its groups load in one."""
    settings, _, model = start(CASES[KEPT], World())
    path = checkpoint.latest(launched / "stages" / "sft")
    assert path is not None
    optimizer = stage._prepare(stage.Run(settings, launched, {}, World()), "sft", model, bf16=False)
    checkpoint.load(path, model=model, optimizer=optimizer, world=World())
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}
    assert {group.get("rate", 1.0) for group in optimizer.param_groups} == {0.1, 1.0}
    held = model.state_dict()
    exported = load_file(launched / "model" / "model.safetensors")
    adapted = {name.split(".lora_A")[0] for name in held if "lora_A" in name}
    assert len(adapted) == 11  # q, k, v and o of both layers, gate, up and down of the dense one
    for name, weight in exported.items():
        layer = name.removesuffix(".weight")
        if layer in adapted:
            a, b = held[f"{layer}.lora_A.default.weight"], held[f"{layer}.lora_B.default.weight"]
            assert b.any()
            assert torch.equal(weight, held[f"{layer}.base_layer.weight"] + 32 / 3 * (b @ a))
        elif ".experts." not in name:  # transformers writes those one by one
            assert torch.equal(weight, held[name])
