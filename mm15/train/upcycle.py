"""Dense to mixture-of-experts ("sparse upcycling", arXiv 2212.05055): experts are copies of the dense feed-forward.

    dense folder --config: qwen3 -> qwen3_moe, weights one by one--> sparse folder
    layers.3.mlp.up_proj.weight --> layers.3.mlp.experts.0.up_proj.weight, ... experts.63, and a fresh router

Takes and makes plain transformers folders: an MM1.5 model with its processor, or a decoder alone. The gates of a
token's k experts sum to 1, so with plain copies the sparse model computes what the dense one did, to rounding. Options
give up a part of that for experts that differ from the start: noise on all of them, whole fresh ones, or fresh hidden
units in each ("drop-upcycling", arXiv 2502.19261). Every weight is a function of its name and the seed.

Memory: twice a shard of the sparse model (`SHARD` bytes) and a few dense tensors. The folder appears whole or not at
all.
Only qwen3 decoders can be taken: qwen3_moe normalises queries and keys, which no weights can undo for llama, mistral
and qwen2, and qwen2 has biases besides. Mixtral's layout has neither, but no dense layers between its sparse ones.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from ..errors import UserError
from ..files import replace_folder, room_in
from ..model.loading import quiet, readable
from ..progress import track

SHARD = 1024**3
"""Bytes of weights in a file of the sparse model, but for the last tensor."""

_FEED_FORWARD = re.compile(r"(?P<stem>(?:.*\.)?layers\.(?P<layer>\d+)\.mlp)\.(?P<matrix>gate|up|down)_proj\.weight")


@dataclass(frozen=True)
class Upcycling:
    """What becomes of a dense decoder; the defaults are the paper's layout and plain copies."""

    experts: int = 64
    top_k: int = 2
    every: int = 2
    """Every so many layers one is sparse: the `every`-th, 2 `every`-th, ..."""
    noise: float = 0.0
    """Gaussian noise on every expert: its deviation as a multiple of the matrix's own."""
    fresh: float = 0.0
    """Share of the experts that start fresh, the last ones."""
    drop: float = 0.0
    """Share of the hidden units of each copied expert that are drawn anew, with the matrix's mean and deviation."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise UserError(f"{self.experts} experts with {self.top_k} a token; need 1 <= top-k <= experts")
        if self.every < 1 or self.noise < 0:
            raise UserError(f"every={self.every}, noise={self.noise:g}; need every >= 1 and noise >= 0")
        for name in ("fresh", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name):g}; need a share from 0 to 1")

    @property
    def copies(self) -> int:
        """How many experts start as copies."""
        return self.experts - round(self.fresh * self.experts)


@dataclass(frozen=True)
class Upcycled:
    """What was made: how many parameters the model had and has, and the numbers of the sparse layers."""

    dense: int
    sparse: int
    layers: tuple[int, ...]


def upcycle(source: Path, out: Path, settings: Upcycling) -> Upcycled:
    """Writes the sparse model of the dense one in folder `source` as folder `out`, which must be new or empty.

    Raises UserError for decoders that have no exact sparse form and for folders that cannot be read or written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not empty; give a new folder")
    with readable(str(source)), quiet():
        config = AutoConfig.from_pretrained(source)
    dense = config.text_config if config.model_type == "mm15" else config
    sparse = sparse_config(dense, settings, where=str(source))
    files = _files(source)
    layers = tuple(range(settings.every - 1, dense.num_hidden_layers, settings.every))
    counts = {"dense": 0, "sparse": 0}

    def write(folder: Path) -> None:
        for path in source.iterdir():
            if path.is_file() and path.suffix != ".safetensors" and not path.name.endswith(".safetensors.index.json"):
                shutil.copy(path, folder)
        if config.model_type == "mm15":
            config.text_config = sparse
        (config if config.model_type == "mm15" else sparse).save_pretrained(folder)
        (folder / "upcycled.json").write_text(json.dumps({"from": source.name, **asdict(settings)}, indent=1))
        tensors = _tensors(files, sparse, layers, settings, counts)
        _write_shards(tensors, folder)

    with readable(str(source)), room_in(out, then="try again"):
        replace_folder(out, write)
    return Upcycled(counts["dense"], counts["sparse"], layers)


