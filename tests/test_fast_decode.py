"""The fast decoder against transformers' `generate` and forward: same tokens in fp32, close enough in int8."""

from __future__ import annotations

import inspect
import math
import os
import pydoc
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import tiny_model
import torch
from PIL import Image as PILImage
from scripted import processor

import mm15.generate.fast
from mm15.errors import UserError
from mm15.generate import Conversation, FastDecoder, Weights, continue_prompts
from mm15.generate.fast import decoder as fast
from mm15.generate.fast import job, kernels
from mm15.generate.fast.weights import (
    BLOCK,
    PANEL,
    error,
    pack,
    quantise,
    quantise_to_4_bits,
    words,
)
from mm15.model import MM15ForConditionalGeneration
from mm15.pretrained import resolve
from mm15.processor import MM15Processor
from mm15.sample import Image, Sample, user
from mm15.text.render import Encoded

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
IDS = tiny_model.text(5) + tiny_model.PICTURE * 2 + tiny_model.text(6, 1)


def make(family: str = "llama", **shape: Any) -> MM15ForConditionalGeneration:
    """A tiny model whose heads are wide enough, and whose biases and norms are not what they start as."""
    options = shape.pop("options", {})
    model = tiny_model.make(decoder=family, decoder_shape={"head_dim": 16, **shape}, options=options)
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            if "bias" in name or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def encoded(ids: list[int], tiles: torch.Tensor | None = None) -> Encoded:
    pixels = tiny_model.tiles(0) if tiles is None else tiles
    return Encoded(np.array(ids), np.full(len(ids), -100), pixels.numpy(), np.zeros(0, np.int64))


def by_generate(
    model: MM15ForConditionalGeneration, ids: list[int], tiles: torch.Tensor | None, most: int
) -> list[int]:
    given = torch.tensor([ids])
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": most}
    out = model.generate(given, pixel_values=tiles, attention_mask=torch.ones_like(given), **options)
    return out[0, len(ids) :].tolist()


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"rope_parameters": LLAMA3_ROPE, "num_key_value_heads": 1}),
        ("llama", {"hidden_size": 40, "intermediate_size": 72}),
        ("mistral", {"sliding_window": 5}),
        ("qwen2", {}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
        ("qwen3", {}),
    ],
    ids=str,
)
def test_fp32_writes_what_generate_writes(family: str, shape: dict[str, Any]) -> None:
    model, tiles = make(family, **shape), tiny_model.tiles(2)
    expected = by_generate(model, IDS, tiles, 24)
    assert len(set(expected)) > 6, "a model that repeats itself proves little"
    assert list(FastDecoder(model).tokens(encoded(IDS, tiles), most=24)) == expected


def rounded(x: torch.Tensor) -> torch.Tensor:
    """By hand: int8 in blocks of 32 along the last axis, a half as scale for each, and back."""
    blocks = torch.nn.functional.pad(x, (0, -x.shape[-1] % 32)).unflatten(-1, (-1, 32))
    exact = blocks.abs().amax(-1, keepdim=True) / 127
    half = exact.half()
    scale = torch.where(half < exact, torch.nextafter(half, torch.tensor(torch.inf).half()), half).float()
    back = (blocks / scale.clamp(min=1e-30)).round() * scale
    return back.flatten(-2)[..., : x.shape[-1]]


@pytest.mark.parametrize("weights", Weights)
def test_logits_are_those_of_the_decoder(weights: Weights) -> None:
    """For int8: of a decoder whose weights are rounded by hand, which differs clearly."""
    model = make(hidden_size=128, intermediate_size=200)
    ids = tiny_model.text(40)
    found = FastDecoder(model, weights=weights).logits(encoded(ids))
    barred = found == -math.inf
    assert barred[:, tiny_model.IMAGE].all() and int(barred.sum()) == len(ids)
    with torch.inference_mode():
        exact = model.decoder(torch.tensor([ids])).logits[0]
        for layer in (m for m in model.decoder.modules() if isinstance(m, torch.nn.Linear)):
            layer.weight.copy_(rounded(layer.weight))
        by_hand = model.decoder(torch.tensor([ids])).logits[0]
    if weights is Weights.FP32:
        assert (found - exact)[~barred].abs().max() < 1e-4
        return
    near, far = ((found - logits)[~barred].std() for logits in (by_hand, exact))
    assert far > 0.05 and near < 0.05 * far  # what is left: keys and values in halves, inputs in int16


