"""Opens a model by whatever names it: a run folder, an exported folder, or a Hugging Face id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..pretrained import find_model

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

    place = str(find_model(name))
    with readable(str(name)):
        model = read(MM15ForConditionalGeneration, place)
        processor = MM15Processor.from_pretrained(place)
    return model.eval(), processor
