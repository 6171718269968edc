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

    A folder is never looked up on a hub. Weights in bf16 become fp32 where that is what this machine computes well in.
    Raises UserError when there is no model or it cannot be read.
    """
    import torch

    from ..model import MM15ForConditionalGeneration
    from ..model.loading import read, readable
    from ..model.precision import faster_in_bf16
    from ..processor import MM15Processor

    place = str(find_model(name))
    with readable(str(name)):
        model = read(MM15ForConditionalGeneration, place)
        processor = MM15Processor.from_pretrained(place)
    if model.dtype == torch.bfloat16 and not torch.cuda.is_available() and not faster_in_bf16(torch.device("cpu")):
        torch.nn.Module.float(model)
    return model.eval(), processor
