"""Pixels → pixel_values, where the model takes them: apart from `pixels`, which needs no torch."""

import torch
from torch import Tensor

from tinygptv.definitions.preprocessing import CLIP, Preprocessing


def normalise(pixels: Tensor, preprocessing: Preprocessing = CLIP) -> Tensor:
    """N images of (3, side, side) bytes -> their normalised float32 values, on the same device; equal to the bit to
    torchvision's `ToTensor` and `Normalize`."""
    values = torch.empty(pixels.shape, device=pixels.device)
    # A tensor: a GPU would multiply by the reciprocal of a number, which rounds otherwise.
    most = torch.full((1, 1, 1), 255.0, device=pixels.device)
    statistics = (preprocessing.mean, preprocessing.deviation)
    mean, deviation = (torch.tensor(each)[:, None, None].to(pixels.device) for each in statistics)
    # Image by image, which stays in a processor's cache.
    for image, target in zip(pixels, values, strict=True):
        target.copy_(image).div_(most).sub_(mean).div_(deviation)
    return values
