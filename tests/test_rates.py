"""Which parameter learns at what part of the rate: against timm's layer decay, by hand, and through checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_model import PICTURE, make, text, tiles

from mm15 import recipe
from mm15.errors import UserError
from mm15.train import checkpoint, parallel
from mm15.train.optim import make_optimizer, rate_factors, set_learning_rate

HERE = Path(__file__).parent
WORLD = parallel.World()
BY_LAYER = recipe.Optimizer(
    lr=1e-3, weight_decay=0.1, rates={"vision": 0.1, "connector": 3.0}, layer_decay={"vision": 0.7, "decoder": 0.5}
)

TIMM_REFERENCE = """
import json, timm_stub
from timm.models.vision_transformer import VisionTransformer
from timm.optim.optim_factory import param_groups_layer_decay
tower = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0)
names = {id(p): name for name, p in tower.named_parameters()}
groups = param_groups_layer_decay(tower, layer_decay=0.7)
print(json.dumps({names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}))
"""


def factors(model: torch.nn.Module, settings: recipe.Optimizer) -> dict[str, float]:
    """Factors by name."""
    names = {p: name for name, p in model.named_parameters()}
    return {names[p]: factor for p, factor in rate_factors(model, settings).items()}


def gradients(model: torch.nn.Module, seed: int = 0) -> None:
    """Backward of a loss over a row with a picture."""
    model.zero_grad()
    ids = torch.tensor([text(3, seed) + PICTURE + text(9, seed + 1)])
    model(input_ids=ids, pixel_values=tiles(1, seed), labels=ids).loss.backward()


def test_layer_decay_is_timms() -> None:
    """Every parameter of a three-layer tower has timm's factor for a ViT without a head, times the part's."""
    done = subprocess.run([sys.executable, "-c", TIMM_REFERENCE], capture_output=True, text=True, cwd=HERE)
    assert done.returncode == 0, f"the reference needs timm (pip install --no-deps timm):\n{done.stderr}"
    wanted = json.loads(done.stdout)
    for family in ("siglip", "clip", "dinov2"):
        ours = factors(make(family, vision_shape={"num_hidden_layers": 3}), BY_LAYER)
        for name, factor in ours.items():
            if name.startswith("vision"):
                _, _, layer = name.partition("layers." if family != "dinov2" else "layer.")
                first = "embeddings" in name or "pre_layrnorm" in name
                like = f"blocks.{layer[0]}.norm1.weight" if layer else "pos_embed" if first else "norm.weight"
                assert factor == pytest.approx(0.1 * wanted[like], rel=1e-12), name


def test_factors_of_decoder_and_connector_by_hand() -> None:
    """Tied embeddings are one parameter and learn as embeddings; an output head of its own learns as the last layer."""
    settings = recipe.Optimizer(rates={"decoder": 2.0}, layer_decay={"decoder": 0.5, "connector": 0.1})
    for tied in (True, False):
        ours = factors(make(decoder_shape={"tie_word_embeddings": tied, "num_hidden_layers": 3}), settings)
        assert ours["decoder.model.embed_tokens.weight"] == 2 / 8
        assert [ours[f"decoder.model.layers.{i}.mlp.up_proj.weight"] for i in range(3)] == [0.5, 1.0, 2.0]
        assert ours["decoder.model.norm.weight"] == 2.0
        assert ours.get("decoder.lm_head.weight", 2.0) == 2.0
        assert ("decoder.lm_head.weight" in ours) is not tied
    shown = [
        ours[f"connector.{name}"]
        for name in ("pos_emb", "s1.b1.se.fc1.bias", "s2.b1.bn", "readout.0.weight")
        if f"connector.{name}" in ours
    ]
    assert shown == pytest.approx([0.01, 0.1, 1.0])
    assert ours["connector.s2.b1.conv1.conv.weight"] == 1.0
    assert {factor for name, factor in ours.items() if name.startswith("vision")} == {1.0}


@pytest.mark.parametrize(
    ("vision", "decoder", "frozen"),
    [("siglip", "llama", ()), ("clip", "qwen3_moe", ("vision",)), ("dinov2", "qwen3", ("decoder",))],
)
@pytest.mark.parametrize("settings", [recipe.Optimizer(weight_decay=0.1), BY_LAYER], ids=["default", "by_layer"])
def test_no_parameter_is_lost_or_doubled(
    vision: str, decoder: str, frozen: tuple[str, ...], settings: recipe.Optimizer
) -> None:
    """The groups hold each trainable parameter once, one of no part too; only matrices decay."""
    model = make(vision, decoder, decoder_shape={"tie_word_embeddings": decoder == "qwen3_moe"})
    model.gain = torch.nn.Parameter(torch.ones(3))
    for part in frozen:
        getattr(model, part).requires_grad_(False)
    for name in ("adamw", "adafactor"):
        optimizer = make_optimizer(model, settings.model_copy(update={"name": name}))
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert len(held) == len(set(held))
        assert set(held) == {p for p in model.parameters() if p.requires_grad}
        for group in optimizer.param_groups:
            assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] > 0}
            assert group["weight_decay"] in (0, 0.1)


def test_a_first_step_moves_each_parameter_by_its_rate() -> None:
    """AdamW's first step is lr times the sign of the gradient: so far goes every element that has one."""
    model = make().train()
    settings = BY_LAYER.model_copy(update={"weight_decay": 0.0, "eps": 1e-30})
    optimizer = make_optimizer(model, settings)
    set_learning_rate(optimizer, 1e-2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients(model)
    optimizer.step()
    for name, factor in factors(model, settings).items():
        parameter = model.get_parameter(name)
        moved = (parameter.detach() - before[name]).abs()[parameter.grad != 0]
        torch.testing.assert_close(moved, torch.full_like(moved, 1e-2 * factor), rtol=1e-2, atol=2e-7, msg=name)


def test_default_groups_are_those_of_before(tmp_path: Path) -> None:
    """Matrices, then vectors, in the model's order and without new keys: what was saved before rates still loads."""
    model = make()
    optimizer = make_optimizer(model, recipe.Optimizer(weight_decay=0.1))
    parameters = list(model.parameters())
    shapes = [[p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]]
    assert [group["params"] for group in optimizer.param_groups] == shapes
    old = torch.optim.AdamW(
        [{"params": shapes[0], "weight_decay": 0.1}, {"params": shapes[1], "weight_decay": 0.0}],
        lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True,
    )  # fmt: skip
    gradients(model)
    old.step()
    old.zero_grad()
    path = checkpoint.save(tmp_path, 1, model=model, optimizer=old, state={}, world=WORLD, keep=1)
    checkpoint.load(path, model=model, optimizer=optimizer, world=WORLD)
    for parameter in parameters:
        for key, value in old.state[parameter].items():
            assert torch.equal(optimizer.state[parameter][key], value)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_several_groups_resume_exactly(tmp_path: Path, name: str) -> None:
    """Four steps are two steps, a checkpoint into a fresh model and optimiser, and two more."""
    settings = BY_LAYER.model_copy(update={"name": name})
    whole = make().train()
    optimizer = make_optimizer(whole, settings)
    for step in range(4):
        if step == 2:
            path = checkpoint.save(tmp_path, 2, model=whole, optimizer=optimizer, state={}, world=WORLD, keep=1)
        set_learning_rate(optimizer, 1e-3 / (step + 1))
        gradients(whole, step)
        optimizer.step()
    again = make(seed=5).train()
    optimizer = make_optimizer(again, settings)
    assert len(optimizer.param_groups) > 4
    checkpoint.load(path, model=again, optimizer=optimizer, world=WORLD)
    for step in (2, 3):
        set_learning_rate(optimizer, 1e-3 / (step + 1))
        gradients(again, step)
        optimizer.step()
    wanted = dict(whole.named_parameters())
    assert all(torch.equal(p, wanted[key]) for key, p in again.named_parameters())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.rates={vison: 1}", r"Input should be 'vision', 'connector' or 'decoder'"),
        ("optimizer.rates={vision: 0}", r"rates of vision is 0.0; give a factor above 0, or name the part in freeze"),
        ("optimizer.layer_decay={decoder: 1.5}", r"layer_decay of decoder is 1.5; give a factor above 0, at most 1"),
        ("freeze=[vision] optimizer.rates={vision: 0.1}", r"optimizer.rates names vision, which freeze names too"),
        ("freeze=[vision] optimizer.layer_decay={vision: 0.9}", r"optimizer.layer_decay names vision, which freeze"),
    ],
)
def test_bad_rates(override: str, message: str) -> None:
    overrides = [f"stages.sft.{one}" for one in override.replace("] opt", "]|opt").split("|")]
    with pytest.raises(UserError, match=message) as caught:
        recipe.load(HERE / "tiny.yaml", overrides)
    assert "\n" not in str(caught.value) and "stages.sft" in str(caught.value)
