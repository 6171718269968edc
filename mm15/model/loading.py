"""Reading other people's checkpoints: quiet about what is not needed, one clear line about what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..errors import UserError


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block transformers reports errors only: no bars, no lists of what a checkpoint holds besides."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def readable(weights: str) -> Iterator[None]:
    """Within the block a failure to read `weights` becomes one line for the user."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        cause = " ".join(str(error).split())
        raise UserError(f"{weights}: cannot be read as model weights: {cause}; fetch or export it again") from error


def check_shape(shape: Mapping[str, Any], config: PreTrainedConfig, *, of: str, weights: str) -> None:
    """UserError when the checkpoint's configuration differs from what the recipe says it is (`of`.shape)."""
    for key, said in shape.items():
        found = getattr(config, key, None)
        if found != said:
            raise UserError(
                f"{weights}: its {key} is {found}, {of}.shape.{key} says {said}; correct it, or {of}.shape={{}} to "
                "take the checkpoint as it is"
            )


def mark_initialised(part: nn.Module) -> None:
    """Tell transformers that the weights of `part` are as they should be, so that it does not draw fresh ones."""
    for module in part.modules():
        flagged: Any = module
        flagged._is_hf_initialized = True


def read(model_class: Any, weights: str, **options: Any) -> PreTrainedModel:
    """`model_class.from_pretrained(weights)` with every weight of the model found; UserError names one that is not."""
    with quiet():
        model, report = model_class.from_pretrained(weights, output_loading_info=True, **options)
    absent = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if absent:
        raise UserError(f"{weights}: {len(absent)} weights are missing or of another shape, the first is {absent[0]}")
    return model
