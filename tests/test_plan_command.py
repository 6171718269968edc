"""`mm15 plan`: every shipped recipe, what fits, what is advised, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from mm15 import recipe as recipes
from mm15.cli import app
from mm15.errors import UserError
from mm15.plan import Plan, plan, planning
from mm15.plan.shapes import Shapes
from mm15.plan.table import describe

SHAPES: dict[tuple[str, int], Shapes] = {}


@pytest.fixture(autouse=True)
def one_skeleton_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skeletons take most of the time here, and each is needed often."""
    build = planning.skeleton

    class Remembered:
        @staticmethod
        def of(made: Any) -> Shapes:
            key, model = made
            if key not in SHAPES:
                SHAPES[key] = Shapes.of(model())
            return SHAPES[key]

    def skeleton(recipe: Any, *, tile: int, vocab_size: int) -> Any:
        key = (recipe.model.model_dump_json(), tile)
        return key, lambda: build(recipe, tile=tile, vocab_size=vocab_size)

    monkeypatch.setattr(planning, "Shapes", Remembered)
    monkeypatch.setattr(planning, "skeleton", skeleton)


def planned(name: str, *overrides: str, **options: Any) -> Plan:
    return plan(recipes.load(name, list(overrides)), **options)


@pytest.mark.parametrize("name", recipes.shipped())
def test_every_shipped_recipe_has_a_plan(name: str) -> None:
    gpus = 1 if name in ("pico", "documents") else 8
    found = planned(name, gpus=gpus)
    assert [stage.stage for stage in found.stages] == list(recipes.load(name).stages)
    assert all(stage.memory.total > 0 and stage.seconds > 0 for stage in found.stages)
    assert found.fits or found.advice
    assert f"on {gpus} x 80 GB" in describe(found)


@pytest.mark.parametrize("name", ["mm15-3b", "mm15-30b", "mm15-3b-moe"])
def test_parameters_by_hand(name: str) -> None:
    """From the shape in the recipe: Qwen3's layers, its norms, tied embeddings."""
    shape = recipes.load(name).model.decoder.shape
    width, heads = shape["hidden_size"], shape["head_dim"]
    projections = 2 * width * heads * (shape["num_attention_heads"] + shape["num_key_value_heads"])
    norms = 2 * width + 2 * heads
    expert, layers = 3 * width * shape["intermediate_size"], shape["num_hidden_layers"]
    sparse = layers // 2 if "num_experts" in shape else 0
    dense = layers * (projections + norms) + (layers - sparse) * expert + width * (shape["vocab_size"] + 1)
    found = planned(name)
    router = 64 * width
    assert found.parameters["decoder"] == dense + sparse * (64 * expert + router)
    assert found.active["decoder"] == dense + sparse * (2 * expert + router)


def test_memory_of_30b_by_hand() -> None:
    """Weights, gradients and AdamW's two moments of 30.7B parameters in fp32 over 8 GPUs: 15.4 GB each."""
    found = planned("mm15-30b", gpus=8)
    memory, numbers = found.stages[0].memory, sum(found.parameters.values())
    assert memory.weights == pytest.approx(4 * numbers / 8, rel=0.01)
    assert memory.optimizer == pytest.approx(8 * numbers / 8, rel=0.01)
    assert memory.gradients == pytest.approx(4 * numbers / 8, rel=0.01)
    assert found.stages[0].checkpoint == pytest.approx(12 * numbers, rel=0.01)
    assert found.stages[1].memory.optimizer < 0.01 * memory.optimizer  # AdaFactor


def test_time_is_operations_over_speed() -> None:
    """6 N operations a token and twice the recomputed third, within what attention and the encoder add."""
    slow, fast = planned("mm15-7b", gpus=8, mfu=0.2), planned("mm15-7b", gpus=16, mfu=0.4)
    for a, b in zip(slow.stages, fast.stages, strict=True):
        executed = sum(flops.forward + flops.backward + flops.recompute for flops in a.flops.values())
        assert a.seconds == pytest.approx(executed / (8 * 0.2 * 989e12)) == pytest.approx(4 * b.seconds)
        assert a.gpu_hours == pytest.approx(2 * b.gpu_hours)
    stage = slow.stages[0]
    tokens = stage.rows * stage.expected.tokens
    assert stage.flops["decoder"].total == pytest.approx(8 * 6.13e9 * tokens, rel=0.1)  # 6.38B less the embeddings


def test_whether_it_fits_is_a_matter_of_memory() -> None:
    needed = planned("mm15-7b", gpus=8).most / planning.GB
    assert planned("mm15-7b", gpus=8, memory_gb=needed * 1.001).fits
    assert not planned("mm15-7b", gpus=8, memory_gb=needed * 0.999).fits


@pytest.mark.parametrize(
    ("name", "overrides", "options"),
    [
        ("mm15-3b", ["parallel.activation_checkpointing=none"], {}),
        ("mm15-3b-moe", [], {}),
        ("mm15-1b-moe", ["parallel.replicate=2"], {}),
        ("mm15-30b-public", ["stages.sft.optimizer.name=adamw"], {"gpus": 4}),
        ("mm15-7b", ["parallel.replicate=8"], {}),
        ("mm15-1b", [], {"gpus": 1, "memory_gb": 24}),
    ],
)
def test_what_is_advised_leads_to_a_plan_that_fits(name: str, overrides: list[str], options: dict[str, Any]) -> None:
    before = planned(name, *overrides, **options)
    assert not before.fits
    assert any(advice.fits for advice in before.advice)
    for advice in before.advice:
        after = planned(name, *overrides, *advice.changes, **{**options, "gpus": advice.gpus})
        assert after.most == pytest.approx(advice.most)
        assert after.fits == advice.fits
        assert after.most < before.most


