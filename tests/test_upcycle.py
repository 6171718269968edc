"""Upcycling: the sparse model is the dense one at first, options do what they say, and training goes on from there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import PICTURE, VISION, make, text, tiles
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from mm15 import load, recipe
from mm15.cli import app
from mm15.data.loader import make_batch
from mm15.data.packing import Document
from mm15.errors import UserError
from mm15.model import MM15ForConditionalGeneration, build
from mm15.text.render import Ref
from mm15.train import parallel
from mm15.train import upcycle as module
from mm15.train.loop import Step, train
from mm15.train.optim import make_optimizer
from mm15.train.upcycle import Upcycling, upcycle
from mm15.world import make as world_sample

FOUR = Upcycling(experts=4)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model of four layers, without a processor."""
    folder = tmp_path_factory.mktemp("dense") / "model"
    make(decoder="qwen3", decoder_shape={"num_hidden_layers": 4}).save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([text(5) + PICTURE + text(9, 1)])
    with torch.no_grad():
        return model.eval()(ids, tiles(1)).logits


@pytest.mark.parametrize("settings", [FOUR, Upcycling(experts=3, top_k=1, every=1), Upcycling(experts=5, every=4)])
def test_logits_stay(dense: Path, tmp_path: Path, settings: Upcycling) -> None:
    """To 1e-5 in fp32, with pictures, for any number of experts, k and layers."""
    made = upcycle(dense, tmp_path / "out", settings)
    before, after = (MM15ForConditionalGeneration.from_pretrained(f) for f in (dense, tmp_path / "out"))
    torch.testing.assert_close(logits(after), logits(before), rtol=0, atol=1e-5)
    assert logits(before).abs().max() > 1
    sparse = tuple(i for i, layer in enumerate(after.decoder.model.layers) if hasattr(layer.mlp, "experts"))
    config = after.config.text_config
    assert sparse == made.layers == tuple(range(settings.every - 1, 4, settings.every))
    assert (config.num_experts, config.num_experts_per_tok) == (settings.experts, settings.top_k)
    assert made.sparse == sum(p.numel() for p in after.parameters())
    assert made.dense == sum(p.numel() for p in before.parameters())


