"""Greedy continuation of a batch of prompts with the decoder's cache.

    Encoded, Encoded, ...  --padded left-->  input_ids [B, T], attention_mask [B, T], tiles [N, 3, H, W]  -->  texts

Padding stands on the left, so that every row's last token is the newest; prompts of similar length waste least. A reply
ends at the end-of-turn token, at the end-of-document token (all that stage one teaches), or when full.
Greedy: the same prompts in the same batches give the same replies on the same machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import UserError
from ..text.render import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..processor import MM15Processor
    from .fast import FastDecoder


def continue_prompts(
    model: PreTrainedModel,
    processor: MM15Processor,
    prompts: Sequence[Encoded],
    *,
    max_new_tokens: int,
    fast: FastDecoder | None = None,
) -> list[str]:
    """What the model writes after each prompt, up to `max_new_tokens` tokens, without special tokens and outer spaces.

    The model is used as it stands (device, dtype); call `model.eval()` before. `fast`, made of this model, answers one
    prompt after the other in its place. Raises UserError for a prompt that leaves no room in the decoder's positions.
    """
    if not prompts:
        return []
    _check_room(model, prompts, max_new_tokens)
    tokenizer = processor.tokenizer
    stops = sorted({tokenizer.eos_token_id, tokenizer.pad_token_id} - {None})
    if fast is not None:
        written = [fast.reply(prompt, max_new_tokens=max_new_tokens, stops=stops) for prompt in prompts]
        return [processor.answer_text(ids) for ids in written]
    input_ids, attention_mask = pad_left(prompts, pad_id=tokenizer.pad_token_id)
    tiles = np.concatenate([prompt.tiles for prompt in prompts])
    with torch.inference_mode():
        output = model.generate(  # type: ignore[operator]
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            pixel_values=torch.from_numpy(tiles).to(model.device) if len(tiles) else None,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=stops,
            pad_token_id=tokenizer.pad_token_id,
        )
    return [processor.answer_text(_until(row, stops)) for row in output[:, input_ids.shape[1] :].tolist()]


def pad_left(prompts: Sequence[Encoded], *, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(input_ids, attention_mask), int64 [B, T] with T the longest prompt's length."""
    longest = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.as_tensor(prompt.input_ids)
        attention_mask[row, longest - len(prompt) :] = 1
    return input_ids, attention_mask


def _until(ids: list[int], stops: Sequence[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


def _check_room(model: PreTrainedModel, prompts: Sequence[Encoded], max_new_tokens: int) -> None:
    longest = max(len(prompt) for prompt in prompts)
    room = getattr(getattr(model.config, "text_config", None), "max_position_embeddings", None)
    if room is not None and longest + max_new_tokens > room:
        raise UserError(
            f"the prompt has {longest} tokens and {max_new_tokens} may follow, but the model has {room} positions: "
            "use fewer pictures, a lower max_tiles or a shorter text"
        )
