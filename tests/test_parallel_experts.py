"""Experts spread over processes: expert_harness.py trains on 1, 2 and 4 processes in one launch; all did the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from expert_harness import EXPERTS, HERE, MOE, SETTINGS, WRONG, trained_model
from safetensors.torch import load_file

from mm15 import recipe
from mm15.regions import Coordinates
from mm15.text import tokenizer as tokenizers
from mm15.train import checkpoint, parallel

SPREAD = [2, 4]
"""Numbers of processes; pairs of them share out the experts, so that the other axis is 1 and 2 long."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that expert_harness.py filled: 20 seconds for all."""
    folder = tmp_path_factory.mktemp("experts")
    command = [sys.executable, str(HERE / "expert_harness.py"), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, cwd=HERE.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "suboptimal" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def results(out: Path) -> dict[int, dict[str, Any]]:
    return {number: torch.load(out / f"{number}.pt") for number in (1, *SPREAD)}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], *, within: float = 0.0) -> None:
    """Tensors of the same names, equal or nearly."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=within, msg=lambda m, n=name: f"{n}: {m}")


def test_routers_are_not_rounded(results: dict[int, dict[str, Any]]) -> None:
    """Where parameters are gathered in bf16 a router still multiplies with its fp32 weights, experts spread or not."""
    wanted = {"mlp.gate": (torch.float32, True), "self_attn.q_proj": (torch.bfloat16, False)}
    assert results[2]["in bf16"] == [wanted, wanted]


@pytest.mark.parametrize("number", SPREAD)
@pytest.mark.parametrize("setting", SETTINGS)
def test_spread_experts_equal_one_process(results: dict[int, dict[str, Any]], setting: str, number: int) -> None:
    """Losses, router losses and gradient norms of all steps to 1e-5, gradients to 1e-6; also with capacity, and when a
    process's experts get no token. Every token goes to the same experts, but for the rare one that is as good as torn
    between two: of 25,000 choices two may fall the other way by rounding, and their steps' balance with them. What was
    sent is sent again with full checkpointing (capacity), not with selective (lopsided)."""
    one, many = results[1][setting], results[number][setting]
    assert len(many["losses"]) == SETTINGS[setting][0]
    assert many["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert many["norms"] == pytest.approx(one["norms"], rel=1e-5)
    differ = (many["experts"] - one["experts"]).abs().sum((1, 2)) // 2
    assert one["experts"].sum() > 1000 * len(differ) and differ[0] == 0 and differ.sum() <= 2
    for wanted, found, torn in zip(one["router"], many["router"], differ.tolist(), strict=True):
        assert found["z_loss"] == pytest.approx(wanted["z_loss"], abs=1e-5)
        assert torn or found["balance_loss"] == pytest.approx(wanted["balance_loss"], abs=1e-5)
    assert_same(many["gradients"], one["gradients"], within=1e-6)
    calls = {"plain": 3 + 2, "capacity": 3 + 3 + 2, "lopsided": 3 + 2}  # forward (numbers, rows, rows back), backward
    assert many["exchanges"] == 2 * calls[setting] and one["exchanges"] == 0
    if setting == "lopsided":
        assert all(g[:2].count_nonzero() == 0 for name, g in many["gradients"].items() if ".experts." in name)


@pytest.mark.parametrize("number", SPREAD)
def test_one_process_loads_what_spread_ones_saved(out: Path, results: dict[int, dict[str, Any]], number: int) -> None:
    """Weights and moments exactly."""
    settings = recipe.load(HERE / "tiny.yaml", MOE)
    tokenizer = tokenizers.prepare(tokenizers.train(["Where is it?"] * 9, vocab_size=400), coordinates=Coordinates(100))
    model, optimizer = trained_model(settings, tokenizer, parallel.World(), seed=1)
    checkpoint.load(checkpoint.latest(out / str(number)), model=model, optimizer=optimizer, world=parallel.World())
    wanted = results[number]["plain"]
    assert_same(dict(model.named_parameters()), wanted["weights"])
    assert_same({name: optimizer.state[p]["exp_avg_sq"] for name, p in model.named_parameters()}, wanted["moments"])


@pytest.mark.parametrize("number", SPREAD)
def test_spread_processes_load_what_one_saved(results: dict[int, dict[str, Any]], number: int) -> None:
    """Weights and moments exactly."""
    for kind in ("weights", "moments"):
        assert_same(results[number]["loaded"][kind], results[1]["plain"][kind])


def test_export_gathers_all_experts(out: Path, results: dict[int, dict[str, Any]]) -> None:
    """Each under transformers' name for it."""
    exported = load_file(out / "model" / "model.safetensors")
    whole = {name: w for name, w in results[2]["plain"]["weights"].items() if ".experts." in name}
    assert len(whole) == 4
    for name, weights in whole.items():
        stem, kind = name.rsplit(".", 1)
        parts = ("gate_proj", "up_proj") if kind == "gate_up_proj" else ("down_proj",)
        for expert in range(EXPERTS):
            found = torch.cat([exported[f"{stem}.{expert}.{part}.weight"] for part in parts])
            assert torch.equal(found, weights[expert]), name


def test_wrong_settings_are_one_line(results: dict[int, dict[str, Any]]) -> None:
    said = results[2]["refusals"]
    assert said.keys() == WRONG.keys()
    assert not any("\n" in line for line in said.values())
    assert "has no experts" in said["dense"]
    assert "2, which does not divide the decoder's 5 experts" in said["indivisible"]
    assert "is 4, and this run has 2 processes" in said["processes"]
    assert "replicate=2 and parallel.experts=2" in said["copies"]
