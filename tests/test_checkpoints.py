"""Models and their parts on disk: round trips, other people's checkpoints, GGUF, vocabularies, PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import EACH, IMAGE, PICTURE, TILE, VISION, VOCAB, make, settings, text, tiles
from torch.nn import functional as F  # noqa: N812
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
)

from mm15.errors import UserError
from mm15.model import MM15Config, MM15ForConditionalGeneration, build

FAMILIES = [
    ("siglip", "llama", {"vision_shape": {"stem": [8, 16]}}),
    ("clip", "qwen2", {"decoder_shape": {"tie_word_embeddings": True}}),
    ("dinov2", "qwen3", {}),
    ("siglip", "mistral", {}),
    ("clip", "qwen3_moe", {"decoder_shape": {"tie_word_embeddings": True}}),
]
OPTIONS: dict[str, Any] = {"tile": TILE, "image_token_id": IMAGE, "vocab_size": VOCAB}


def example() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([text(3) + PICTURE + text(5, 1) + PICTURE + text(4, 2)]), tiles(2)


# --------------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize(("vision", "decoder", "changes"), FAMILIES)
def test_save_and_load(tmp_path: Path, vision: str, decoder: str, changes: dict[str, Any]) -> None:
    """Weights, rotary buffers and configuration come back exactly, so logits do; nothing missing, nothing left over."""
    model = make(vision, decoder, **changes)
    model.set_tile(48)
    ids, _ = example()
    pixels = tiles(2, side=48)
    model.save_pretrained(tmp_path)
    loaded, report = MM15ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert MM15Config.from_pretrained(tmp_path).to_dict() == model.config.to_dict()
    assert not loaded.training
    wanted = dict(model.state_dict())
    assert loaded.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.state_dict().items())
    buffers = dict(model.named_buffers())
    assert buffers and all(torch.equal(value, buffers[name]) for name, value in loaded.named_buffers())
    loaded.set_attn_implementation("packed_sdpa")
    torch.testing.assert_close(loaded(ids, pixels).logits, model(ids, pixels).logits, rtol=0, atol=1e-5)
    tied = loaded.decoder.lm_head.weight is loaded.get_input_embeddings().weight
    assert tied == changes.get("decoder_shape", {}).get("tie_word_embeddings", False)


def test_loading_in_bf16_and_through_the_auto_classes(tmp_path: Path) -> None:
    """dtype applies to every parameter, not to the rotary buffers; `import mm15` registers the classes."""
    make().save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is MM15Config
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert type(model) is MM15ForConditionalGeneration
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.decoder.model.rotary_emb.inv_freq.dtype == torch.float32
    ids, pixels = example()
    wanted = make()(ids, pixels).logits
    assert ((model(ids, pixels).logits.float() - wanted).norm() / wanted.norm()) < 0.05
    assert model.generation_config.suppress_tokens == [IMAGE]


def test_config() -> None:
    """Sub-configurations are typed, dicts are taken, the text configuration is found, mistakes are named."""
    config = make("clip", "qwen2").config
    again = MM15Config(**json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()
    assert again.get_text_config().model_type == "qwen2"
    assert again.vision_config.model_type == "clip_vision_model"
    assert (again.tokens_per_tile, again.tile, again.grid) == (EACH, TILE, 4)
    with pytest.raises(ValueError, match="143 is not a square"):
        MM15Config(tokens_per_tile=143)
    with pytest.raises(ValueError, match="tile=4 is smaller"):
        MM15Config(tile=4)
    with pytest.raises(ValueError, match="cannot be halved 4 times"):
        make(vision_shape={"stem": [8, 8, 8, 8]})


def test_building_in_bf16_keeps_the_rotary_buffers() -> None:
    """Parameters are rounded, frequencies are not."""
    model, wanted = make(options={"dtype": torch.bfloat16}), make()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.decoder.model.rotary_emb.inv_freq, wanted.decoder.model.rotary_emb.inv_freq)
    assert torch.equal(model.connector.pos_emb, wanted.connector.pos_emb.bfloat16())


def test_building_is_deterministic() -> None:
    """The same seed, the same weights; another seed, other weights."""
    one, same, other = make(seed=1), make(seed=1), make(seed=2)
    pairs = list(zip(one.parameters(), same.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.connector.s1.b1.conv1.conv.weight, other.connector.s1.b1.conv1.conv.weight)


def test_fresh_parts_start_sensibly() -> None:
    """Visual tokens start at the size of token embeddings (within a factor of ten); no weight is left at zero."""
    model = make(vision_shape={"stem": [8, 16]}, decoder_shape={"initializer_range": 0.02})
    ratio = model.get_image_features(tiles(4)).std() / model.get_input_embeddings().weight.std()
    assert 0.1 < ratio < 10
    weights = [p for name, p in model.named_parameters() if name.endswith(("weight", "pos_emb"))]
    assert all(p.detach().abs().sum() > 0 for p in weights)
    stem = model.vision.tower.embeddings.patch_embedding
    x = torch.randn(4, 3, TILE, TILE)
    assert 0.3 < stem(x).std() < 3
    assert stem(x).shape == (4, 32, 4, 4)


# --------------------------------------------------------------------------------------------- other people's weights


def checkpoint(family: str, folder: Path) -> tuple[Path, torch.nn.Module]:
    """A tiny checkpoint of tiles of 48 pixels as transformers writes it, and its own vision tower."""
    torch.manual_seed(3)
    shape = {**VISION, "image_size": 48}
    other = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    words = {"vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    whole: Any
    if family == "dinov2":
        whole = tower = Dinov2Model(Dinov2Config(**{**shape, "mlp_ratio": 2}))
    else:
        model, config = (CLIPModel, CLIPConfig) if family == "clip" else (SiglipModel, SiglipConfig)
        whole = model(config(vision_config=shape, text_config={**other, **words}))
        tower = whole.vision_model
    whole.save_pretrained(folder / "whole")
    tower.save_pretrained(folder / "tower")
    return folder, tower.eval()


def start(
    vision: dict[str, Any], decoder: dict[str, Any] | None = None, **options: Any
) -> MM15ForConditionalGeneration:
    """A model with the given vision and decoder blocks of a recipe."""
    block = settings()
    changed = {**block.model_dump(), "vision": vision, **({"decoder": decoder} if decoder else {})}
    torch.manual_seed(0)
    return build(type(block).model_validate(changed), **{**OPTIONS, **options}).eval()


@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2"])
@pytest.mark.parametrize("part", ["whole", "tower"])
def test_vision_weights(tmp_path: Path, family: str, part: str) -> None:
    """Features are the checkpoint's last hidden state without the class token, from the whole or the tower alone."""
    folder, tower = checkpoint(family, tmp_path)
    model = start({"family": family, "weights": str(folder / part)}, tile=48)
    pixels = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        wanted = tower(pixels).last_hidden_state[:, 0 if family == "siglip" else 1 :]
        torch.testing.assert_close(model.vision(pixels), wanted, rtol=0, atol=1e-5)
    assert wanted.shape == (2, 36, 32)


