"""Opens a model by whatever names it: a run folder, an exported folder, or a Hugging Face id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from ..model import MM15ForConditionalGeneration
    from ..processor import MM15Processor


def load(name: str | Path) -> tuple[MM15ForConditionalGeneration, MM15Processor]:
    """(model in eval mode, processor) of a run folder, an exported folder or a hub id.

    A folder is never looked up on a hub. Raises UserError when there is no model or it cannot be read.
    """
    from ..model import MM15ForConditionalGeneration
    from ..model.loading import read, readable
    from ..processor import MM15Processor

    place = str(find(name))
    with readable(str(name)):
        model = read(MM15ForConditionalGeneration, place)
        processor = MM15Processor.from_pretrained(place)
    return model.eval(), processor


def find(name: str | Path) -> str | Path:
    """The transformers folder (or hub id) that `name` stands for; raises UserError when there is none."""
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
