"""The sizes of MM1.5: shapes and counts of every shipped recipe, the paper's numbers in its stages, public backbones.

No model here has memory but the tiny ones; a hub is never asked.
"""

from __future__ import annotations

import math
import re
import socket
import tomllib
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from model_shapes import GOLDEN, active, count, last_model, listing
from transformers import CLIPConfig, CLIPModel, Qwen3Config, Qwen3ForCausalLM

from mm15 import recipe
from mm15.errors import UserError
from mm15.model import MM15ForConditionalGeneration, build
from mm15.model.assemble import skeleton, vocabulary
from mm15.recipe import Recipe

SIZES = ["1b", "3b", "7b", "30b", "1b-moe", "3b-moe"]
NAMES = [f"mm15-{size}{form}" for size in SIZES for form in ("", "-public")]
MOE = [name for name in NAMES if "moe" in name]

load = cache(recipe.load)


@cache
def model(name: str) -> MM15ForConditionalGeneration:
    """The skeleton of a shipped recipe's last stage, with every way to the network barred."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", _offline)
        return last_model(load(name))


def _offline(*_: object) -> None:
    raise AssertionError("a skeleton asked the network")


# ---------------------------------------------------------------------------------------------------- shapes and counts


def test_all_sizes_are_shipped() -> None:
    assert set(NAMES) <= set(recipe.shipped())


@pytest.mark.parametrize("name", recipe.shipped())
def test_every_shipped_model_equals_its_golden_shapes(name: str) -> None:
    """Rewrite with `python tests/model_shapes.py NAME`, so that a reviewer sees what changed."""
    found = model(name)
    assert {tensor.device.type for tensor in [*found.parameters(), *found.buffers()]} == {"meta"}
    assert listing(found) == (GOLDEN / f"{name}.txt").read_text()


def llm(shape: dict[str, Any], *, moe: bool) -> tuple[int, int]:
    """(all, active) parameters of a Llama-like decoder by hand, as the shape's numbers say."""
    d, f, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    heads, groups = shape["num_attention_heads"], shape["num_key_value_heads"]
    side = shape.get("head_dim", d // heads)
    qwen2 = "head_dim" not in shape  # biases on queries, keys and values; the others normalise queries and keys
    attention = 2 * d * heads * side + 2 * d * groups * side + ((heads + 2 * groups) * side if qwen2 else 2 * side)
    embeddings = shape["vocab_size"] * d * (1 if shape["tie_word_embeddings"] else 2)
    dense = embeddings + d + layers * (attention + 2 * d + 3 * d * f)
    if not moe:
        return dense, dense
    experts, chosen = shape["num_experts"], shape["num_experts_per_tok"]
    sparse = layers // 2
    return (
        dense + sparse * ((experts - 1) * 3 * d * f + experts * d),
        dense + sparse * ((chosen - 1) * 3 * d * f + experts * d),
    )


def encoder(shape: dict[str, Any], *, clip: bool, tile: int) -> int:
    """Parameters of a vision transformer by hand; CLIP has a class token, SigLIP a bias on its patches."""
    d, f, patch = shape["hidden_size"], shape["intermediate_size"], shape["patch_size"]
    layer = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d
    patches = 3 * patch**2 * d + (tile // patch) ** 2 * d
    return patches + (2 * d + 2 * d if clip else d + 2 * d) + shape["num_hidden_layers"] * layer


def c_abstractor(width: int, out: int, *, hidden: int, depth: int, grid: int) -> int:
    """Parameters of a C-Abstractor by hand: two stages of bottlenecks, positions and a readout of two layers."""

    def bottleneck(given: int) -> int:
        squeezed = round(given / 4)
        excite = 2 * hidden * squeezed + squeezed + hidden
        shortcut = (given * hidden + 2 * hidden) if given != hidden else 0
        return (given * hidden + 2 * hidden) + (9 * hidden + 2 * hidden) + excite + (hidden**2 + 2 * hidden) + shortcut

    stages = bottleneck(width) + (2 * depth - 1) * bottleneck(hidden)
    return grid**2 * width + stages + (hidden * out + out) + (out**2 + out)


@pytest.mark.parametrize("name", NAMES)
def test_counts_equal_the_formula_by_hand(name: str) -> None:
    settings, found = load(name).model, model(name)
    vision, decoder = settings.vision.shape, settings.decoder.shape
    whole, working = llm(decoder, moe=name in MOE)
    assert (count(found, "decoder"), active(found, "decoder")) == (whole, working)
    assert count(found, "vision") == encoder(vision, clip="public" not in name, tile=672)
    wanted = c_abstractor(vision["hidden_size"], decoder["hidden_size"], hidden=1024, depth=3, grid=48)
    assert count(found, "connector") == wanted


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("mm15-1b", 1.2e9),
        ("mm15-3b", 2.9e9),
        ("mm15-7b", 6.4e9),
        ("mm15-30b", 30e9),
        ("mm15-3b-moe", 64e9),  # MM1-3B-MoE's
    ],
)
def test_decoders_from_scratch_have_the_papers_size(name: str, paper: float) -> None:
    assert count(model(name), "decoder") == pytest.approx(paper, rel=0.02)


