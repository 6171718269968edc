"""Opens a model by whatever names it: a run folder, an exported folder, or a Hugging Face id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..pretrained import find_model

if TYPE_CHECKING:
    import torch

    from ..model import MM15ForConditionalGeneration
    from ..processor import MM15Processor


def load(
    name: str | Path, *, device: torch.device | str | None = None
) -> tuple[MM15ForConditionalGeneration, MM15Processor]:
    """(model in eval mode, processor) of a run folder, an exported folder or a hub id.

    The model is put on `device`, by default on the GPU where there is one. A folder is never looked up on a hub.
    Weights in bf16 become fp32 on a CPU that computes well in that alone. Raises UserError when there is no model or it
    cannot be read or does not fit.
    """
    import torch

    from ..model import MM15ForConditionalGeneration
    from ..model.device import best_device
    from ..model.loading import read, readable
    from ..model.precision import faster_in_bf16
    from ..processor import MM15Processor

    folder = str(find_model(name))
    with readable(str(name)):
        model = read(MM15ForConditionalGeneration, folder)
        processor = MM15Processor.from_pretrained(folder)
    place = best_device() if device is None else torch.device(device)
    if model.dtype == torch.bfloat16 and place.type == "cpu" and not faster_in_bf16(place):
        torch.nn.Module.float(model)
    try:
        torch.nn.Module.to(model, place)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{name}: does not fit on {place}; CUDA_VISIBLE_DEVICES= (empty) keeps it on the CPU"
        ) from error
    return model.eval(), processor
