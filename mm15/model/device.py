"""Where a model trains and answers: on a GPU where there is one."""

from __future__ import annotations

import os

import torch


def gpu() -> torch.device | None:
    """This process's NVIDIA GPU, by torchrun's LOCAL_RANK; None where there is none."""
    if not torch.cuda.is_available():
        return None
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def best_device() -> torch.device:
    """The GPU, or else the CPU."""
    return gpu() or torch.device("cpu")