def test_the_encoder_from_scratch_has_the_papers_size() -> None:
    """ViT-H: 632M at its own 378 pixels."""
    small = skeleton(load("mm15-1b"), tile=378, vocab_size=49280)
    assert count(small, "vision") == pytest.approx(632e6, rel=0.005)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mm15-1b-public", 1_720_574_976),
        ("mm15-3b-public", 4_022_468_096),
        ("mm15-7b-public", 8_190_735_360),
        ("mm15-30b-public", 32_763_876_352),
    ],
)
def test_public_decoders_have_the_published_count(name: str, parameters: int) -> None:
    """What the hub says of their safetensors."""
    assert count(model(name), "decoder") == parameters


@pytest.mark.parametrize("name", MOE)
def test_every_second_layer_has_64_experts_of_which_two_work(name: str) -> None:
    found, dense = model(name), model(name.replace("-moe", ""))
    config, layers = found.config.text_config, found.decoder.model.layers
    for number, (layer, twin) in enumerate(zip(layers, dense.decoder.model.layers, strict=True)):
        assert hasattr(layer.mlp, "experts") == (number % 2 == 1)
        if hasattr(layer.mlp, "experts"):
            width, hidden = twin.mlp.gate_proj.weight.shape
            assert layer.mlp.experts.gate_up_proj.shape == (64, 2 * width, hidden)
            assert layer.mlp.gate.weight.shape == (64, hidden)
    assert (config.num_experts, config.num_experts_per_tok, config.norm_topk_prob) == (64, 2, True)
    assert (found.config.router_balance, found.config.router_z) == (0.01, 0.001)
    same = [p for p in dense.vision.parameters()], [p for p in found.vision.parameters()]
    assert [p.shape for p in same[0]] == [p.shape for p in same[1]]


# ------------------------------------------------------------------------------------------------- the paper's numbers

STAGES = {
    # steps, rows, optimiser, peak, weight decay, kind, warm-up, floor, tile, rule
    "pretrain": (200_000, 512, "adamw", None, 0.1, "cosine", 2000, 0.1, 378, "none"),
    "continual": (30_000, 256, "adafactor", 1e-5, 0.0, "cosine", 300, 0.0, 672, "static"),
    "sft": (23_000, 256, "adafactor", 2e-5, 0.0, "cosine", 230, 0.0, 672, "mm15"),
}


@pytest.mark.parametrize("name", NAMES)
def test_stages_have_the_papers_numbers(name: str) -> None:
    settings = load(name)
    assert list(settings.stages) == list(STAGES)
    for stage, wanted in STAGES.items():
        block, picture = settings.stages[stage], settings.stage_picture(stage)
        optimizer, schedule = block.optimizer, block.schedule
        peak = None if stage == "pretrain" else optimizer.lr
        assert wanted == (
            *(block.steps, block.batch.rows, optimizer.name, peak, optimizer.weight_decay),
            *(schedule.kind, schedule.warmup, schedule.floor, picture.tile, picture.rule),
        )
        assert block.batch.tokens == 4096
        assert (block.freeze, block.lora, block.unit) == ((), None, "samples")
    assert settings.stages["pretrain"].batch.tiles == 16
    sft = settings.stage_picture("sft")
    assert (sft.min_tiles, sft.max_tiles, sft.overview, sft.split_below, sft.indicators) == (4, 9, "after", 3, "index")
    assert settings.stages["sft"].batch.tiles >= sft.max_tiles + 1
    assert 2 * settings.stage_picture("continual").tile == 1344
    assert settings.model.connector.tokens == 144


@pytest.mark.parametrize("name", NAMES)
def test_the_learning_rate_follows_mm1s_rule(name: str) -> None:
    """N is the decoder's parameters; a mixture of experts has its dense twin's rate."""
    parameters = count(model(name.replace("-moe", "")), "decoder")
    rule = math.exp(-0.4214 * math.log(parameters) - 0.5535)
    assert load(name).stages["pretrain"].optimizer.lr == pytest.approx(rule, rel=2e-3)