@pytest.mark.parametrize("length", [fast.LONG - 1, fast.LONG], ids=["read by the kernels", "read by the model"])
def test_values_that_no_half_can_hold_count_as_the_largest(length: int) -> None:
    model, ids = make(), tiny_model.text(length)
    with torch.no_grad():
        for layer in model.decoder.model.layers:
            layer.self_attn.v_proj.weight.mul_(5e4)
            layer.self_attn.o_proj.weight.mul_(1e-3)
    decoder = FastDecoder(model, weights=Weights.INT8)
    next(decoder.tokens(encoded(ids), most=2))
    held = np.abs(decoder._values.view(np.float16)[:, :, :length])
    assert held.max() == np.finfo(np.float16).max
    following = decoder._run(decoder._embeddings[9:10].float().numpy(), length, wanted=1)
    assert not np.isnan(following).any()


def test_int8_moves_a_weight_by_half_a_step_of_its_block() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 3 * BLOCK)).astype(np.float32)
    weight[1] = weight[2, 70:] = 0
    weight[3] *= 1e-6  # beyond what halves resolve well: rounded more coarsely, but never clipped
    codes, scales = quantise(weight)
    assert codes.dtype == np.int8 and codes.shape == weight.shape and scales.shape == (5, 3)
    far = np.abs(codes * np.repeat(scales.astype(np.float32), BLOCK, axis=1) - weight)
    largest = np.repeat(np.abs(weight.reshape(5, 3, BLOCK)).max(-1), BLOCK, axis=1)
    usual = np.arange(5) != 3
    assert (far[usual] <= largest[usual] * 1.001 / 254).all() and far.max() > largest.max() / 300
    assert (far[weight == 0] == 0).all() and (far[3] < 3.1e-8).all()


