"""A recipe is a whole run in one YAML file: model, pictures, sources, stages with their mixtures, evaluation.

    extends: pico                     another recipe (a shipped name or a path beside this file); mappings merge key by key
    stages: {sft: {steps: 100}}       stages run in the order of the file and are addressed by name

`load("pico", ["stages.sft.steps=100"])` reads, merges, overrides and validates; `dump` writes the resolved copy that is
kept with every run and checkpoint; `fingerprint` names it in 16 characters; `diff` says how two differ. Unknown keys are
refused with the closest known one. `schema()` is the JSON schema for editors.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import UserError

SHIPPED = Path(__file__).parent / "recipes"


class Settings(BaseModel):
    """Base of every block of a recipe: unknown keys are errors and values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------------------------------------------------------- model


class Backbone(Settings):
    """A transformers model: weights from a folder, hub id or shipped name (`weights`), or fresh ones of `shape`."""

    family: str
    weights: str | None = None
    shape: dict[str, Any] = {}


class Connector(Settings):
    """The C-Abstractor (arXiv 2312.06742): `tokens` out per tile (a square number)."""

    tokens: int = 144
    depth: int = 3
    hidden_size: int = 1024
    mlp_depth: int = 2


class Tokenizer(Settings):
    """Either the decoder's own (`weights`), or a byte-level BPE trained on the generated world (`vocab_size`)."""

    weights: str | None = None
    vocab_size: int | None = None


class Router(Settings):
    """Weights of the two router losses of a mixture-of-experts decoder (paper section 4)."""

    balance: float = 0.01
    z: float = 0.001


class Model(Settings):
    """The three parts of an MM1.5 model and its tokenizer."""

    vision: Backbone
    connector: Connector = Connector()
    decoder: Backbone
    tokenizer: Tokenizer = Tokenizer()
    router: Router = Router()


# ------------------------------------------------------------------------------------------------------------- pictures


class Picture(Settings):
    """How a picture becomes tiles (paper section 3.5); stages may override any of these."""

    tile: int = 672
    rule: Literal["mm15", "budget", "static", "none"] = "mm15"
    min_tiles: int = 4
    max_tiles: int = 9
    overview: Literal["after", "before"] = "after"
    indicators: Literal["none", "index", "seps"] = "none"
    split_below: int = 3
    """Pictures are split only in samples with fewer pictures than this."""

    @model_validator(mode="after")
    def _range(self) -> Picture:
        if not 1 <= self.min_tiles <= self.max_tiles:
            raise ValueError(
                f"min_tiles={self.min_tiles} and max_tiles={self.max_tiles} need 1 <= min_tiles <= max_tiles"
            )
        return self


class Contract(Settings):
    """The coordinate contract; see `mm15.regions.Coordinates`."""

    bins: int = 1000
    tokens: bool = False


# -------------------------------------------------------------------------------------------------------------- sources


class WorldSource(Settings):
    """The generated world: `kind` names a task of mm15.world; `split` chooses its seed range."""

    format: Literal["world"]
    kind: str
    level: int = 1
    size: int = 128
    """Longer side of a picture in pixels."""
    samples: int = 1_000_000
    seed: int = 0
    split: Literal["train", "heldout"] = "train"


class LlavaSource(Settings):
    """LLaVA JSON or JSONL: `conversations` with `<image>` markers; pictures below `images` (default: beside the file)."""

    format: Literal["llava"]
    path: str
    images: str | None = None


class OpenAISource(Settings):
    """JSONL of OpenAI messages; `image_url` parts hold paths or data: URLs."""

    format: Literal["openai"]
    path: str
    images: str | None = None


Source = Annotated[WorldSource | LlavaSource | OpenAISource, Field(discriminator="format")]


class Category(Settings):
    """Sources that teach one thing. `alpha` is relative to the other categories of the group (paper section 3.2)."""

    alpha: float = 1.0
    sources: dict[str, float]
    """Source name -> weight inside the category."""


class Group(Settings):
    """Categories under one group weight w (paper: 0.8 single, 0.1 multi, 0.1 text)."""

    weight: float = 1.0
    categories: dict[str, Category]


# --------------------------------------------------------------------------------------------------------------- stages


class Batch(Settings):
    """`rows` packed rows a step over all ranks; each row holds whole documents up to both budgets."""

    rows: int = 1
    tokens: int = 4096
    tiles: int = 16


class Optimizer(Settings):
    """AdamW or AdaFactor. `lr` is the peak and absolute."""

    name: Literal["adamw", "adafactor"] = "adamw"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0


class Schedule(Settings):
    """Linear warm-up, then constant or decay to `floor` times the peak at the last step."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: int = 0
    floor: float = 0.0


class Stage(Settings):
    """One stage: it starts from the former stage's weights with a fresh optimiser."""

    steps: int
    batch: Batch = Batch()
    picture: dict[str, Any] = {}
    """Overrides of the recipe's `picture` block for this stage."""
    mixture: dict[str, Group]
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _weights(self) -> Stage:
        for name, group in self.mixture.items():
            for label, value in _weights(name, group):
                if not value >= 0:
                    raise ValueError(f"weight of {label} is {value}; weights are 0 or more")
            if group.weight and not any(c.alpha * sum(c.sources.values()) for c in group.categories.values()):
                raise ValueError(f"weights of group {name!r} sum to zero; give one of its sources a weight above 0")
        if not sum(group.weight for group in self.mixture.values()):
            raise ValueError("weights of the mixture sum to zero; give one group a weight above 0")
        return self