def shares(settings: Recipe, stage: str) -> dict[str, float]:
    """Category -> percent of the samples, by hand from w and alpha."""
    groups = settings.stages[stage].mixture.values()
    found = {}
    for group in groups:
        part = Fraction(group.weight) / sum(Fraction(other.weight) for other in groups)
        alphas = sum(Fraction(category.alpha) for category in group.categories.values())
        for name, category in group.categories.items():
            found[name] = float(100 * part * Fraction(category.alpha) / alphas)
    return found


def test_mixtures_have_the_papers_shares() -> None:
    """Percent of all samples, as the paper's figures print them."""
    settings = load("mm15-3b")
    pretrain = shares(settings, "pretrain")
    assert pretrain.pop("captions") == 50
    assert pretrain.pop("documents") == 10
    assert sum(pretrain.values()) == pytest.approx(40)
    ocr = settings.stages["continual"].mixture["ocr"].categories["ocr"]
    assert len(ocr.sources) == 4 and set(ocr.sources.values()) == {1} and ocr.temperature is None
    printed = {"general": 11.3, "text-rich": 37.2, "refer-ground": 22.5, "science": 1.1, "math": 5.6, "code": 2.3}
    printed |= {"multi-image": 10, "text-only": 10}
    assert shares(settings, "sft") == pytest.approx(printed, abs=0.1)


def test_sizes_differ_in_nothing_but_model_rate_and_memory() -> None:
    for name in NAMES:
        lines = recipe.diff(load("mm15-3b"), load(name))
        assert all(line.startswith(("name", "model.", "stages.pretrain.optimizer.lr", "parallel.")) for line in lines)


def test_every_source_is_drawn_and_boxes_are_declared() -> None:
    settings = load("mm15-3b")
    drawn = {
        source
        for stage in settings.stages.values()
        for group in stage.mixture.values()
        for category in group.categories.values()
        for source in category.sources
    }
    assert drawn == set(settings.sources)
    assert settings.sources["visual_genome"].regions.convention == "llava"


