"""Tells transformers' auto classes of mm15's, without importing transformers.

Each auto class lives in a module of its own. If that module is loaded already, we register at once; otherwise an import
hook registers right after it has been loaded. `import mm15` thus stays under two seconds and torch untouched.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto."


def _config(auto: Any) -> None:
    from .model.configuration import MM15Config

    auto.AutoConfig.register(MM15Config.model_type, MM15Config, exist_ok=True)


def _model(auto: Any) -> None:
    from .model.configuration import MM15Config
    from .model.modeling import MM15ForConditionalGeneration

    auto.AutoModelForImageTextToText.register(MM15Config, MM15ForConditionalGeneration, exist_ok=True)


def _image_processor(auto: Any) -> None:
    from .model.configuration import MM15Config
    from .processor import MM15ImageProcessor

    auto.AutoImageProcessor.register(MM15Config, slow_image_processor_class=MM15ImageProcessor, exist_ok=True)


def _processor(auto: Any) -> None:
    from .model.configuration import MM15Config
    from .processor import MM15Processor

    auto.AutoProcessor.register(MM15Config, MM15Processor, exist_ok=True)


_REGISTER: dict[str, Callable[[Any], None]] = {
    _AUTO + "configuration_auto": _config,
    _AUTO + "modeling_auto": _model,
    _AUTO + "image_processing_auto": _image_processor,
    _AUTO + "processing_auto": _processor,
}


class _Hook(MetaPathFinder):
    """Wraps the loader of an auto module once, to register after it has run."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in _REGISTER or path is None:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                _register_after(spec.loader, _REGISTER[name])
                return spec
        return None


def _register_after(loader: Loader, register: Callable[[Any], None]) -> None:
    run = loader.exec_module

    def run_and_register(module: ModuleType) -> None:
        run(module)
        register(module)

    loader.exec_module = run_and_register  # type: ignore[method-assign]


def install() -> None:
    """Register now where transformers is loaded, later where it is not. Calling it again changes nothing."""
    if not any(isinstance(finder, _Hook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Hook())
    for name, register in _REGISTER.items():
        if name in sys.modules:
            register(sys.modules[name])