def _weights(name: str, group: Group) -> list[tuple[str, float]]:
    found = [(name, group.weight)]
    for category, block in group.categories.items():
        found.append((f"{name}.{category}", block.alpha))
        found.extend((f"{name}.{category}.{source}", weight) for source, weight in block.sources.items())
    return found


class Checkpoint(Settings):
    """Save every `every` steps and at the end of a stage; keep the newest `keep`."""

    every: int = 100
    keep: int = 2


class Evaluation(Settings):
    """Tasks by group, each a world source of held-out seeds, with `limit` samples a task, after each stage."""

    groups: dict[str, dict[str, Source]] = {}
    limit: int = 200
    batch: int = 50
    max_new_tokens: int = 24


class Recipe(Settings):
    """A whole run."""

    name: str
    seed: int = 0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Compute precision; auto takes bf16 where the machine multiplies it natively. Parameters stay fp32."""
    workers: int = 1
    """Loader worker processes; 0 loads in the training process. Any number gives the same stream."""
    model: Model
    picture: Picture = Picture()
    coordinates: Contract = Contract()
    sources: dict[str, Source] = {}
    stages: dict[str, Stage]
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()

    @model_validator(mode="after")
    def _names(self) -> Recipe:
        for stage_name, stage in self.stages.items():
            self.stage_picture(stage_name)
            for group_name, group in stage.mixture.items():
                for category in group.categories.values():
                    for source in category.sources:
                        if source not in self.sources:
                            hint = _closest(source, list(self.sources))
                            raise ValueError(
                                f"stages.{stage_name}.mixture.{group_name} names unknown source {source!r}{hint}"
                            )
        return self

    def stage_picture(self, stage: str) -> Picture:
        """The picture settings of a stage: the recipe's, with the stage's overrides."""
        return Picture(**{**self.picture.model_dump(), **self.stages[stage].picture})


# -------------------------------------------------------------------------------------------------------------- reading


def shipped() -> list[str]:
    """Names of the recipes that come with mm15."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load(name: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """The recipe at a path or of a shipped name, with `extends` merged and dotted overrides applied.

    Raises UserError (one line: where, what, closest name) for anything the user can mend.
    """
    path = _find(name)
    tree = _read(path, ())
    for override in overrides:
        _override(tree, override)
    return validate(tree, str(path))


def validate(tree: dict[str, Any], where: str) -> Recipe:
    """A recipe out of plain data; raises UserError with the first mistake."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error)}") from None


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; reading it back gives an equal recipe."""
    return yaml.safe_dump(json.loads(recipe.model_dump_json()), sort_keys=False, width=120)


def fingerprint(recipe: Recipe) -> str:
    """16 hex digits that change whenever anything in the resolved recipe changes."""
    return hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:16]


def diff(old: Recipe, new: Recipe) -> list[str]:
    """One line per setting that differs: ``stages.sft.steps: 100 -> 200``."""
    a, b = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    return [
        f"{key}: {a.get(key, '(none)')} -> {b.get(key, '(none)')}"
        for key in dict.fromkeys([*a, *b])
        if a.get(key) != b.get(key)
    ]


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, for editors."""
    return Recipe.model_json_schema()


def _find(name: str | Path) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"{path}: no such recipe file")
        return path
    if (SHIPPED / f"{name}.yaml").is_file():
        return SHIPPED / f"{name}.yaml"
    raise UserError(
        f"no shipped recipe is called {str(name)!r}{_closest(str(name), shipped())}; shipped: {', '.join(shipped())}"
    )


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UserError(f"{path}: 'extends' leads back to this recipe; remove one of them")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a recipe is a mapping of settings, this file holds {type(tree).__name__}")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    beside = path.parent / f"{base}"
    parent = beside if beside.suffix in (".yaml", ".yml") else _find(base)
    return _merge(_read(_find(parent), (*seen, path.resolve())), tree)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(tree: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"override {text!r}: write it as key.of.setting=value")
    *path, last = key.split(".")
    for step in path:
        tree[step] = dict(tree[step]) if isinstance(tree.get(step), dict) else {}
        tree = tree[step]
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"override {text!r}: {value!r} is not a YAML value") from None


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    steps = [str(step) for step in first["loc"]]
    where = ".".join(steps) or "recipe"
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}{_closest(steps[-1], _siblings(steps))}"
    message = first["msg"].removeprefix("Value error, ")
    return message if first["type"] == "value_error" and not steps else f"{where}: {message}"


def _siblings(steps: list[str]) -> list[str]:
    """Known keys beside the key at `steps`, found by walking the schema."""
    whole = schema()

    def resolve(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            node = whole["$defs"][node["$ref"].rpartition("/")[2]]
        options = node.get("anyOf", []) + node.get("oneOf", [])
        return [leaf for option in options for leaf in resolve(option)] if options else [node]

    nodes = resolve(whole)
    for step in steps[:-1]:
        found = []
        for node in nodes:
            inner = node.get("properties", {}).get(step) or node.get("additionalProperties")
            found += resolve(inner) if isinstance(inner, dict) else []
        nodes = found or nodes
    return [key for node in nodes for key in node.get("properties", {})]


def _closest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v
        for key, value in tree.items()
        for k, v in _flatten(value, f"{prefix}.{key}" if prefix else str(key)).items()
    }
