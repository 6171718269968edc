"""Fast greedy replies of one conversation on a CPU: the decoder compiled by numba, its cache kept over turns.

    fast = FastDecoder(model, weights=Weights.INT8)
    Conversation(model, processor, fast=fast)           the same conversation, its replies from `fast`

    prompt --model's own splice--> embeddings [T, D] --what the cache does not hold yet--> decoder --> token, token, ...

A transformers step costs 30 ms of Python for 135M parameters on two cores; compiled (`kernels`) it takes 5
(bench/decode.py, docs/measurements.md). A prompt that begins as the former one did (the next turn of a conversation)
computes only what follows, provided that its first pictures are the same, pixel for pixel. A long fresh prompt is read
by the model itself where torch's products in the model's precision are the faster.

Guarantees. fp32: the tokens of `generate` in fp32, up to ties within rounding. int8: perplexity within 1 % of fp32
(SmolLM2-135M, tests). The number of threads changes no number. Cost: a second copy of the decoder's matrices
(`weights`), and 8 * layers * G * E bytes of cache a position, 4 with int8 weights.
Legend: T tokens, D width, G key heads, E head width, C capacity of the cache, R tokens asked about, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from ...model.precision import faster_in_bf16
from .job import make_job
from .weights import LARGEST_HALF, PANEL, Weights, check_decoder, pack_head, pack_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ...text.render import Encoded

LONG = 64
"""Tokens of a fresh prompt from which on the model reads it."""
AT_ONCE = 64
"""Tokens of a prompt that the compiled decoder reads at one time."""
STEP = 512
"""The cache grows by multiples of this; a multiple of a panel."""


class FastDecoder:
    """Greedy continuation of one prompt at a time. `model` is an MM15 model on the CPU, in eval mode.

    The weights are copied: a change of the model's weights afterwards is not seen. Threads are torch's
    (`torch.get_num_threads`, OMP_NUM_THREADS). Raises UserError for decoders that have no fast form (mixture-of-experts
    among them), for a model on another device, and when numba is missing.
    """

    def __init__(self, model: PreTrainedModel, *, weights: Weights = Weights.FP32) -> None:
        if model.device.type != "cpu":
            raise UserError(f"fast generation runs on the CPU, the model is on {model.device}; leave `weights` out")
        self.model: Any = model
        self.decoder: Any = model.decoder
        self.weights = weights
        check_decoder(self.decoder)
        self._kernels = _compiled()
        self._threads = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="fast-decoder")
        self._never: list[int] = list(model.generation_config.suppress_tokens or [])
        self._layers = pack_layers(self.decoder, weights)
        self._head = pack_head(self.decoder, weights, never=self._never)
        table: Any = model.get_input_embeddings()
        self._embeddings: Tensor = table.weight.detach()
        self.capacity = 0
        self._keys = self._values = np.zeros(0)
        self.forget()

    def compile(self) -> None:
        """Compiles for this machine, some 15 s, or finds what was compiled before. Otherwise the first prompt does."""
        self._reserve(1)
        self._run(np.zeros((1, self._embeddings.shape[1]), np.float32), 0, wanted=1)
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
        yield token
        for _ in range(most - 1):
            token = self._step(token)
            yield token

    def logits(self, prompt: Encoded) -> Tensor:
        """What the compiled decoder says after every position of a prompt, fp32 [T, V]; to measure how good the weights
        are."""
        self.forget()
        self._reserve(len(prompt))
        embeds = self._embed(prompt, 0)[0].float().numpy()
        parts = [self._run(part, i * AT_ONCE, wanted=len(part)) for i, part in enumerate(_parts(embeds))]
        return torch.from_numpy(np.concatenate(parts))

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
        if kept == 0 and embeds_1TD.shape[1] >= LONG and self._model_reads(embeds_1TD.dtype):
            return self._read_by_model(embeds_1TD)
        for i, part in enumerate(_parts(embeds_1TD[0].float().numpy())):
            logits_1V = self._run(part, kept + i * AT_ONCE, wanted=1)
        return int(logits_1V.argmax())

    def _model_reads(self, dtype: torch.dtype) -> bool:
        """Whether torch's products in the model's precision are good enough and faster than the compiled ones."""
        if dtype == torch.float32:
            return True
        return self.weights is Weights.INT8 and dtype == torch.bfloat16 and faster_in_bf16(torch.device("cpu"))

    @torch.inference_mode()
    def _read_by_model(self, embeds_1TD: Tensor) -> int:
        from transformers import DynamicCache

        read = self.decoder.model(inputs_embeds=embeds_1TD, past_key_values=DynamicCache(), use_cache=True)
        for i, layer in enumerate(read.past_key_values.layers):
            length = embeds_1TD.shape[1]
            places = np.arange(length)
            self._keys[i][:, places // PANEL, :, places % PANEL] = self._held(layer.keys[0].transpose(0, 1))
            self._values[i][:, :length] = self._held(layer.values[0])
        logits_V = self.decoder.lm_head(read.last_hidden_state[0, -1])
        logits_V[self._never] = -torch.inf
        return int(logits_V.argmax())

    def _held(self, x: Tensor) -> np.ndarray:
        """As the cache holds numbers: fp32, or halves in uint16 beside small weights."""
        array = x.float().numpy()
        if self.weights is Weights.FP32:
            return array
        return array.clip(-LARGEST_HALF, LARGEST_HALF).astype(np.float16).view(np.uint16)

    # --------------------------------------------------------------------------------------------------------- steps

    def _step(self, token: int) -> int:
        """Reads `token` and says which comes next."""
        x_1D = self._embeddings[token : token + 1].float().numpy()
        following = int(self._run(x_1D, len(self._ids), wanted=1).argmax())
        self._ids.append(token)
        return following

    def _run(self, x_TD: np.ndarray, before: int, *, wanted: int) -> np.ndarray:
        """Reads tokens after `before` that the cache holds; it holds them then, too. Logits [R, V] of the last
        `wanted`."""
        cache = (self._keys, self._values, self._cos, self._sin)
        job = make_job(x_TD, before, wanted, self._layers, self._head, cache)
        self._kernels.decode(job, [self._helper] * (torch.get_num_threads() - 1))
        return job.logits[:, : len(self.decoder.lm_head.weight)]

    def _helper(self, work: Callable[..., None], job: Any) -> Callable[[], None]:
        """Starts work in another thread; how to await its end."""
        return self._threads.submit(work, job).result

    def _reserve(self, positions: int) -> None:
        """A cache of at least so many positions; what it holds stays."""
        if positions <= self.capacity:
            return
        config, held = self.decoder.config, len(self._ids)
        former = (self._keys, self._values) if self.capacity else None
        self.capacity = -(-positions // STEP) * STEP
        cos, sin = self.decoder.model.rotary_emb(torch.zeros(1), torch.arange(self.capacity)[None])
        width = cos.shape[-1]
        self._cos, self._sin = (part[0, :, : width // 2].contiguous().numpy() for part in (cos, sin))
        each = (config.num_hidden_layers, config.num_key_value_heads)
        kind = np.float32 if self.weights is Weights.FP32 else np.uint16
        self._keys = np.zeros((*each, self.capacity // PANEL, width, PANEL), kind)
        self._values = np.zeros((*each, self.capacity, width), kind)
        if former:
            panels = -(-held // PANEL)
            self._keys[:, :, :panels], self._values[:, :, :held] = former[0][:, :, :panels], former[1][:, :, :held]


def _parts(x_TD: np.ndarray) -> list[np.ndarray]:
    return [x_TD[start : start + AT_ONCE] for start in range(0, len(x_TD), AT_ONCE)]


def _compiled() -> Any:
    """The compiled functions; UserError without numba."""
    try:
        from . import kernels
    except ImportError:
        raise UserError('fast generation needs numba: pip install "mm15[fast]"') from None
    return kernels
