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
    from ..processor import MM15Processor

    place = find(name)
    try:
        model = MM15ForConditionalGeneration.from_pretrained(place)
        processor = MM15Processor.from_pretrained(place)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{name}: the model cannot be read: {' '.join(str(error).split())[:200]}") from error
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise UserError(f"{name}: the model's weights are damaged ({error}); export or train it again") from error
        raise
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