def test_vision_weights_at_another_tile_size(tmp_path: Path) -> None:
    """Loading for other tiles equals the tower with its positions interpolated by hand, class token apart."""
    folder, tower = checkpoint("clip", tmp_path)
    model = start({"family": "clip", "weights": str(folder / "tower")}, tile=64)
    learned = tower.embeddings.position_embedding.weight.detach()
    square = learned[1:].T.reshape(1, 32, 6, 6)
    finer = F.interpolate(square, size=(8, 8), mode="bicubic", antialias=True)[0].flatten(1).T
    assert torch.equal(model.vision.tower.embeddings.position_embedding.weight[0], learned[0])
    torch.testing.assert_close(model.vision.tower.embeddings.position_embedding.weight[1:], finer)
    assert model.get_image_features(tiles(1, side=64)).shape == (1, EACH, 32)


def test_the_checkpoints_own_pixel_statistics(tmp_path: Path) -> None:
    """preprocessor_config.json beside the weights wins over the family's."""
    folder, _ = checkpoint("clip", tmp_path)
    (folder / "tower" / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3]}))
    config = start({"family": "clip", "weights": str(folder / "tower")}, tile=48).config
    assert config.image_mean == [0.1, 0.2, 0.3]
    assert config.image_std[0] == pytest.approx(0.2686, abs=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_decoder_weights_and_a_larger_vocabulary(tmp_path: Path, tied: bool) -> None:
    """Text-only logits equal the checkpoint's on the old vocabulary; new rows are drawn around the mean of the old."""
    decoder = make("siglip", "qwen2", decoder_shape={"tie_word_embeddings": tied}).decoder
    decoder.save_pretrained(tmp_path)
    model = start({"family": "siglip", "shape": VISION}, {"family": "qwen2", "weights": str(tmp_path)}, vocab_size=90)
    ids = torch.tensor([text(12)])
    torch.testing.assert_close(model(ids).logits[..., :VOCAB], decoder(ids).logits, rtol=0, atol=1e-5)
    table = model.get_input_embeddings().weight
    assert table.shape == (90, 32)
    assert model.config.text_config.vocab_size == 90
    assert (model.decoder.lm_head.weight is table) == tied
    assert model.decoder.lm_head.weight.shape == (90, 32)
    old, new = decoder.get_input_embeddings().weight, table[VOCAB:]
    assert (new.mean(0) - old.mean(0)).abs().max() < old.std()
    assert 0 < new.std() < 2 * old.std()
    model.save_pretrained(tmp_path / "saved")
    again = MM15ForConditionalGeneration.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=1e-5)


