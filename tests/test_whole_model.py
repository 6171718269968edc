"""`model.weights`: a run starts from a whole trained model, with its tokenizer; what does not fit is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Command
from transformers import PreTrainedTokenizerFast

from mm15 import load, recipe
from mm15.data.open import base_tokenizer, stage_processor
from mm15.errors import UserError
from mm15.model.assemble import build, skeleton, vocabulary
from mm15.train.models import start_stage
from mm15.train.run import run
from mm15.train.upcycle import Upcycling, upcycle
from mm15.world import make

SPARSE = (
    "model.decoder.family=qwen3_moe",
    "model.decoder.shape.num_experts=4",
    "model.decoder.shape.decoder_sparse_step=2",
)


def fine_tuning(weights: Path, *more: str) -> recipe.Recipe:
    """The tiny recipe's last stage alone, from a trained model."""
    return recipe.load(TINY, [f"model.weights={weights}", "stages.pretrain=null", "stages.continual=null", *more])


def started(settings: recipe.Recipe) -> tuple[Any, PreTrainedTokenizerFast]:
    tokenizer = base_tokenizer(settings, {})
    return start_stage(settings, next(iter(settings.stages)), None, tokenizer), tokenizer


@pytest.mark.parametrize("named", ["", "model"])
def test_it_starts_as_the_trained_model(tiny_run: Path, named: str) -> None:
    """By its run folder or its own; every weight, the tokenizer, and the logits of a packed row."""
    wanted, processor = load(tiny_run)
    model, tokenizer = started(fine_tuning(tiny_run / named))
    state, expected = model.state_dict(), wanted.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)
    assert tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    encoded = processor.encode(make("scene_color", 1, size=64))
    inputs = {"input_ids": torch.tensor(encoded.input_ids)[None], "pixel_values": torch.from_numpy(encoded.tiles)}
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**inputs).logits, wanted(**inputs).logits, rtol=0, atol=1e-5)
    for key in ("image_token_id", "tile", "tiling", "coordinates", "pad_token_id"):
        assert getattr(model.config, key) == getattr(wanted.config, key), key
    assert model.generation_config.suppress_tokens == wanted.generation_config.suppress_tokens


def test_built_for_other_tiles(tiny_run: Path) -> None:
    """By `build` alone: what its arguments say is in the configuration; rows that the tokenizer needed are no fault."""
    settings = fine_tuning(tiny_run, "model.decoder.shape.vocab_size=300", "model.router.balance=0.5")
    options: dict[str, Any] = {"coordinates": {"bins": 7}, "tiling": {"tile": 48}}
    config = build(settings.model, tile=48, image_token_id=9, vocab_size=10, **options).config
    assert (config.tile, config.vision_config.image_size, config.image_token_id) == (48, 48, 9)
    assert (config.coordinates, config.tiling, config.router_balance) == ({"bins": 7}, {"tile": 48}, 0.5)


def test_another_tile_and_more_tokens(tiny_run: Path) -> None:
    """Position embeddings are interpolated to the stage's tile, rows of embeddings come for new tokens."""
    settings = fine_tuning(tiny_run, "picture.tile=48", "coordinates.tokens=true", "coordinates.bins=200")
    tokenizer = stage_processor(settings, "sft", _prepared(settings)).tokenizer
    before, _ = load(tiny_run)
    model = start_stage(settings, "sft", None, tokenizer)
    assert model.config.tile == 48 and model.vision.tower.embeddings.position_embedding.num_embeddings == 36
    rows, trained = model.get_input_embeddings().weight, before.get_input_embeddings().weight
    assert len(rows) == len(tokenizer) == len(trained) + 200 and torch.equal(rows[: len(trained)], trained)


def _prepared(settings: recipe.Recipe) -> PreTrainedTokenizerFast:
    from mm15.regions import Coordinates
    from mm15.text import tokenizer as tokenizers

    coordinates = Coordinates(**settings.coordinates.model_dump())
    return tokenizers.prepare(base_tokenizer(settings, {}), coordinates=coordinates)