def four_bits(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Weights as a GGUF of type Q4_1 holds them, in bf16."""
    chance = np.random.default_rng(seed)
    shape = (rows, columns // BLOCK, BLOCK)
    codes = chance.integers(0, 16, shape)
    codes[..., 0], codes[..., 1] = 0, 15  # its least and largest weight span a block
    scale, middle = chance.uniform(0.01, 0.02, (*shape[:2], 1)), chance.uniform(6, 9, (*shape[:2], 1))
    weight = (codes - middle) * scale
    return torch.tensor(weight.reshape(rows, columns)).bfloat16().float().numpy()


def linear(weight: np.ndarray) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = torch.from_numpy(weight)
    return layer


def test_four_bits_stand_in_for_int8_only_where_they_move_weights_less() -> None:
    weight = four_bits(6, 3 * BLOCK)
    codes, scales, lows = quantise_to_4_bits(weight)
    assert codes.min() == 0 and codes.max() == 15
    back = codes * np.repeat(scales.astype(float), BLOCK, axis=1) + np.repeat(lows.astype(float), BLOCK, axis=1)
    assert np.abs(back - weight).max() < 1e-3
    assert error(weight, codes, scales, lows) == pytest.approx(np.square(back - weight).mean(), rel=1e-3)
    assert error(weight, codes, scales, lows) < 0.5 * error(weight, *quantise(weight))
    other = weight + np.random.default_rng(1).normal(size=weight.shape).astype(np.float32) * 1e-3
    assert error(other, *quantise_to_4_bits(other)) > error(other, *quantise(other)) > 0
    for trained, kind in ((weight, np.uint32), (other, np.int32)):
        assert pack([[linear(weight)], [linear(trained)]], Weights.INT8).codes.dtype == kind
    assert pack([[linear(weight)]], Weights.FP32).codes.dtype == np.float32


def test_words_hold_neighbours_in_their_two_halves() -> None:
    codes = np.array([[1, -2, 3, -4, 5, 6, 7, 8]], np.int8)
    assert [hex(word) for word in words(codes, bits=8).view(np.uint32)[0]] == ["0xfcfe0301", "0x8060705"]
    assert [hex(word) for word in words(np.arange(1, 9, dtype=np.uint8)[None], bits=4)[0]] == ["0x86427531"]


def held(weight: np.ndarray, kind: str) -> np.ndarray:
    """The weights that are multiplied, columns filled up to whole blocks, written out."""
    whole = np.pad(weight, ((0, 0), (0, -weight.shape[1] % BLOCK)))
    if kind == "fp32":
        return whole.astype(float)
    codes, *places = quantise(whole) if kind == "int8" else quantise_to_4_bits(whole)
    scales, *lows = (np.repeat(x.astype(float), BLOCK, axis=1) for x in places)
    return codes * scales + sum(lows)


@pytest.mark.parametrize(
    ("kind", "rows", "columns"),
    [
        (kind, rows, columns)
        for kind in ("fp32", "int8", "4 bits")
        for rows, columns in ((1, 1), (64, 32), (70, 33), (200, 100))
        if (kind, columns) != ("int8", 1)  # one weight is 4 bits wide whatever it is
    ],
)
def test_a_product_is_the_sum_written_out(kind: str, rows: int, columns: int) -> None:
    """Of one to nine tokens, the second of two layers, with a bias, whatever the sizes."""
    layers = [torch.nn.Linear(columns, rows) for _ in range(2)]
    if kind == "4 bits":
        layers = [linear(four_bits(rows, -(-columns // BLOCK) * BLOCK, seed)) for seed in range(2)]
    matrix = pack([[layer] for layer in layers], Weights.FP32 if kind == "fp32" else Weights.INT8)
    assert matrix.codes.dtype == {"fp32": np.float32, "int8": np.int32, "4 bits": np.uint32}[kind]
    weight, bias = held(layers[1].weight.detach().numpy(), kind), layers[1].bias.detach().numpy()
    for tokens in range(1, 10):
        x = job.make_input(tokens, matrix)
        x.exact[:, :columns] = np.random.default_rng(tokens).normal(size=(tokens, columns))
        kernels._round(x)
        out = np.empty((tokens, matrix.bias.shape[1]), np.float32)
        shared = np.zeros(job.SHARED, np.int64)
        kernels._products(shared, kernels._open(shared, 7), matrix, 1, x, 0, out)
        wide = np.repeat(x.scales, BLOCK, axis=1).astype(float)
        used = x.exact.astype(float) if kind == "fp32" else x.rounded * wide
        np.testing.assert_allclose(out[:, :rows], used @ weight.T + bias, atol=2e-5)
        assert (out[:, rows:] == 0).all()
        assert (np.abs(x.rounded * wide - x.exact) <= wide * 0.502).all() and np.abs(x.rounded).max() == 32767
        np.testing.assert_allclose(x.sums, (x.rounded * wide).reshape(tokens, -1, BLOCK).sum(-1), atol=1e-5)


def test_exp_is_exp() -> None:
    from numba import njit

    from mm15.generate.fast.vectors import exp

    @njit
    def all_of(x: np.ndarray) -> None:
        for i in range(len(x)):
            x[i] = exp(x[i])

    given = np.linspace(-87, 88, 200_001).astype(np.float32)
    found = given.copy()
    all_of(found)
    exact = np.exp(given.astype(np.float64))
    near = np.abs(given) < 16
    assert np.abs(found / exact - 1)[near].max() < 1e-6 and np.abs(found / exact - 1).max() < 5e-6
    beyond = np.array([-1e30, -np.inf, 1e30], np.float32)
    all_of(beyond)
    assert (beyond[:2] < 1e-37).all() and 1e38 < beyond[2] < np.inf


def test_what_was_compiled_from_other_sources_is_not_used(tmp_path: Path) -> None:
    """A function of the kernels, after one that it uses, in another file, has changed: as an update of mm15 would."""
    shutil.copytree(Path(mm15.__file__).parent, tmp_path / "mm15", ignore=shutil.ignore_patterns("__pycache__"))
    ask = (
        "import numpy, mm15.generate.fast.kernels as k; "
        "x = numpy.arange(4.0, dtype='f4'); k._softmax(x, 0, 4); print(x[0])"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "compiled")}

    def first() -> float:
        command = [sys.executable, "-c", ask]
        return float(subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True).stdout)

    assert first() == pytest.approx(1 / (1 + math.e + math.e**2 + math.e**3), rel=1e-5)
    vectors = tmp_path / "mm15" / "generate" / "fast" / "vectors.py"
    vectors.write_text(vectors.read_text() + "\n\n@compiled\ndef exp(x):\n    return np.float32(1)\n")
    assert first() == 0.25


@pytest.mark.parametrize("weights", Weights)
def test_any_number_of_threads_gives_the_same_numbers(weights: Weights) -> None:
    """Bit for bit, in a prompt and in 150 tokens after it; with more threads than cores, some of them late."""
    model = make(hidden_size=128, intermediate_size=200)
    ids, before, late = encoded(tiny_model.text(40)), torch.get_num_threads(), random.Random(0)
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            decoder = FastDecoder(model, weights=weights)

            def helper(work: Any, given: Any, decoder: FastDecoder = decoder) -> Any:
                def started() -> None:
                    time.sleep(late.choice((0, 0, 1e-4, 1e-3)))
                    work(given)

                return decoder._threads.submit(started).result

            decoder._helper = helper  # type: ignore[method-assign]
            written = list(decoder.tokens(ids, most=150))
            found.append((written, decoder._keys.tobytes(), decoder._values.tobytes(), decoder.logits(ids)))
    finally:
        torch.set_num_threads(before)
    assert found[0][:3] == found[1][:3] == found[2][:3]
    assert torch.equal(found[0][3], found[1][3]) and torch.equal(found[0][3], found[2][3])


def test_a_helper_that_comes_too_early_or_too_late_touches_nothing() -> None:
    """Before the first phase it waits, after the last it goes; also where the user interrupts before a job is led."""
    model = make()
    decoder = FastDecoder(model)
    decoder._reserve(8)
    cache = (decoder._keys, decoder._values, decoder._cos, decoder._sin)
    made = job.make_job(np.ones((2, 32), np.float32), 0, 1, decoder._layers, decoder._head, cache)
    made.shared[job.TICKET] = kernels._FINISHED << 32
    kernels._help_out(made)
    assert not made.qkv.any() and not made.logits.any()
    made.shared[:] = 0
    started: list[Any] = []

    def early(work: Any, given: Any) -> Any:
        started.append(decoder._threads.submit(work, given))
        time.sleep(0.05)
        assert not started[0].done() and given.shared[job.DONE] == 0 and not given.qkv.any()
        return started[0].result

    def interrupted(work: Any, given: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kernels.decode(made, [early, interrupted])
    assert started[0].done() and not made.qkv.any() and not made.logits.any()


def test_two_conversations_at_once() -> None:
    """Two decoders of one model, in threads of their own."""
    model = make()
    given = [IDS[:5], tiny_model.text(9, 3)]
    expected = [by_generate(model, ids, None, 40) for ids in given]
    decoders = [FastDecoder(model) for _ in given]
    with ThreadPoolExecutor(2) as pool:
        pairs = zip(decoders, given, strict=True)
        replies = [pool.submit(lambda d, i: list(d.tokens(encoded(i), most=40)), *pair) for pair in pairs]
        assert [reply.result() for reply in replies] == expected


def test_the_cache_grows_and_keeps_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "STEP", PANEL)
    model = make()
    decoder = FastDecoder(model)
    first = list(decoder.tokens(encoded(IDS[:5]), most=3))
    longer = IDS[:5] + first + tiny_model.text(80, 2)
    assert list(decoder.tokens(encoded(longer), most=12)) == by_generate(model, longer, None, 12)
    assert decoder.capacity == 2 * PANEL and decoder.seen == len(longer) + 11


# ------------------------------------------------------------------------------------------------------ conversations


@pytest.fixture(scope="module")
def small() -> MM15Processor:
    return processor()


@pytest.fixture(scope="module")
def model(small: MM15Processor) -> MM15ForConditionalGeneration:
    tokenizer = small.tokenizer
    options = {"vocab_size": len(tokenizer), "image_token_id": small.image_token_id}
    options |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return make(options=options)


def picture(seed: int) -> PILImage.Image:
    return PILImage.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8))


def reading(decoder: FastDecoder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(tokens kept, tokens read) of each prompt that follows."""
    seen: list[tuple[int, int]] = []
    whole = decoder._read

    def watched(embeds: torch.Tensor, kept: int) -> int:
        seen.append((kept, embeds.shape[1]))
        return whole(embeds, kept)

    monkeypatch.setattr(decoder, "_read", watched)
    return seen


def test_turns_equal_those_of_generate_and_cost_what_they_add(
    model: MM15ForConditionalGeneration, small: MM15Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = FastDecoder(model)
    seen = reading(decoder, monkeypatch)
    chat, plain = (Conversation(model, small, max_new_tokens=9, fast=given) for given in (decoder, None))
    turns = [("Where is it?", [picture(0)]), ("And here?", [picture(1)]), ("What color?", [])]
    for text, pictures in turns:
        assert chat.ask(text, images=pictures) == plain.ask(text, images=pictures)
    assert seen[0][0] == 0 and all(kept > 20 for kept, _ in seen[1:])
    assert all(kept >= sum(former) for former, (kept, _) in pairwise(seen)), "no prompt is read twice"


def test_another_picture_is_read_afresh(
    model: MM15ForConditionalGeneration, small: MM15Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words about another second picture: what stands before that picture is kept, nothing after it."""
    decoder = FastDecoder(model)
    seen = reading(decoder, monkeypatch)
    made = [
        small.prompt(Sample("x", "x", user(Image(picture(0)), Image(picture(second)), "Which one is it?")))
        for second in (1, 2, 2)
    ]
    assert made[0].input_ids.tolist() == made[1].input_ids.tolist()
    for prompt in made:
        replies = [continue_prompts(model, small, [prompt], max_new_tokens=8, fast=given) for given in (decoder, None)]
        assert replies[0] == replies[1]
    start = int(np.flatnonzero(made[0].input_ids == small.image_token_id)[tiny_model.EACH])
    assert [kept for kept, _ in seen] == [0, start, len(made[0]) - 1]


def test_replies_end_at_a_stop_token(model: MM15ForConditionalGeneration, small: MM15Processor) -> None:
    prompt = small.prompt(Sample("x", "x", user("Hi")))
    decoder = FastDecoder(model)
    whole = decoder.reply(prompt, max_new_tokens=8, stops=())
    assert len(whole) == 8
    stop = whole[4]
    assert decoder.reply(prompt, max_new_tokens=8, stops=[stop]) == whole[: whole.index(stop)]
    assert decoder.reply(prompt, max_new_tokens=0, stops=[]) == []


def test_a_bf16_model_reads_the_prompt_and_int8_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bf16 is fast; what the model leaves in the cache is what the compiled decoder would have left there."""
    model, ids = make().to(torch.bfloat16), tiny_model.text(fast.LONG)
    with torch.no_grad():  # a rounded model, so that both read the same numbers
        model.decoder.model.rotary_emb.inv_freq = model.decoder.model.rotary_emb.inv_freq.float()
    reads, caches = Mock(wraps=FastDecoder._read_by_model), []
    monkeypatch.setattr(FastDecoder, "_read_by_model", lambda *given: reads(*given))
    for fast_bf16 in (True, False):
        monkeypatch.setattr(fast, "faster_in_bf16", lambda _device, answer=fast_bf16: answer)
        decoder = FastDecoder(model, weights=Weights.INT8)
        next(decoder.tokens(encoded(ids), most=2))
        keys, values = (x.view(np.float16).astype(np.float32) for x in (decoder._keys, decoder._values))
        keys = keys.swapaxes(3, 4).reshape(values.shape)
        caches.append({"keys": keys[:, :, : len(ids)], "values": values[:, :, : len(ids)]})
        assert reads.call_count == 1
        assert not values[:, :, len(ids) :].any() and not keys[:, :, len(ids) :].any()
    for name, by_model in caches[0].items():
        spread = by_model.std()
        assert 0 < np.abs(by_model - caches[1][name]).mean() < 0.05 * spread, name


def test_fp32_of_a_bf16_model_is_not_read_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "faster_in_bf16", lambda _device: True)
    decoder = FastDecoder(make().to(torch.bfloat16))
    monkeypatch.setattr(decoder, "_read_by_model", None)
    next(decoder.tokens(encoded(tiny_model.text(fast.LONG)), most=1))


@pytest.mark.parametrize(("family", "shape"), [("llama", {}), ("mistral", {"sliding_window": 5}), ("qwen3", {})])
def test_an_fp32_model_reads_a_long_prompt(family: str, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A short one, and the rest of a text that the cache holds in part, are read by the compiled decoder."""
    model = make(family, **shape)
    decoder, long = FastDecoder(model), tiny_model.text(fast.LONG + 3)
    reads = Mock(wraps=decoder._read_by_model)
    monkeypatch.setattr(decoder, "_read_by_model", reads)
    for ids, count in ((long, 1), (long + tiny_model.text(fast.LONG, 4), 1), (IDS[:5], 1)):
        assert list(decoder.tokens(encoded(ids), most=6)) == by_generate(model, ids, None, 6)
        assert reads.call_count == count


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("family", "shape", "message"),
    [
        ("qwen3_moe", {}, "'qwen3_moe' .*mixture-of-experts"),
        ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("llama", {"head_dim": 8}, "heads of 8"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "'dynamic' positions",
        ),
    ],
)
def test_decoders_without_a_fast_form_are_named(family: str, shape: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"{message}.*leave `weights` out"):
        FastDecoder(make(family, **shape))


def test_without_numba_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numba", "llvmlite"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("kernels", "vectors"):
        monkeypatch.delitem(sys.modules, f"mm15.generate.fast.{name}", raising=False)
        monkeypatch.delattr(mm15.generate.fast, name, raising=False)
    with pytest.raises(UserError, match=r'pip install "mm15\[fast\]"'):
        FastDecoder(make())


def test_room_is_checked_and_unknown_weights_are_named(
    model: MM15ForConditionalGeneration, small: MM15Processor
) -> None:
    from mm15.cli import _fast

    prompt = small.prompt(Sample("x", "x", user("Hi")))
    with pytest.raises(UserError, match="positions"):
        continue_prompts(model, small, [prompt], max_new_tokens=10**6, fast=FastDecoder(model))
    with pytest.raises(UserError, match="--weights is 'int3'; give one of fp32, int8"):
        _fast(model, "int3")
    assert _fast(model, None) is None


def test_whoever_waits_for_the_compiler_is_told(
    model: MM15ForConditionalGeneration, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mm15 import progress
    from mm15.cli import _fast

    compiled = FastDecoder.compile
    monkeypatch.setattr(FastDecoder, "compile", lambda self: (time.sleep(0.1), compiled(self)))
    for patience, shown in ((0.01, 1), (60, 0)):
        monkeypatch.setattr(progress, "PATIENCE_SECONDS", patience)
        decoder = _fast(model, "fp32")
        assert decoder is not None and decoder.seen == 0 and decoder.capacity > 0
        assert capsys.readouterr().err.count("compiled for this machine once") == shown


# ------------------------------------------------------------------------------------------------------- real weights


def test_int8_keeps_the_perplexity_of_real_weights() -> None:
    """SmolLM2 on Python's own documentation, against transformers in fp32: within 1 %."""
    from transformers import AutoTokenizer

    vision = {**tiny_model.VISION, "num_hidden_layers": 1}
    settings = tiny_model.settings(vision_shape=vision).model_dump()
    settings["decoder"] = {"family": "llama", "weights": "smollm2-135m"}
    built = {"tile": tiny_model.TILE, "image_token_id": 1, "vocab_size": 49152}
    model = tiny_model.build(tiny_model.Model.model_validate(settings), **built).eval()
    ids = AutoTokenizer.from_pretrained(resolve("smollm2-135m"))(inspect.getsource(pydoc)[:12000])["input_ids"][:400]
    windows = [ids[:200], ids[200:]]
    decoder = FastDecoder(model, weights=Weights.INT8)

    def surprise(logits_TV: torch.Tensor, window: list[int]) -> float:
        return float(
            torch.nn.functional.cross_entropy(logits_TV[:-1].float(), torch.tensor(window[1:]), reduction="sum")
        )

    with torch.inference_mode():
        exact = sum(surprise(model.decoder(torch.tensor([w])).logits[0], w) for w in windows)
    by_int8 = sum(surprise(decoder.logits(encoded(w)), w) for w in windows)
    ratio = math.exp((by_int8 - exact) / (len(ids) - len(windows)))
    assert 0.99 < ratio < 1.01 and by_int8 != exact, ratio
