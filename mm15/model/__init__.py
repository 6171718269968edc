"""The model: a picture encoder, the C-Abstractor and a decoder, joined as one transformers model.

Names are imported when first used, so that reading a configuration does not load the model's code. transformers'
configuration registry is loaded first: loading it registers `MM15Config` (mm15.registration), which cannot be done
while `configuration` itself is half imported. For the same reason auto model classes are asked for inside functions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import transformers.models.auto.configuration_auto  # noqa: F401

if TYPE_CHECKING:
    from .assemble import build as build
    from .configuration import MM15Config as MM15Config
    from .modeling import MM15ForConditionalGeneration as MM15ForConditionalGeneration
    from .modeling import MM15Output as MM15Output

__all__ = ["MM15Config", "MM15ForConditionalGeneration", "MM15Output", "build"]

_HOMES = {
    "build": ".assemble",
    "MM15Config": ".configuration",
    "MM15ForConditionalGeneration": ".modeling",
    "MM15Output": ".modeling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mm15.model' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
