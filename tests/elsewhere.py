"""A device that is not the CPU, where there is none: what runs on it runs as on a GPU, with real numbers.

    python tests/elsewhere.py run tests/tiny.yaml --out DIR        mm15's own command line, with `elsewhere` for a GPU

A tensor there wraps one on the CPU, and PyTorch takes it for one of another device: with its own autograd thread, its
own autocast, and an error where an operation mixes devices. That is what a CPU alone cannot show: a mask, a table or a
count that was made on the wrong side. It says nothing of kernels, speed and memory of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "elsewhere"
BOTH_SIDES = ("aten::to", "aten::_to_copy", "aten::copy_", "aten::_copy_from")
"""Operations that move numbers between devices."""
IN_BF16 = ("linear", "matmul", "mm", "bmm", "addmm", "conv2d", "scaled_dot_product_attention", "_grouped_mm")
"""What autocast multiplies in bf16, as on a GPU."""


class Stream:
    """Every call has ended when it returns; there is nothing to wait for."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def synchronize(self) -> None: ...

    def wait_stream(self, _other: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...


class Backend(_DummyBackendModule):  # type: ignore[misc]
    """What torch asks of `torch.elsewhere`."""

    Stream, Event = Stream, Stream

    def current_stream(self, _device: Any = None) -> Stream:
        return Stream()

    def stream(self, stream: Stream) -> Stream:
        return stream

    def synchronize(self, _device: Any = None) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, _device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, _device: Any = None) -> None:
        torch.set_rng_state(state)


class There(Tensor):
    """A tensor on the device; `here` holds its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        with torch.inference_mode(here.is_inference()):  # views of a parameter are none
            made = Tensor._make_wrapper_subclass(
                cls, here.size(), here.stride(), here.storage_offset(), dtype=here.dtype, device=f"{NAME}:0"
            )
        made.here = here
        return made  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"There({self.here})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs)


class Making(TorchDispatchMode):
    """Within it, what is asked for on the device is made there."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs)


def _run(function: Any, args: Any, kwargs: Any) -> Any:
    """An operation on the numbers; its result lies where an operation of a GPU would leave it."""
    name, names = function._schema.name, [argument.name for argument in function._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
    tensors = [x for x in tree_leaves(given) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, There)]
    if there and name not in BOTH_SIDES and any(x.ndim for x in tensors if not isinstance(x, There)):
        sides = ", ".join(f"{list(x.shape)} on {x.device.type}" for x in tensors)
        raise RuntimeError(f"{name} of tensors on two devices: {sides}")
    stays = bool(there) and name != "aten::_local_scalar_dense"
    if given.get("device") is not None:
        stays = torch.device(given["device"]).type == NAME
        given["device"] = "cpu"
    elif name == "aten::copy_":
        stays = isinstance(given["self"], There)
    found = function(**_here(given))
    if torch.Tag.inplace_view in function.tags:  # the wrapper changes its shape too
        with no_dispatch():
            function(*args, **(kwargs or {}))
    known = {id(x.here): x for x in there}
    return tree_map_only(Tensor, lambda x: known[id(x)] if id(x) in known else There(x), found) if stays else found


def _here(given: Any) -> Any:
    """The same with the numbers in place of tensors on the device."""
    return tree_map_only(There, lambda x: x.here, given)


def _empty_strided(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Tensor:
    return There(torch.empty_strided(size, stride, dtype=dtype))


def _copy(target: Any, source: Any, _non_blocking: bool = False) -> Tensor:
    _here(target).copy_(_here(source))
    return target  # type: ignore[no-any-return]


def _cast(operation: Any) -> Callable[..., Any]:
    """The operation under autocast."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            args, kwargs = tree_map_only(
                Tensor, lambda x: x.to(torch.bfloat16) if x.is_floating_point() else x, (args, kwargs)
            )
            return operation(*args, **kwargs)

    return run


def register() -> list[torch.library.Library]:
    """Tells torch of the device; it forgets again when what is returned is gone."""
    _setup_privateuseone_for_python_backend(NAME, Backend())
    others, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in IN_BF16:
        aten.impl(name, _cast(getattr(torch.ops.aten, name).default), "AutocastPrivateUse1")
    aten.impl("empty_strided", _empty_strided, "PrivateUse1")
    aten.impl("copy_", _copy, "PrivateUse1")
    return [others, aten]


if __name__ == "__main__":
    registered = register()
    from mm15.model import device

    device.gpu = lambda: torch.device(NAME, 0)
    from mm15.cli import main

    with Making():
        main()
