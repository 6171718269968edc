"""A processor of small tiles, a tiny real model that fits it, and a model that says what a test tells it to."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import tiny_model
import torch

from mm15.image import Tiling
from mm15.model import MM15ForConditionalGeneration
from mm15.processor import MM15Processor, build_processor
from mm15.regions import Coordinates
from mm15.text.tokenizer import prepare, train

COORDINATES = Coordinates(bins=100)


def processor() -> MM15Processor:
    """One tile of 32 pixels a picture, four tokens a tile, a byte-level tokenizer, 100 bins."""
    texts = ["Where is the red circle?", "What color is it?", "[12, 3, 45, 67]", "yes no red blue"]
    tokenizer = prepare(train(texts, vocab_size=320), coordinates=COORDINATES)
    tiling = Tiling(tile=tiny_model.TILE, rule="none", min_tiles=1)
    return build_processor(tokenizer, tiling=tiling, coordinates=COORDINATES, tokens_per_tile=tiny_model.EACH)


def tiny(processor: MM15Processor) -> MM15ForConditionalGeneration:
    """A real model with random weights for that processor."""
    tokenizer = processor.tokenizer
    return tiny_model.make(
        options={
            "vocab_size": len(tokenizer),
            "image_token_id": processor.image_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )


class Scripted:
    """Answers with `reply(prompt text, its tiles)`; keeps the prompts and the batches as they came."""

    def __init__(
        self, processor: MM15Processor, reply: Callable[[str, np.ndarray], str], *, room: int = 10_000
    ) -> None:
        self.processor, self.reply = processor, reply
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=room))
        self.training = True
        self.prompts: list[str] = []
        self.batches: list[dict[str, torch.Tensor]] = []

    def eval(self) -> Scripted:
        return self.train(False)

    def train(self, mode: bool = True) -> Scripted:
        self.training = mode
        return self

    def generate(
        self,
        *,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor | None,
        max_new_tokens: int,
        eos_token_id: list[int],
        pad_token_id: int,
        do_sample: bool,
    ) -> torch.Tensor:
        assert not self.training and not do_sample
        self.batches.append({"input_ids": input_ids, "attention_mask": attention_mask})
        tokenizer, each = self.processor.tokenizer, self.processor.tokens_per_tile
        tiles = np.zeros((0, 3, 1, 1)) if pixel_values is None else pixel_values.numpy()
        rows, seen = [], 0
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            own = ids[mask.bool()]
            count = int((own == self.processor.image_token_id).sum()) // each
            prompt = tokenizer.decode(own.tolist()).replace("<image>" * each, "<image>")
            said = self.reply(prompt, tiles[seen : seen + count])
            seen += count
            self.prompts.append(prompt)
            answer = tokenizer.encode(said, add_special_tokens=False)[:max_new_tokens]
            rows.append(torch.tensor([*answer, eos_token_id[-1], *answer]))
        assert seen == len(tiles)
        longest = max(len(row) for row in rows)
        padded = torch.full((len(rows), longest), pad_token_id)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = row
        return torch.cat([input_ids, padded], dim=1)
