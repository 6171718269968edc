"""Fast greedy replies of one conversation on a CPU: the decoder runs in onnxruntime, its cache is kept over turns.

    fast = FastDecoder(model, weights=Weights.INT8)
    Conversation(model, processor, fast=fast)           the same conversation, its replies from `fast`

    prompt --model's own splice--> embeddings [T, D] --what the cache does not hold yet--> decoder --> token, token, ...

A transformers step costs 30 ms of Python for 135M parameters on two cores; the graph has a few hundred fused nodes and
takes 6 (bench/decode.py, docs/measurements.md). A prompt that begins as the former one did (the next turn of a
conversation) computes only what follows, provided that its first pictures are the same, pixel for pixel. Where the
text repeats itself, tokens are drafted (`lookup`), read at once, and kept as far as they are what the decoder writes.

Guarantees. fp32: the tokens of `generate` in fp32, up to ties within rounding. int8: perplexity within 1 % of fp32
(SmolLM2-135M, tests). Cost: a second copy of the decoder's matrices (`fast_graph`), and 8 * layers * K * E bytes of
cache a position. A model in bf16 reads long prompts itself before int8 takes over: torch's bf16 product is the faster.
Legend: T tokens, D width, K key heads, E head width, C capacity of the cache.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .fast_graph import Weights, make_session
from .lookup import Lookup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..text.render import Encoded

LONG = 64
"""Tokens of a fresh prompt from which on a bf16 model reads it."""
STEP = 512
"""The cache grows by multiples of this."""


class FastDecoder:
    """Greedy continuation of one prompt at a time. `model` is an MM15 model on the CPU, in eval mode; at most `draft`
    tokens are drafted at once (0: one token after the other).

    The weights are copied: a change of the model's weights afterwards is not seen. Threads are torch's
    (`torch.get_num_threads`, OMP_NUM_THREADS). Raises UserError for decoders that have no fast form (mixture-of-experts
    among them), for a model on another device, and when onnxruntime is missing.
    """

    def __init__(self, model: PreTrainedModel, *, weights: Weights = Weights.FP32, draft: int = 16) -> None:
        if model.device.type != "cpu":
            raise UserError(f"fast generation runs on the CPU, the model is on {model.device}; leave `weights` out")
        self.model: Any = model
        self.decoder: Any = model.decoder
        self.weights, self.draft = weights, draft
        self._never: list[int] = list(model.generation_config.suppress_tokens or [])
        self._session = make_session(self.decoder, weights, never=self._never, threads=torch.get_num_threads())
        table: Any = model.get_input_embeddings()
        self._embeddings: Tensor = table.weight.detach()
        self._last, self._total = np.zeros(1, np.int32), np.zeros((), np.int32)
        self._steps: dict[int, _Bound] = {}
        self._cache: dict[str, np.ndarray] = {}
        self.capacity = 0
        self.forget()

    def forget(self) -> None:
        """Starts afresh: the next prompt is read whole."""
        self._ids: list[int] = []
        self._tiles = np.zeros((0, 0), np.uint8)

    @property
    def seen(self) -> int:
        """Tokens whose keys and values are kept."""
        return len(self._ids)

    def reply(self, prompt: Encoded, *, max_new_tokens: int, stops: Collection[int]) -> list[int]:
        """Up to `max_new_tokens` tokens after the prompt, up to the first of `stops`. The caller checks the room."""
        written: list[int] = []
        if max_new_tokens < 1:
            return written
        for token in self.tokens(prompt, most=max_new_tokens):
            if token in stops:
                break
            written.append(token)
        return written

    def tokens(self, prompt: Encoded, *, most: int) -> Iterator[int]:
        """Greedy tokens after the prompt, `most` of them, whatever they are; the model's `suppress_tokens` never."""
        ids = [int(i) for i in prompt.input_ids]
        kept = self._shared(ids, prompt.tiles)
        self._reserve(len(ids) + most)
        embeds = self._embed(prompt, kept)
        self.forget()  # an interrupted reading leaves no false memory
        token = self._read(embeds, kept)
        self._ids, self._tiles = ids, prompt.tiles
        lookup = Lookup([*ids, token], most=self.draft)
        yield token
        left = most - 1
        while left > 0:
            drafted = lookup.draft(left - 1)
            following = self._step([token, *drafted])
            lookup.learn(len(drafted), len(following) - 1)
            lookup.extend(following)
            token, left = following[-1], left - len(following)
            yield from following

    def logits(self, prompt: Encoded) -> Tensor:
        """What the graph says after every position of a prompt, fp32 [T, V]; to measure how good the weights are."""
        length = len(prompt)
        self.forget()
        self._reserve(length)
        found_1TV = np.empty((1, length, len(self.decoder.lm_head.weight)), np.float32)
        binding = self._bind(self._embed(prompt, 0).float().contiguous().numpy(), np.arange(length), logits=found_1TV)
        self._run(binding, length)
        return torch.from_numpy(found_1TV)[0]

    # ------------------------------------------------------------------------------------------------------- prompts

    def _shared(self, ids: list[int], tiles: np.ndarray) -> int:
        """How many of the first tokens are in the cache already; always fewer than there are, and no tile in half."""
        shortest = min(len(ids) - 1, len(self._ids))
        kept = next((i for i in range(shortest) if ids[i] != self._ids[i]), shortest)
        each, image = self.model.config.tokens_per_tile, self.model.config.image_token_id
        places = [i for i, token in enumerate(ids) if token == image]
        for tile, start in enumerate(places[::each]):
            whole = start + each <= kept and tile < len(self._tiles)
            if start < kept and not (whole and np.array_equal(tiles[tile], self._tiles[tile])):
                return start
        return kept

    @torch.inference_mode()
    def _embed(self, prompt: Encoded, kept: int) -> Tensor:
        """Embeddings [1, T - kept, D] of what follows the first `kept` tokens, visual tokens in their places."""
        rest = torch.as_tensor(prompt.input_ids[kept:], dtype=torch.int64)[None]
        gone = int((prompt.input_ids[:kept] == self.model.config.image_token_id).sum())
        tiles = torch.from_numpy(prompt.tiles[gone // self.model.config.tokens_per_tile :])
        return self.model._embed(rest, tiles if len(tiles) else None, None, decoding=False)

    def _read(self, embeds_1TD: Tensor, kept: int) -> int:
        """Keys and values of the embeddings into the cache after position `kept`; the token that comes next."""
        length = embeds_1TD.shape[1]
        if kept == 0 and length >= LONG and self.weights is Weights.INT8 and embeds_1TD.dtype == torch.bfloat16:
            return self._read_by_model(embeds_1TD)
        x_1TD, newest = embeds_1TD.float().contiguous().numpy(), np.array([-1])
        read = self._bind(x_1TD, newest, token=np.zeros((1, 1), np.int64))
        self._run(read, kept + length)
        return int(read.outputs["token"][0, 0])

    @torch.inference_mode()
    def _read_by_model(self, embeds_1TD: Tensor) -> int:
        from transformers import DynamicCache

        read = self.decoder.model(inputs_embeds=embeds_1TD, past_key_values=DynamicCache(), use_cache=True)
        for i, layer in enumerate(read.past_key_values.layers):
            for part, found in (("key", layer.keys), ("value", layer.values)):
                torch.from_numpy(self._cache[f"{part}_{i}"])[:, :, : embeds_1TD.shape[1]] = found
        logits_V = self.decoder.lm_head(read.last_hidden_state[0, -1])
        logits_V[self._never] = -torch.inf
        return int(logits_V.argmax())

    # --------------------------------------------------------------------------------------------------------- steps

    def _step(self, tokens: list[int]) -> list[int]:
        """Reads the newest token and those drafted after it; what comes next, one more than the draft has right."""
        count = len(tokens)
        if count not in self._steps:
            x_1TD = np.zeros((1, count, self._embeddings.shape[1]), np.float32)
            self._steps[count] = self._bind(x_1TD, np.arange(count), token=np.zeros((1, count), np.int64))
        step = self._steps[count]
        step.inputs["x"][0] = self._embeddings[tokens].float().numpy()
        self._run(step, len(self._ids) + count)
        following = step.outputs["token"][0].tolist()
        right = next((i for i in range(count - 1) if tokens[i + 1] != following[i]), count - 1)
        self._ids += tokens[: right + 1]
        return following[: right + 1]

    def _run(self, bound: _Bound, total: int) -> None:
        """One call of the graph after which the cache holds `total` tokens."""
        self._last[0], self._total[()] = total - 1, total
        self._session.run_with_iobinding(bound.binding)

    def _bind(self, x_1TD: np.ndarray, wanted_R: np.ndarray, **found: np.ndarray) -> _Bound:
        """Where the graph finds its inputs and leaves what is `found`; it writes the cache where it reads it."""
        state = {"last": self._last, "total": self._total, "cos": self._cos, "sin": self._sin, **self._cache}
        inputs = {"x": x_1TD, "wanted": wanted_R, **state}
        outputs = {**found, **{f"{name}_out": array for name, array in self._cache.items()}}
        binding = self._session.io_binding()
        for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return _Bound(binding, inputs, outputs)

    def _reserve(self, positions: int) -> None:
        """A cache of at least so many positions; what it holds stays."""
        if positions <= self.capacity:
            return
        config, before, held = self.decoder.config, self._cache, len(self._ids)
        self.capacity = -(-positions // STEP) * STEP
        rotary = self.decoder.model.rotary_emb
        cos, sin = rotary(torch.zeros(1), torch.arange(self.capacity)[None])
        half = cos.shape[-1] // 2
        self._cos, self._sin = (part[0, :, :half].contiguous().numpy() for part in (cos, sin))
        shape = (1, config.num_key_value_heads, self.capacity, 2 * half)
        self._cache = {}
        for name in (f"{part}_{i}" for i in range(config.num_hidden_layers) for part in ("key", "value")):
            self._cache[name] = np.zeros(shape, np.float32)
            if before:
                self._cache[name][:, :, :held] = before[name][:, :, :held]
        self._steps.clear()  # bound to the former cache


@dataclass(frozen=True)
class _Bound:
    """Addresses for the graph, and the arrays behind them, which must live as long."""

    binding: Any
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
