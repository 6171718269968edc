"""Tokenizers: a byte-level BPE trained on texts for models from scratch, and the preparation every tokenizer needs.

Any byte-level tokenizer reads any text; digits are split singly, because coordinates and readings are digits.
Training is deterministic in the texts and their order and takes about a second for 20,000 short ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ..errors import UserError
from ..regions import Coordinates
from .chat import CHAT_TEMPLATE, END, END_OF_DOCUMENT, SPECIAL_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BYTES = pre_tokenizers.ByteLevel.alphabet()


def train(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocab_size` tokens, special tokens included; raises UserError below 300."""
    if vocab_size < 300:
        raise UserError(
            f"tokenizer.vocab_size={vocab_size} is too small: 256 bytes and special tokens need 300 or more"
        )
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(_BYTES),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END_OF_DOCUMENT)


def prepare(tokenizer: PreTrainedTokenizerFast, *, coordinates: Coordinates) -> PreTrainedTokenizerFast:
    """Gives a tokenizer mm15's special tokens, chat template, a pad token, and bin tokens where the contract asks.

    Existing tokens keep their ids; new ones are appended. Changes `tokenizer` in place and returns it.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{type(tokenizer).__name__} is a slow tokenizer; mm15 needs a fast one (tokenizer.json)")
    missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)
    tokenizer.add_tokens(coordinates.bin_tokens())
    tokenizer.eos_token = END
    tokenizer.pad_token = END_OF_DOCUMENT
    tokenizer.padding_side = "left"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
