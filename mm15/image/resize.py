"""Resizing, bicubic with antialiasing: the one place of this room that uses torch, whose uint8 kernel takes a quarter
of Pillow's time and differs from it by at most 2 of 255 (both round between the two directions, in another order).
"""

from __future__ import annotations

import warnings

import numpy as np


def resize(pixels_HW3: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """RGB pixels at `size` (width, height): uint8 [height, width, 3]; the same array when it has that size."""
    import torch  # here, because sizes and layouts need none of it

    height, width, _ = pixels_HW3.shape
    if (width, height) == size:
        return pixels_HW3
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # Pillow's pixels are not, and nothing writes here
        shared_HW3 = torch.from_numpy(pixels_HW3)
    pixels_13HW = shared_HW3[None].permute(0, 3, 1, 2)  # strides of channels_last, which is quickest
    resized = torch.nn.functional.interpolate(pixels_13HW, size=size[::-1], mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1)[0].numpy()