def test_a_run_from_it(tiny_run: Path, tmp_path: Path, mm15_command: Command) -> None:
    """From the command line: one stage, which resumes; at no learning rate what comes out is what went in."""
    stages = ("stages.pretrain=null", "stages.continual=null", "stages.sft.optimizer.lr=1e-12")
    for steps in (2, 4):
        command = ("run", TINY, f"model.weights={tiny_run}", *stages, f"stages.sft.steps={steps}", "--out")
        done = mm15_command(*command, tmp_path / f"{steps}")
        assert done.returncode == 0, done.stderr
        assert [path.name for path in (tmp_path / f"{steps}/stages").iterdir()] == ["sft"]
    assert mm15_command(*command, tmp_path / "4").returncode == 0
    (before, trained), (after, processor) = load(tiny_run), load(tmp_path / "4")
    for name, weight in after.state_dict().items():
        torch.testing.assert_close(weight, before.state_dict()[name], rtol=0, atol=1e-8, msg=name)
    assert processor.tokenizer.get_vocab() == trained.tokenizer.get_vocab()
    lines = [(tmp_path / f"{steps}/stages/sft/metrics.jsonl").read_text().splitlines() for steps in (2, 4)]
    losses = [[json.loads(line)["loss"] for line in run] for run in lines]
    assert len(losses[1]) == 4 and losses[0] == pytest.approx(losses[1][:2], abs=1e-6)


def test_an_upcycled_model_starts_a_run(tiny_run: Path, tmp_path: Path) -> None:
    """The whole of it: logits are the dense model's to 1e-5 before the first step."""
    upcycle(tiny_run / "model", tmp_path / "moe", Upcycling(experts=4))
    model, _ = started(fine_tuning(tmp_path / "moe", *SPARSE))
    dense, processor = load(tiny_run)
    assert hasattr(model.decoder.model.layers[1].mlp, "experts")
    encoded = processor.encode(make("scene_color", 1, size=64))
    inputs = {"input_ids": torch.tensor(encoded.input_ids)[None], "pixel_values": torch.from_numpy(encoded.tiles)}
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(**inputs).logits, dense(**inputs).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.connector.tokens=16", "its connector.tokens is 4, model.connector.tokens says 16; correct it"),
        ("model.connector.depth=2", "its connector.depth is 1, model.connector.depth says 2"),
        ("model.connector.hidden_size=64", "its connector.hidden_size is 32, model.connector.hidden_size says 64"),
        ("model.connector.mlp_depth=1", "its connector.mlp_depth is 2, model.connector.mlp_depth says 1"),
        ("model.vision.family=clip", "its vision.family is siglip, model.vision.family says clip"),
        ("model.decoder.family=llama", "its decoder.family is qwen3, model.decoder.family says llama"),
        ("model.vision.shape.stem=[8]", r"its vision.shape.stem is \[16\], model.vision.shape.stem says \[8\]"),
        ("model.vision.shape.num_attention_heads=4", "its num_attention_heads is 2, model.vision.shape"),
        ("model.decoder.shape.head_dim=8", "its head_dim is 16, model.decoder.shape.head_dim says 8"),
    ],
)
def test_another_model_is_refused(tiny_run: Path, override: str, message: str) -> None:
    settings = fine_tuning(tiny_run, override)
    with pytest.raises(UserError, match=message):
        started(settings)


def test_a_refused_run_is_started_again_with_what_was_mended(tiny_run: Path, tmp_path: Path) -> None:
    """In the same folder, as nothing was trained in it; with the tokenizer of the recipe as it is now."""
    with pytest.raises(UserError, match=r"model.connector.depth says 2"):
        run(fine_tuning(tiny_run, "model.connector.depth=2", "coordinates.tokens=true"), tmp_path / "out")
    mended = fine_tuning(tiny_run, "stages.sft.steps=2")
    run(mended, tmp_path / "out")
    assert recipe.load(tmp_path / "out/recipe.yaml") == mended
    trained = load(tiny_run)[1].tokenizer
    assert load(tmp_path / "out")[1].tokenizer.get_vocab() == trained.get_vocab()
    with pytest.raises(UserError, match="holds a run of another recipe"):
        run(fine_tuning(tiny_run, "stages.sft.steps=3"), tmp_path / "out")


