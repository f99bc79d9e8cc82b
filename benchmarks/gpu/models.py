"""A stage's model with random weights, made where it is used: nothing is read, written or sent."""

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tinygptv.models.lora import plain_name
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import LORA, empty_model
from tinygptv.train.job import Job

SPREAD = 0.02
_NORM = re.compile(r"norm\d?\.(weight|bias)$", re.IGNORECASE)
_IN_FULL = re.compile(r"(position_embedding|class_embedding|\.qkv\.bias)$")


def random_model(job: Job, dtype_of: Callable[[str], torch.dtype]) -> VisionLanguageModel:
    """On the job's device; `dtype_of` a parameter's plain name is its type. The same numbers for everybody."""
    model = empty_model(job.model, job.stage.inputs.image_size, job.lora)
    generator = torch.Generator(job.hardware.device).manual_seed(job.seed)
    for prefix, module in model.named_modules():
        for leaf, parameter in list(module.named_parameters(recurse=False)):
            name = plain_name(f"{prefix}.{leaf}")
            value = _first_value(name, parameter.shape, generator).to(dtype_of(name))
            module.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    return model.to(job.hardware.device)


def as_published(name: str) -> torch.dtype:
    """The type in which TinyGPT-V kept a parameter on the GPU: frozen maps in 16 bits, what is trained, norms and the
    Q-Former in 32."""
    frozen = name.startswith(("vision_encoder.", "language_model.")) and not LORA.search(name)
    return torch.float16 if frozen and not _NORM.search(name) and not _IN_FULL.search(name) else torch.float32


def _first_value(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Small numbers, but ones for the weights of norms and zeros for what adapters begin with, so that a deep model
    stays within 16 bits."""
    if _NORM.search(name) and name.endswith("weight"):
        return torch.ones(shape, device=generator.device)
    if ".lora_B." in name or _NORM.search(name):
        return torch.zeros(shape, device=generator.device)
    return torch.empty(shape, device=generator.device).normal_(std=SPREAD, generator=generator)
