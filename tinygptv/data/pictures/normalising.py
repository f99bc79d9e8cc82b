"""Pixels → pixel_values on the model's device. Separate from `pixels`, which must not import torch."""

import torch
from torch import Tensor

from tinygptv.data.pictures.pixels import DEVIATION, MEAN


def normalise(pixels: Tensor) -> Tensor:
    """(N, 3, side, side) uint8 -> CLIP-normalised float32 on the same device; bit-identical to torchvision's `ToTensor`
    and `Normalize`."""
    values = torch.empty(pixels.shape, device=pixels.device)
    # A tensor, because a GPU would multiply by the reciprocal of a Python number, which rounds differently.
    most = torch.full((1, 1, 1), 255.0, device=pixels.device)
    mean, deviation = (torch.from_numpy(each)[:, None, None].to(pixels.device) for each in (MEAN, DEVIATION))
    # Image by image, to stay in the CPU cache.
    for image, target in zip(pixels, values, strict=True):
        target.copy_(image).div_(most).sub_(mean).div_(deviation)
    return values
