"""Adapters: against peft's own merging and the formula, what they leave alone, and through a run that is stopped."""

from __future__ import annotations

import copy
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import PICTURE, make, text, tiles
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from mm15 import recipe
from mm15.errors import UserError
from mm15.model import MM15ForConditionalGeneration
from mm15.recipe import Lora
from mm15.train import adapters, checkpoint
from mm15.train.exporting import export_checkpoint
from mm15.train.metrics import read
from mm15.train.run import run, start_stage

HERE = Path(__file__).parent
ALL = ("vision", "connector", "decoder")
LORA = Lora(rank=3, alpha=12.0, parts=ALL)

LAYERS = (
    r"vision\.tower\.encoder\.layers?\.\d+\.(self_attn|attention)\.(q|k|v|out|o)_proj",
    r"vision\.tower\.encoder\.layers?\.\d+\.mlp\.fc[12]",
    r"connector\.s[12]\.b\d+\.((conv1|conv3|downsample)\.conv|se\.fc[12])",
    r"connector\.readout\.[02]",
    r"decoder\.model\.layers\.\d+\.self_attn\.[qkvo]_proj",
    r"decoder\.model\.layers\.\d+\.mlp\.(gate|up|down)_proj",
)
"""The layers that are to be adapted, written out by hand."""


def adapted(*arguments: str, lora: Lora = LORA, **changes: object) -> MM15ForConditionalGeneration:
    """A tiny model with adapters that do something (B does not start at zero)."""
    model = make(*arguments, **changes)
    adapters.add(model, lora)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=generator)
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.tensor([text(3) + PICTURE + text(9, 1)])
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=tiles(1)).logits


@pytest.mark.parametrize(
    ("vision", "decoder", "changes"),
    [
        ("siglip", "llama", {"vision_shape": {"stem": [8, 16]}}),
        ("dinov2", "qwen3", {"decoder_shape": {"tie_word_embeddings": True}}),
        ("clip", "qwen3_moe", {}),
    ],
)
def test_merged_is_what_peft_merges(vision: str, decoder: str, changes: dict) -> None:
    """The same adapters in a PeftModel, on layers named by hand, merge to the same weights (1e-6) and plain names."""
    from peft import LoraConfig, get_peft_model

    plain = make(vision, decoder, **changes)
    model = adapted(vision, decoder, **changes)
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    before = logits(model)
    adapters.merge(model)
    assert type(model) is MM15ForConditionalGeneration and not hasattr(model, "peft_config")
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    assert (logits(plain) - before).abs().max() > 0.1

    config = LoraConfig(r=3, lora_alpha=12.0, target_modules="|".join(LAYERS))
    theirs = get_peft_model(copy.deepcopy(plain), config)
    names = {name.removeprefix("base_model.model."): p for name, p in theirs.named_parameters() if "lora_" in name}
    assert names.keys() == trained.keys()
    for name, parameter in names.items():
        parameter.data.copy_(trained[name])
    wanted = theirs.merge_and_unload().state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, wanted[name], rtol=0, atol=1e-6, msg=name)
    moved = {name for name, weight in plain.state_dict().items() if not torch.equal(weight, wanted[name])}
    assert {name.removesuffix(".weight") for name in moved} == {name.split(".lora_")[0] for name in trained}


