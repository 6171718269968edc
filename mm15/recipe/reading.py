"""Reading and writing recipes: YAML files, `extends`, dotted overrides, and one clear line for every mistake."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import UserError
from .schema import Recipe, closest

SHIPPED = Path(__file__).parent.parent / "recipes"


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
        f"no shipped recipe is called {str(name)!r}{closest(str(name), shipped())}; shipped: {', '.join(shipped())}"
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
    return _merge(_read(_find(parent), (*seen, path.resolve())), tree, str(path))


def _merge(base: dict[str, Any], over: dict[str, Any], where: str, steps: tuple[str, ...] = ()) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        path = (*steps, str(key))
        _check_null(base, value, path, where)
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value, where, path) if both else value
    return merged


def _override(tree: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"override {text!r}: write it as key.of.setting=value")
    *path, last = steps = tuple(key.split("."))
    for step in path:
        tree[step] = dict(tree[step]) if isinstance(tree.get(step), dict) else {}
        tree = tree[step]
    try:
        setting = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"override {text!r}: {value!r} is not a YAML value") from None
    _check_null(tree, setting, steps, f"override {text!r}")
    tree[last] = setting


def _check_null(base: dict[str, Any], value: Any, steps: tuple[str, ...], where: str) -> None:
    """UserError for a null that would leave out of `base` an entry, by its path, that is not there."""
    if value is None and steps[-1] not in base and _holds_entries(steps[:-1]):
        near = closest(steps[-1], [str(known) for known in base])
        raise UserError(f"{where}: there is no {'.'.join(steps)} to leave out{near}")


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    steps = [str(step) for step in first["loc"]]
    where = ".".join(steps) or "recipe"
    if first["type"] == "extra_forbidden":
        known = [key for node in _nodes(steps[:-1]) for key in node.get("properties", {})]
        return f"unknown key {where!r}{closest(steps[-1], known)}"
    message = first["msg"].removeprefix("Value error, ")
    return message if first["type"] == "value_error" and not steps else f"{where}: {message}"


def _holds_entries(steps: Sequence[str]) -> bool:
    """Whether the block at `steps` holds entries by name (stages, groups, sources) and not settings."""
    return any(isinstance(node.get("additionalProperties"), dict) for node in _nodes(steps))


def _nodes(steps: Sequence[str]) -> list[dict[str, Any]]:
    """What the schema says of the block at `steps`; several where it may be of several kinds."""
    whole = schema()

    def resolve(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            node = whole["$defs"][node["$ref"].rpartition("/")[2]]
        options = node.get("anyOf", []) + node.get("oneOf", [])
        return [leaf for option in options for leaf in resolve(option)] if options else [node]

    nodes = resolve(whole)
    for step in steps:
        found = []
        for node in nodes:
            inner = node.get("properties", {}).get(step) or node.get("additionalProperties")
            found += resolve(inner) if isinstance(inner, dict) else []
        nodes = found or nodes
    return nodes


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v
        for key, value in tree.items()
        for k, v in _flatten(value, f"{prefix}.{key}" if prefix else str(key)).items()
    }