def test_a_vocabulary_never_shrinks(tmp_path: Path) -> None:
    """Checkpoints whose tables are padded beyond their tokenizer stay as they are."""
    make().decoder.save_pretrained(tmp_path)
    model = start({"family": "siglip", "shape": VISION}, {"family": "llama", "weights": str(tmp_path)}, vocab_size=50)
    assert model.get_input_embeddings().num_embeddings == VOCAB


def write_gguf(decoder: torch.nn.Module, path: Path) -> None:
    """A Llama as llama.cpp stores it: its own names, rows of query and key in the order of its rotary embedding."""
    import gguf

    config = decoder.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in decoder.state_dict().items():
        array = tensor.float()
        for kind, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if kind in name:
                array = array.reshape(heads, 2, -1, array.shape[-1]).transpose(1, 2).reshape(array.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_decoder_from_a_gguf_folder(tmp_path: Path) -> None:
    """A folder with one .gguf file gives the decoder it was written from, unpacked, and it can be saved."""
    decoder = make().decoder
    write_gguf(decoder, tmp_path / "tiny.gguf")
    block = {"family": "llama", "weights": str(tmp_path)}
    model = start({"family": "siglip", "shape": VISION}, block)
    ids = torch.tensor([text(12)])
    torch.testing.assert_close(model(ids).logits, decoder(ids).logits, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())["text_config"]
    again = MM15ForConditionalGeneration.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    (tmp_path / "other.gguf").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds 2 \.gguf files"):
        start({"family": "siglip", "shape": VISION}, block)


# ------------------------------------------------------------------------------------------------------------ mistakes


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    """Unknown families, the wrong family, folders that hold nothing or a broken file, shapes beside weights."""
    fine = {"family": "siglip", "shape": VISION}
    folder, _ = checkpoint("clip", tmp_path)
    make().decoder.save_pretrained(tmp_path / "llama")
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    make().decoder.save_pretrained(broken)
    (broken / "model.safetensors").write_bytes(b"\x00" * 100)
    short = tmp_path / "short"
    make(decoder_shape={"num_hidden_layers": 1}).decoder.save_pretrained(short)
    longer = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**longer, "num_hidden_layers": 2}))
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"family": "vgg"}, {"family": "llama"}, "'vgg'; known encoders: clip, siglip, dinov2"),
        (fine, {"family": "gpt2"}, "'gpt2'; known decoders: llama"),
        ({"family": "siglip", "weights": str(folder / "whole")}, {"family": "llama"}, "clip_vision_model.*'siglip'"),
        (fine, {"family": "qwen2", "weights": str(tmp_path / "llama")}, "decoder is 'llama'.*'qwen2'"),
        (fine, {"family": "llama", "weights": str(tmp_path / "empty")}, "empty: cannot be read"),
        ({"family": "clip", "weights": str(tmp_path / "empty")}, {"family": "llama"}, "empty: cannot be read"),
        (fine, {"family": "llama", "weights": str(broken)}, "broken: cannot be read"),
        (fine, {"family": "llama", "weights": str(short)}, r"short: \d+ weights are missing.*layers\.1\."),
        (
            fine,
            {"family": "llama", "weights": str(short), "shape": {"hidden_size": 3}},
            "hidden_size is 32, model.decoder.shape.hidden_size says 3",
        ),
    ]
    for vision, decoder, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            start(vision, decoder)
        assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------------------------------------- ecosystem


def test_peft_lora_step() -> None:
    """LoRA on the decoder's attention: one step changes the adapters and nothing else."""
    import peft

    model = make()
    ids, pixels = example()
    before = {name: p.clone() for name, p in model.named_parameters()}
    config = peft.LoraConfig(r=4, target_modules=r"decoder.*\.(q|v)_proj", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config).train()
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    first = adapted(input_ids=ids, pixel_values=pixels, labels=ids).loss
    first.backward()
    optimizer.step()
    assert adapted(input_ids=ids, pixel_values=pixels, labels=ids).loss < first
    base = {n.replace("base_layer.", ""): p for n, p in model.named_parameters() if "lora_" not in n}
    assert all(torch.equal(base[name], value) for name, value in before.items())
    out = adapted.eval().generate(input_ids=ids, pixel_values=pixels, max_new_tokens=3, do_sample=False)
    assert out.shape[1] > ids.shape[1]


def test_the_decoder_is_a_plain_transformers_model(tmp_path: Path) -> None:
    """Saved by itself it loads as a causal language model with the same logits."""
    model = make()
    model.decoder.save_pretrained(tmp_path)
    ids = torch.tensor([text(9)])
    alone = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(alone(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