def test_a_dense_model_is_not_a_sparse_one(tiny_run: Path, tmp_path: Path) -> None:
    upcycle(tiny_run / "model", tmp_path / "moe", Upcycling(experts=4))
    with pytest.raises(UserError, match=r"its decoder.family is qwen3_moe, model.decoder.family says qwen3"):
        started(fine_tuning(tmp_path / "moe"))
    with pytest.raises(UserError, match=r"its num_experts is 4, model.decoder.shape.num_experts says 64"):
        started(fine_tuning(tmp_path / "moe", "model.decoder.family=qwen3_moe"))


def test_what_is_no_whole_model(tiny_run: Path, tmp_path: Path) -> None:
    """Nothing there, a decoder alone, a model without its tokenizer: one line each."""
    with pytest.raises(UserError, match="nowhere/at/all: no such folder; give a run folder"):
        started(fine_tuning(Path("nowhere/at/all")))
    load(tiny_run)[0].decoder.save_pretrained(tmp_path / "decoder")
    shutil.copytree(tiny_run / "model", tmp_path / "bare")
    for path in tmp_path.glob("bare/*token*"):
        path.unlink()
    with pytest.raises(UserError, match="bare: holds no tokenizer that can be read"):
        started(fine_tuning(tmp_path / "bare"))
    settings = fine_tuning(tmp_path / "decoder")
    with pytest.raises(UserError, match="decoder: is a 'qwen3' model, not a whole mm15 one"):
        start_stage(settings, "sft", None, base_tokenizer(fine_tuning(tiny_run), {}))


def test_its_size_is_known_without_it(tmp_path: Path) -> None:
    """A skeleton reads nothing; parts without a shape only serve where the model can be read."""
    settings = fine_tuning(tmp_path / "away")
    fresh = recipe.load(TINY)
    assert [p.shape for p in skeleton(settings, tile=32, vocab_size=vocabulary(settings)).parameters()] == [
        p.shape for p in skeleton(fresh, tile=32, vocab_size=vocabulary(fresh)).parameters()
    ]
    bare = settings.model.model_copy(update={"decoder": recipe.Backbone(family="qwen3")})
    with pytest.raises(UserError, match=r"model.decoder has weights \(.*away\) and no shape"):
        skeleton(settings.model_copy(update={"model": bare}), tile=32, vocab_size=400)


def test_parts_without_a_shape_are_taken_as_they_are(tiny_run: Path) -> None:
    parts = {"vision": recipe.Backbone(family="siglip"), "decoder": recipe.Backbone(family="qwen3")}
    settings = fine_tuning(tiny_run)
    settings = settings.model_copy(update={"model": settings.model.model_copy(update=parts)})
    assert torch.equal(started(settings)[0].decoder.lm_head.weight, load(tiny_run)[0].decoder.lm_head.weight)


def test_stages_and_sources_can_be_left_out(tmp_path: Path) -> None:
    """Null takes away what `extends` brought; what is still used of it is missed."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: {TINY}\nname: mine\nstages: {{pretrain: null}}\nsources: {{ocr_page: null}}\n")
    with pytest.raises(UserError, match="ocr_page"):
        recipe.load(path)
    path.write_text(f"extends: {TINY}\nname: mine\nstages: {{pretrain: null, continual: null}}\n")
    settings = recipe.load(path)
    assert list(settings.stages) == ["sft"]
    assert recipe.load(TINY).stages["sft"] == settings.stages["sft"] and "ocr_page" in settings.sources