def test_other_parts_train_as_usual_and_frozen_ones_stay_frozen() -> None:
    """Adapters in the decoder, a frozen encoder: connector and adapters are what trains; merging frees the decoder."""
    model = make()
    model.vision.requires_grad_(False)
    adapters.add(model, Lora())
    kinds = {
        name.partition(".")[0] + (".lora" if "lora_" in name else "")
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    assert kinds == {"connector", "decoder.lora"}
    assert all(p.requires_grad for p in model.connector.parameters())
    adapters.merge(model)
    assert {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {
        "connector", "decoder"}  # fmt: skip


def test_experts_and_routers_are_left_alone() -> None:
    model = make("siglip", "qwen3_moe")
    adapters.add(model, Lora())
    names = {name for name, p in model.decoder.named_parameters() if p.requires_grad}
    assert names and not any("expert" in name or re.search(r"mlp\.gate\.", name) for name in names)
    assert not any(re.search(r"layers\.1\.mlp", name) for name in names)  # the sparse layer


def test_dropout_is_a_function_of_the_row() -> None:
    """A row loses the same after any other randomness; another row, other places; in evaluation nothing."""
    model = adapted(lora=Lora(rank=3, dropout=0.5, parts=ALL)).train()
    adapters.same_row_same_dropout(model)
    one = logits(model)
    torch.manual_seed(9)
    torch.rand(3)
    assert torch.equal(logits(model), one)
    assert not torch.equal(one, logits(model.eval()))
    state = torch.get_rng_state()
    logits(model)
    assert torch.equal(torch.get_rng_state(), state)


# ------------------------------------------------------------------------------------------------------------- in a run

STAGE = [
    "stages.continual.lora={rank: 2, alpha: 8, dropout: 0.1, parts: [vision, decoder]}",
    "stages.continual.optimizer.rates={connector: 0.5}",
    "stages.continual.schedule.warmup=0",
    "stages.pretrain.steps=2",
    "stages.sft.steps=2",
    "checkpoint.keep=9",
]


@pytest.fixture(scope="module")
def adapted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose second stage has adapters, stopped after it."""
    out = tmp_path_factory.mktemp("lora") / "run"
    run(recipe.load(HERE / "tiny.yaml", STAGE), out, only="continual")
    return out


def saved(path: Path, folder: Path) -> dict:
    """All that a DCP checkpoint holds, read by torch's own converter."""
    dcp_to_torch_save(path, folder / "whole.pt")
    return torch.load(folder / "whole.pt")


def test_base_weights_stay_and_only_adapters_have_optimiser_state(adapted_run: Path, tmp_path: Path) -> None:
    stage = adapted_run / "stages" / "continual"
    first, last = (saved(stage / f"step-{step:06d}", tmp_path) for step in (2, 6))
    trained = {n for n in last["model"] if "lora_" in n or n.startswith("connector.")}
    for name, weight in last["model"].items():
        assert torch.equal(weight, first["model"][name]) is (name not in trained), name
    assert set(last["optimizer"]["state"]) == trained
    rates = {name: group.get("rate", 1.0) for group in last["optimizer"]["param_groups"] for name in group["params"]}
    assert rates == {name: 0.5 if name.startswith("connector.") else 1.0 for name in trained}


def test_the_export_is_base_plus_merged_and_the_next_stage_starts_from_it(adapted_run: Path, tmp_path: Path) -> None:
    """W + alpha / rank * B A from the last checkpoint, by hand; the exported folder, `mm15 export` of that checkpoint
    and the model the next stage starts from are all that; and that stage trains whole weights again."""
    settings = recipe.load(HERE / "tiny.yaml", STAGE)
    newest = checkpoint.latest(adapted_run / "stages" / "continual")
    assert newest is not None
    held = saved(newest, tmp_path)["model"]
    wanted = {name.replace("base_layer.", ""): w for name, w in held.items() if "lora_" not in name}
    for name in [name for name in held if "lora_A" in name]:
        a, b = held[name], held[name.replace("lora_A", "lora_B")]
        wanted[name.replace("lora_A.default.", "")] += 8 / 2 * (b @ a)
    exported = load_file(adapted_run / "model" / "model.safetensors")
    untied = {name: w for name, w in wanted.items() if name in exported or "lm_head" not in name}
    assert exported.keys() == untied.keys()
    for name, weight in exported.items():
        torch.testing.assert_close(weight, wanted[name], rtol=0, atol=1e-6, msg=name)
    _, report = MM15ForConditionalGeneration.from_pretrained(adapted_run / "model", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    export_checkpoint(adapted_run, tmp_path / "again", stage="continual")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == exported.keys() and all(torch.equal(again[name], w) for name, w in exported.items())

    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(adapted_run / "tokenizer")
    started = start_stage(settings, "sft", newest, tokenizer)
    assert all(p.requires_grad for p in started.parameters())
    state = started.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in exported.items())
    copied = shutil.copytree(adapted_run, tmp_path / "run")
    run(settings, copied, only="sft")
    after = load_file(copied / "model" / "model.safetensors")
    assert after.keys() == exported.keys()
    assert {name.partition(".")[0] for name, w in after.items() if not torch.equal(w, exported[name])} == set(ALL)


def test_a_stopped_stage_goes_on_exactly(adapted_run: Path, tmp_path: Path) -> None:
    """From step 2 again, dropout included: the same losses, norms and model; the metrics' rate is the schedule's."""
    copied = shutil.copytree(adapted_run, tmp_path / "run")
    stage = copied / "stages" / "continual"
    for step in (4, 6):
        shutil.rmtree(stage / f"step-{step:06d}")
    shutil.rmtree(copied / "model")
    run(recipe.load(HERE / "tiny.yaml", STAGE), copied, only="continual")
    whole, again = (read(folder / "stages/continual/metrics.jsonl") for folder in (adapted_run, copied))
    assert [[line[key] for key in ("step", "loss", "grad_norm")] for line in again] == [
        [line[key] for key in ("step", "loss", "grad_norm")] for line in whole
    ]
    model, wanted = (load_file(folder / "model" / "model.safetensors") for folder in (copied, adapted_run))
    assert all(torch.equal(model[name], weight) for name, weight in wanted.items())
    assert whole[0]["lr"] == recipe.load(HERE / "tiny.yaml").stages["continual"].optimizer.lr


# --------------------------------------------------------------------------------------------------------- bad settings


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora={rank: 0}"], r"stages.sft.lora.rank: Input should be greater than or equal to 1"),
        (["lora={rank: -4}"], r"stages.sft.lora.rank: Input should be greater than or equal to 1"),
        (["lora={parts: [decodr]}"], r"lora.parts.0: Input should be 'vision', 'connector' or 'decoder'"),
        (["lora={parts: []}"], r"lora.parts: Tuple should have at least 1 item"),
        (["lora={rank: 4}", "freeze=[vision, decoder]"], r"freeze names decoder, which lora adapts"),
        (["lora={dropout: 1}"], r"lora.dropout: Input should be less than 1"),
        (["lora={ranks: 1}"], r"unknown key 'stages.sft.lora.ranks'; did you mean 'rank'"),
    ],
)
def test_bad_settings(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        recipe.load(HERE / "tiny.yaml", [f"stages.sft.{one}" for one in overrides])
    assert "\n" not in str(caught.value)


def test_without_peft_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="needs peft: pip install peft"):
        adapters.add(make(), Lora())