def test_a_decoder_alone_starts_a_run(dense: Path, tmp_path: Path) -> None:
    """A causal language model's folder becomes one that a recipe names as model.decoder.weights."""
    model = MM15ForConditionalGeneration.from_pretrained(dense)
    model.decoder.save_pretrained(tmp_path / "decoder")
    upcycle(tmp_path / "decoder", tmp_path / "sparse", FOUR)
    ids = torch.tensor([text(12)])
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "sparse")
    assert type(alone).__name__ == "Qwen3MoeForCausalLM"
    with torch.no_grad():
        torch.testing.assert_close(alone(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    settings = recipe.Model.model_validate(
        {
            "vision": {"family": "siglip", "shape": VISION},
            "connector": {"tokens": 4, "depth": 1, "hidden_size": 32},
            "decoder": {"family": "qwen3_moe", "weights": str(tmp_path / "sparse")},
        }
    )
    built = build(settings, tile=32, image_token_id=3, vocab_size=64).eval()
    with torch.no_grad():
        torch.testing.assert_close(built(ids).logits, model(ids).logits, rtol=0, atol=1e-5)


def test_noise_fresh_and_dropped_units(dense: Path, tmp_path: Path) -> None:
    """Each changes what it should, by as much as it should; the rest stays bit for bit; the router is fresh."""
    old = weights(dense)
    stem = "decoder.model.layers.1.mlp"

    def made(name: str, **options: Any) -> dict[str, torch.Tensor]:
        upcycle(dense, tmp_path / name, Upcycling(experts=4, **options))
        return weights(tmp_path / name)

    noisy, fresh, dropped = made("noise", noise=0.1), made("fresh", fresh=0.5), made("drop", drop=0.25)
    for matrix in ("gate", "up", "down"):
        was = old[f"{stem}.{matrix}_proj.weight"]
        every = [[m[f"{stem}.experts.{e}.{matrix}_proj.weight"] for e in range(4)] for m in (noisy, fresh, dropped)]
        for expert in every[0]:
            assert ((expert - was).std() / was.std()).item() == pytest.approx(0.1, rel=0.1)
        assert not torch.equal(every[0][0], every[0][1])
        assert torch.equal(every[1][0], was) and torch.equal(every[1][1], was)
        for expert in every[1][2:]:
            assert expert.std().item() == pytest.approx(0.2, rel=0.1)  # the shape's initializer_range
            assert abs(torch.corrcoef(torch.stack([expert.flatten(), was.flatten()]))[0, 1]) < 0.1
        for expert in every[2]:
            assert expert.std().item() == pytest.approx(was.std().item(), rel=0.1)
    for expert in range(4):
        changed = [
            (dropped[f"{stem}.experts.{expert}.{m}_proj.weight"] != old[f"{stem}.{m}_proj.weight"]).all(axis)
            for m, axis in (("gate", 1), ("up", 1), ("down", 0))
        ]
        assert changed[0].sum() == 16  # a quarter of 64 hidden units, the same in all three matrices
        assert torch.equal(changed[0], changed[1]) and torch.equal(changed[0], changed[2])
    assert torch.equal(noisy[f"{stem}.gate.weight"], fresh[f"{stem}.gate.weight"])
    assert noisy[f"{stem}.gate.weight"].shape == (4, 32)
    kept = [name for name in old if ".mlp." not in name or "layers.0" in name or "layers.2" in name]
    assert all(torch.equal(made[name], old[name]) for made in (noisy, fresh, dropped) for name in kept)


def test_the_seed_decides(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same bytes, in one file or in many; another seed another router."""
    noisy = Upcycling(experts=4, noise=0.1, fresh=0.25, drop=0.5, seed=7)
    upcycle(dense, tmp_path / "a", noisy)
    monkeypatch.setattr(module, "SHARD", 30_000)
    upcycle(dense, tmp_path / "b", noisy)
    upcycle(dense, tmp_path / "c", Upcycling(experts=4, seed=8))
    one, two, other = (weights(tmp_path / name) for name in "abc")
    assert one.keys() == two.keys() == other.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    router = "decoder.model.layers.1.mlp.gate.weight"
    assert not torch.equal(one[router], other[router])
    parts = sorted(path.name for path in (tmp_path / "b").glob("*.safetensors"))
    assert len(parts) > 3 and parts[0] == f"model-00001-of-{len(parts):05}.safetensors"
    assert all((tmp_path / "b" / part).stat().st_size < 30_000 + 64 * 32 * 4 + 4_000 for part in parts)
    from_parts, whole = (MM15ForConditionalGeneration.from_pretrained(tmp_path / name) for name in "ba")
    assert torch.equal(logits(from_parts), logits(whole))


@pytest.mark.parametrize(
    ("decoder", "says"), [("llama", "'llama', and only 'qwen3'"), ("qwen2", "'qwen2', and"), ("qwen3_moe", "already")]
)
def test_what_has_no_exact_form_is_refused(tmp_path: Path, decoder: str, says: str) -> None:
    """With the decoder's family; nothing is written."""
    make(decoder=decoder).save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=says):
        upcycle(tmp_path / "model", tmp_path / "out", FOUR)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_bad_settings_and_folders(dense: Path, tmp_path: Path) -> None:
    """One line each, before anything is written."""
    for wrong in ({"top_k": 5}, {"every": 0}, {"noise": -1.0}, {"fresh": 1.5}, {"drop": -0.1}):
        with pytest.raises(UserError, match="need"):
            Upcycling(experts=4, **wrong)
    with pytest.raises(UserError, match="give at most 4"):
        upcycle(dense, tmp_path / "out", Upcycling(experts=4, every=5))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        upcycle(dense, tmp_path / "full", FOUR)
    shutil.copytree(dense, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(UserError, match="no safetensors"):
        upcycle(tmp_path / "bare", tmp_path / "out", FOUR)
    result = CliRunner().invoke(app, ["upcycle", "owner/name", str(tmp_path / "out")])
    assert isinstance(result.exception, UserError) and "local folders" in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "full"]


def test_nothing_half_written_stays(dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing fails on the way, neither OUT nor anything beside it is left."""
    monkeypatch.setattr(module, "SHARD", 30_000)
    plain, calls = module.save_file, []

    def fails(*arguments: Any, **options: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        plain(*arguments, **options)

    monkeypatch.setattr(module, "save_file", fails)
    with pytest.raises(UserError, match="no room left"):
        upcycle(dense, tmp_path / "out", FOUR)
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------------- training goes on


def losses(folder: Path, batches: list[Any]) -> list[float]:
    """Loss of each step of training from a model folder, by the training loop."""
    model, _ = load(folder)
    stage = recipe.load(Path(__file__).parent / "tiny.yaml", ["stages.sft.steps=20"]).stages["sft"]
    found: list[Step] = []
    train(
        model,
        make_optimizer(model, stage.optimizer),
        iter([batch] for batch in batches),
        stage=stage,
        first=1,
        bf16=False,
        world=parallel.World(),
        on_step=found.append,
    )
    return [step.loss for step in found]


def test_a_trained_run_goes_on_where_it_stood(tiny_run: Path, tmp_path: Path) -> None:
    """`mm15 upcycle RUN OUT`; the first loss is the dense one's to 1e-5, and in 20 steps on the same data none is above
    the dense continuation's by more than that one's own fluctuation."""
    out = tmp_path / "moe"
    result = CliRunner().invoke(app, ["upcycle", str(tiny_run), str(out), "--experts", "4"])
    assert result.exit_code == 0, result.exception
    assert "4 experts, top-2, in layers 2" in result.output
    assert json.loads((out / "upcycled.json").read_text())["experts"] == 4
    _, processor = load(out)
    kinds = ["scene_color", "fact_qa", "ground", "arithmetic_text"]
    batches = []
    for step in range(20):
        samples = [world_sample(kind, 4 * step + i, size=64) for i, kind in enumerate(kinds)]
        documents = [Document(i, s.id, Ref(s.source, i), processor.encode(s)) for i, s in enumerate(samples)]
        batches.append(make_batch(documents))
    dense, sparse = losses(tiny_run / "model", batches), losses(out, batches)
    assert sparse[0] == pytest.approx(dense[0], abs=1e-5)
    fluctuation = torch.tensor(dense).std().item()
    assert max(s - d for s, d in zip(sparse, dense, strict=True)) < fluctuation
    assert sparse[-5:] != dense[-5:]


def test_the_sparse_model_is_evaluated_and_asked(tiny_run: Path, tmp_path: Path) -> None:
    """`evaluate` and a conversation take the folder; scores are the dense model's, for it answers the same."""
    from mm15.evaluate.stage import evaluate_model
    from mm15.generate.conversation import Conversation

    out = tmp_path / "moe"
    upcycle(tiny_run / "model", out, FOUR)
    recipe_file = str(Path(__file__).parent / "tiny.yaml")
    found, wanted = (
        evaluate_model(str(folder), recipe=recipe_file, tasks="scene_color", limit=2).as_dict()
        for folder in (out, tiny_run / "model")
    )
    assert {k: v for k, v in found.items() if k != "seconds"} == {k: v for k, v in wanted.items() if k != "seconds"}
    picture = world_sample("scene_color", 0, size=64).images[0].data
    replies = [Conversation(*load(f), max_new_tokens=6).ask("Where?", images=[picture]).text for f in (out, tiny_run)]
    assert replies[0] == replies[1]
