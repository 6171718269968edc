"""Evaluation sets as they are named on the command line: NAME=SOURCE.

held=llava:held.jsonl     docs=docs.source.yaml     chart={format: parquet, path: someone/charts, split: test}
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from ...errors import UserError
from ...recipe import Source
from ..convert import BESIDE, described, read_block, source_block


def read_against(texts: Iterable[str]) -> dict[str, Source]:
    """The source blocks by name. UserError for what cannot be read as one."""
    found: dict[str, Source] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if not (name and equals and source):
            raise UserError(f"--against {text!r}: write NAME=SOURCE, held=llava:held.jsonl for example")
        if name in found:
            raise UserError(f"--against {name!r} is given twice; give each set a name of its own")
        found[name] = _block(source, f"--against {name}")
    return found


def _block(text: str, where: str) -> Source:
    if text.endswith(BESIDE):
        return read_block(Path(text))
    if text.startswith("{"):
        try:
            tree = yaml.safe_load(text)
        except yaml.YAMLError:
            tree = None
        if not isinstance(tree, dict) or "format" not in tree:
            raise UserError(f"{where}: {text!r} is no source block; write {{format: llava, path: held.jsonl}}")
        return source_block(tree, where)
    form, colon, path = text.partition(":")
    if not (colon and path):
        raise UserError(f"{where}: {text!r} names no source; write FORMAT:PATH, llava:held.jsonl for example")
    return described(path, form, {}, [], where)