def test_experts_that_are_spread_are_not_gathered() -> None:
    """A sparse layer of 64 experts in bf16, of which one process of eight has an eighth."""
    alone, spread = (planned("mm15-3b-moe", f"parallel.experts={n}").stages[-1].memory for n in (1, 8))
    layer = 2 * 64 * 3 * 2560 * 7936
    assert alone.copies - spread.copies > 3 * layer * 7 / 8
    assert alone.weights == spread.weights


def test_checkpointing_trades_memory_for_operations() -> None:
    kinds = [planned("mm15-3b", f"parallel.activation_checkpointing={kind}") for kind in ("none", "selective", "full")]
    assert [p.stages[-1].memory.decoder for p in kinds] == sorted(
        (p.stages[-1].memory.decoder for p in kinds), reverse=True
    )
    again = [p.stages[-1].flops["decoder"] for p in kinds]
    assert again[0].recompute == again[1].recompute < again[2].recompute
    assert len({flops.forward for flops in again}) == 1


def test_frozen_parts_and_adapters_need_less() -> None:
    changes = ["freeze=[]", "freeze=[vision]", "lora={rank: 16, parts: [decoder, vision, connector]}"]
    sft = [planned("mm15-3b", "stages.sft.optimizer.name=adamw", f"stages.sft.{one}").stages[-1] for one in changes]
    assert sft[1].trained["vision"] == 0 < sft[2].trained["vision"] < 0.02 * sft[0].trained["vision"]
    assert sft[1].flops["vision"].backward == 0 < sft[2].flops["vision"].backward < sft[0].flops["vision"].backward
    assert sft[1].memory.total < sft[0].memory.total and sft[2].memory.total < sft[0].memory.total
    assert sft[2].checkpoint < sft[1].checkpoint < sft[0].checkpoint


def test_auto_is_bf16_on_the_gpus_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine would take, which is not asked."""
    monkeypatch.setattr("mm15.model.precision._faster", lambda kind: pytest.fail("asked"))
    auto, bf16, fp32 = (planned("pico", f"precision={name}", gpus=1) for name in ("auto", "bf16", "fp32"))
    assert (auto.bf16, fp32.bf16) == (True, False)
    assert auto == bf16
    assert auto.stages[0].memory.total < fp32.stages[0].memory.total


def test_json_is_one_document() -> None:
    done = CliRunner().invoke(app, ["plan", "pico", "--gpus", "1", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["fits"] is True
    assert told["parameters"]["decoder"] == 984448
    assert told["stages"][0]["memory_total"] == pytest.approx(
        sum(v for k, v in told["stages"][0]["memory"].items() if k != "moment")
    )


def test_the_table_says_all_of_it() -> None:
    done = CliRunner().invoke(app, ["plan", "mm15-3b-moe", "--gpus", "64"])
    assert done.exit_code == 0, done.output
    for word in (
        "active per token",
        "FLOPs, recompute",
        "activations, vision",
        "GPU-hours",
        "GB of a checkpoint",
        "It fits",
    ):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 140


@pytest.mark.parametrize(
    ("name", "overrides", "options", "message"),
    [
        ("pico", [], {"gpus": 0}, "--gpus is 0; give at least 1"),
        ("pico", [], {"gpus": 1, "memory_gb": 0}, "--memory is 0"),
        ("pico", [], {"gpus": 1, "memory_gb": float("nan")}, "--memory is nan"),
        ("pico", [], {"gpus": 1, "mfu": 40}, "--mfu is 40; give a share above 0 and up to 1"),
        ("pico", [], {"gpus": 1, "peak_flops": -1e12}, "--tflops is -1"),
        ("pico", [], {"gpus": 8}, "stages.pretrain.batch.rows is 1, which 8 GPUs cannot share evenly; give --gpus 1"),
        ("mm15-3b", [], {"gpus": 7}, "which 7 GPUs cannot share evenly; give --gpus 4"),
        ("mm15-3b", ["parallel.replicate=3"], {"gpus": 8}, "parallel.replicate is 3, and 8 GPUs"),
        ("mm15-3b-moe", ["parallel.experts=3"], {"gpus": 8}, "parallel.experts is 3, and 8 GPUs"),
        ("mm15-3b", ["parallel.experts=8"], {"gpus": 8}, "does not divide the decoder's 0 experts"),
        ("mm15-3b-moe", ["parallel.experts=2", "parallel.replicate=2"], {"gpus": 8}, "cannot be had together"),
        ("picco", [], {}, "did you mean 'pico'"),
        ("pico", ["model.decoder={family: llama, weights: somewhere}"], {"gpus": 1}, "no shape"),
    ],
)
def test_bad_input_is_one_line(name: str, overrides: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        planned(name, *overrides, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
