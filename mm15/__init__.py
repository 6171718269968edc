"""mm15: the open implementation of MM1.5 (arXiv 2409.20566).

`import mm15` is light: nothing heavy is imported until it is used, and transformers learns of mm15's classes as soon
as its auto classes are, so that ``AutoModelForImageTextToText.from_pretrained(folder)`` works after ``import mm15``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import registration

if TYPE_CHECKING:
    from .generate import load as load
    from .model import MM15Config as MM15Config
    from .model import MM15ForConditionalGeneration as MM15ForConditionalGeneration
    from .processor import MM15Processor as MM15Processor

__version__ = "0.1.0"
__all__ = ["MM15Config", "MM15ForConditionalGeneration", "MM15Processor", "load"]

_HOMES = {
    "MM15Config": "mm15.model",
    "MM15ForConditionalGeneration": "mm15.model",
    "MM15Processor": "mm15.processor",
    "load": "mm15.generate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mm15' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


registration.install()
