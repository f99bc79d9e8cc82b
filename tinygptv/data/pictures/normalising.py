"""Pixels → pixel_values on the model's device. Separate from `pixels`, which must not import torch."""

import torch
from torch import Tensor

from tinygptv.definitions.preprocessing import CLIP, Preprocessing


def normalise(pixels: Tensor, preprocessing: Preprocessing = CLIP) -> Tensor:
    """(N, 3, side, side) uint8 -> normalised float32 on the same device; bit-identical to torchvision's `ToTensor` and
    `Normalize`."""
    values = torch.empty(pixels.shape, device=pixels.device)
    # A tensor, because a GPU would multiply by the reciprocal of a Python number, which rounds differently.
    most = torch.full((1, 1, 1), 255.0, device=pixels.device)
    statistics = (preprocessing.mean, preprocessing.deviation)
    mean, deviation = (torch.tensor(each)[:, None, None].to(pixels.device) for each in statistics)
    # Image by image, to stay in the CPU cache.
    for image, target in zip(pixels, values, strict=True):
        target.copy_(image).div_(most).sub_(mean).div_(deviation)
    return values