def test_all_parts_of_recipes_are_packaged() -> None:
    root = Path(recipe.SHIPPED).parent
    patterns = tomllib.loads((root.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mm15"]
    packaged = {path for pattern in patterns for path in root.glob(pattern)}
    assert set(recipe.SHIPPED.rglob("*.yaml")) <= packaged


# ----------------------------------------------------------------------------------------------------- public backbones

TINY_VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY_DECODER = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders as the hub has them: a whole CLIP (pictures and text) and a Qwen3, both tiny."""
    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    vision = {**TINY_VISION, "patch_size": 14, "image_size": 28, "projection_dim": 16}
    text = {**TINY_VISION, "vocab_size": 32, "projection_dim": 16}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)).save_pretrained(root / "clip")
    Qwen3ForCausalLM(Qwen3Config(**TINY_DECODER)).save_pretrained(root / "qwen3")
    return {"vision": root / "clip", "decoder": root / "qwen3"}


def public(checkpoints: dict[str, Path], **shapes: Any) -> Recipe:
    """mm15-1b-public with other weights, as a user would write it."""
    vision = shapes.get("vision", {**TINY_VISION, "patch_size": 14})
    lines = [
        f"model.vision={{family: clip, weights: {checkpoints['vision']}, shape: {vision}}}",
        f"model.decoder.weights={checkpoints['decoder']}",
        f"model.decoder.shape={shapes.get('decoder', TINY_DECODER)}",
    ]
    return recipe.load("mm15-1b-public", [line.replace("'", "") for line in lines])


def real(settings: Recipe) -> MM15ForConditionalGeneration:
    return build(settings.model, tile=42, image_token_id=90, vocab_size=95)


def test_a_checkpoint_of_the_shape_is_loaded(checkpoints: dict[str, Path]) -> None:
    """Its weights arrive, and its skeleton is just what is built: same names, same shapes."""
    settings = public(checkpoints)
    found = real(settings)
    decoder = Qwen3ForCausalLM.from_pretrained(checkpoints["decoder"]).state_dict()
    assert all(torch.equal(tensor, decoder[name]) for name, tensor in found.decoder.state_dict().items())
    clip = CLIPModel.from_pretrained(checkpoints["vision"]).vision_model.state_dict()
    key = "encoder.layers.1.mlp.fc1.weight"
    assert torch.equal(found.vision.tower.state_dict()[key], clip[key])
    drawn = skeleton(settings, tile=42, vocab_size=vocabulary(settings))
    assert [(n, p.shape) for n, p in drawn.named_parameters()] == [(n, p.shape) for n, p in found.named_parameters()]
    assert not any(p.is_meta for p in found.parameters())


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("decoder", {"num_hidden_layers": 3}),
        ("decoder", {"vocab_size": 128}),
        ("decoder", {"tie_word_embeddings": False}),
        ("vision", {"hidden_size": 24}),
        ("vision", {"stem": [8]}),
    ],
)
def test_another_shape_than_the_checkpoints_is_one_line(
    checkpoints: dict[str, Path], part: str, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named with both values, before a weight is read."""
    monkeypatch.setattr("mm15.model.decoder.read", _offline)
    shape = {**TINY_DECODER} if part == "decoder" else {**TINY_VISION, "patch_size": 14}
    if part == "vision":
        monkeypatch.setattr("mm15.model.vision.read", _offline)
    else:
        monkeypatch.setattr("mm15.model.assemble._vision", lambda *_: (None, None, []))
    with pytest.raises(UserError) as error:
        real(public(checkpoints, **{part: {**shape, **change}}))
    ((key, said),) = change.items()
    message = str(error.value)
    assert message.startswith(
        f"{checkpoints[part]}: its {key} is {shape.get(key)}, model.{part}.shape.{key} says {said}"
    )
    assert "\n" not in message


def test_the_recipes_own_shape_refuses_other_weights(checkpoints: dict[str, Path]) -> None:
    """A user who names other weights and leaves the shape hears of it, and of the way out."""
    settings = recipe.load("mm15-1b-public", [f"model.decoder.weights={checkpoints['decoder']}"])
    with pytest.raises(UserError, match=r"its vocab_size is 96, .* says 151936; .*model\.decoder\.shape=\{\}"):
        build(settings.model.model_copy(update={"vision": public(checkpoints).model.vision}), **_ids())
    assert real(public(checkpoints, decoder={}, vision={})).decoder.config.hidden_size == 32


def _ids() -> dict[str, int]:
    return {"tile": 42, "image_token_id": 90, "vocab_size": 95}


def test_a_skeleton_needs_the_shape_of_weights(checkpoints: dict[str, Path]) -> None:
    for part in ("vision", "decoder"):
        with pytest.raises(UserError, match=rf"model\.{part} has weights \(.*\) and no shape; give its shape"):
            skeleton(public(checkpoints, **{part: {}}), tile=42, vocab_size=95)


def test_a_fresh_decoder_has_the_rows_of_its_shape_and_more_where_ids_need_them() -> None:
    changes = ["model.tokenizer.vocab_size=400", "model.decoder.shape.vocab_size=512"]

    def rows(settings: Recipe, ids: int) -> int:
        return skeleton(settings, tile=64, vocab_size=ids).get_input_embeddings().num_embeddings

    assert rows(recipe.load("pico", changes), 404) == vocabulary(recipe.load("pico", changes)) == 512
    assert rows(recipe.load("pico", changes), 600) == 600
    assert vocabulary(recipe.load("pico")) == 768
    assert vocabulary(recipe.load("pico", ["coordinates.tokens=true"])) == 768 + 100
    with pytest.raises(UserError, match=r"model\.decoder\.shape has no vocab_size"):
        vocabulary(recipe.load("pico", ["model.tokenizer={weights: smollm2-135m}"]))


@pytest.mark.parametrize(("name", "tokens"), [("mm15-1b", 49_152), ("mm15-1b-public", 151_669)])
def test_tokenizers_fit_into_the_rows(name: str, tokens: int) -> None:
    """SmolLM2's and Qwen3's with all four tokens that mm15 may add."""
    assert tokens + 4 <= vocabulary(load(name))


def test_the_papers_own_encoder_as_the_comment_says() -> None:
    """The override that parts/public.yaml prints gives the encoder of the recipes from scratch."""
    text = (recipe.SHIPPED / "parts" / "public.yaml").read_text()
    override = re.sub(r"\n#\s+", " ", re.search(r"'(model\.vision=\{.*?\}\})'", text, re.DOTALL)[1])
    settings = recipe.load("mm15-1b-public", [override])
    assert settings.model.vision.weights == "apple/DFN5B-CLIP-ViT-H-14-378"
    found = skeleton(settings, tile=672, vocab_size=vocabulary(settings))
    assert count(found, "vision") == count(model("mm15-1b"), "vision")