def sparse_config(dense: PreTrainedConfig, settings: Upcycling, *, where: str) -> PreTrainedConfig:
    """The configuration of the sparse decoder; UserError where no qwen3_moe decoder computes the same."""
    if dense.model_type == "qwen3_moe":
        raise UserError(f"{where}: its decoder has experts already (qwen3_moe); upcycle takes a dense qwen3 decoder")
    if dense.model_type != "qwen3":
        raise UserError(
            f"{where}: its decoder is {dense.model_type!r}, and only 'qwen3' has an exact sparse form here: qwen3_moe "
            "normalises queries and keys; start from a qwen3 decoder"
        )
    if "sliding_attention" in (dense.layer_types or []):
        raise UserError(f"{where}: its decoder has sliding windows in some layers, qwen3_moe in all or none")
    if settings.every > dense.num_hidden_layers:
        raise UserError(
            f"{where}: has {dense.num_hidden_layers} layers, so none would be sparse with --every "
            f"{settings.every}; give at most {dense.num_hidden_layers}"
        )
    fields = {k: v for k, v in dense.to_dict().items() if k not in ("model_type", "layer_types", "max_window_layers")}
    return AutoConfig.for_model(
        "qwen3_moe",
        **{
            **fields,
            "architectures": ["Qwen3MoeForCausalLM"] if dense.architectures else None,
            "num_experts": settings.experts,
            "num_experts_per_tok": settings.top_k,
            "decoder_sparse_step": settings.every,
            "moe_intermediate_size": dense.intermediate_size,
            "norm_topk_prob": True,
            "mlp_only_layers": [],
        },
    )


# -------------------------------------------------------------------------------------------------------------- weights


def _files(source: Path) -> list[Path]:
    index = source / "model.safetensors.index.json"
    if index.is_file():
        return [source / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    if not (source / "model.safetensors").is_file():
        raise UserError(f"{source}: holds no safetensors weights; save the model with save_pretrained first")
    return [source / "model.safetensors"]


def _tensors(
    files: list[Path],
    config: PreTrainedConfig,
    layers: tuple[int, ...],
    settings: Upcycling,
    counts: dict[str, int],
) -> Iterator[tuple[str, Tensor]]:
    """All weights of the sparse model by name, one dense tensor after the other."""
    for path in files:
        with safe_open(path, framework="pt") as weights:
            names = sorted(weights.keys())
            for name in track(names, path.name, total=len(names), unit="weights"):
                tensor = weights.get_tensor(name)
                counts["dense"] += tensor.numel()
                for made, value in _sparse(name, tensor, config, layers, settings):
                    counts["sparse"] += value.numel()
                    yield made, value


def _sparse(
    name: str, tensor: Tensor, config: PreTrainedConfig, layers: tuple[int, ...], settings: Upcycling
) -> Iterator[tuple[str, Tensor]]:
    """What one dense tensor becomes: itself, or those of all experts; the router comes with a layer's gate matrix."""
    place = _FEED_FORWARD.fullmatch(name)
    if place is None or not name.removeprefix("decoder.").startswith("model.") or int(place["layer"]) not in layers:
        yield name, tensor
        return
    for expert in range(settings.experts):
        made = f"{place['stem']}.experts.{expert}.{place['matrix']}_proj.weight"
        yield made, _expert(tensor, place, expert, config, settings)
    if place["matrix"] == "gate":
        router = f"{place['stem']}.gate.weight"
        shape = (settings.experts, config.hidden_size)
        yield router, (_normal(shape, settings, router) * config.initializer_range).to(tensor.dtype)


def _expert(dense: Tensor, place: re.Match[str], expert: int, config: PreTrainedConfig, settings: Upcycling) -> Tensor:
    """One matrix of one expert, of the dense one's shape and dtype."""
    stem, name = f"{place['stem']}.experts.{expert}", f"{place['stem']}.experts.{expert}.{place['matrix']}"
    if expert >= settings.copies:
        return (_normal(dense.shape, settings, name) * config.initializer_range).to(dense.dtype)
    if not settings.drop and not settings.noise:
        return dense
    value, deviation = dense.float(), dense.float().std()
    if settings.drop:
        units = config.intermediate_size
        again = torch.randperm(units, generator=_generator(settings, stem))[: round(settings.drop * units)]
        axis = 1 if place["matrix"] == "down" else 0
        drawn = value.mean() + deviation * _normal(dense.shape, settings, name)
        value = value.index_copy(axis, again, drawn.index_select(axis, again))
    if settings.noise:
        value = value + settings.noise * deviation * _normal(dense.shape, settings, f"{name} noise")
    return value.to(dense.dtype)


def _normal(shape: Any, settings: Upcycling, name: str) -> Tensor:
    return torch.randn(shape, generator=_generator(settings, name))


def _generator(settings: Upcycling, name: str) -> torch.Generator:
    """A stream of its own for every name and seed."""
    digest = hashlib.sha256(f"{settings.seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _write_shards(tensors: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """transformers' safetensors, in files of about `SHARD` bytes with an index where there are several."""
    shards: list[list[str]] = []
    total = size = 0
    shard: dict[str, Tensor] = {}

    def close() -> None:
        save_file(shard, folder / f"{len(shards)}.part", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    for name, tensor in tensors:
        shard[name] = tensor.contiguous().clone()  # copies of one tensor are written out each
        size += tensor.nbytes
        if size >= SHARD:
            close()
            total, size = total + size, 0
    if shard:
        close()
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for i, name in enumerate(names):
        (folder / f"{i}.part").rename(folder / name)
    if len(shards) > 1:
        weight_map = {weight: name for name, weights in zip(names, shards, strict=True) for weight in weights}
        index = {"metadata": {"total_size": total + size}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
