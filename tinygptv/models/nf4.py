"""The decoder's frozen linear maps in 4 bits while adapters train: NF4 of QLoRA (arXiv 2305.14314), by bitsandbytes.

A weight becomes the nearest of 16 levels, scaled by the largest of its block of 64; the scales are rounded to 8 bits
in turn. A map is dequantized for each product, forward and backward. Norms, adapters, projections, embeddings, the head
and all biases keep their precision. The maps themselves cannot be trained.
"""

import importlib.util
import logging
import re
from collections.abc import Mapping
from importlib import import_module

import torch
from torch import Tensor, nn

from tinygptv.errors import SetupError

BYTES_PER_WEIGHT = (4 + 8 / 64 + 32 / (64 * 256)) / 8
"""A level, and its share of the scale of 64 weights and of the scale of 256 scales."""

LIBRARY = "bitsandbytes"
_MAP = re.compile(r"language_model\.model\.layers\.\d+\.\w+\.\w+\.weight")


def map_weights(parameters: Mapping[str, Tensor]) -> dict[str, int]:
    """Names of the weights that can be kept so, among a model's `parameters` under their plain names, and their sizes:
    all maps of attention and feed-forward, no adapters."""
    return {name: one.numel() for name, one in parameters.items() if _MAP.fullmatch(name) and one.ndim == 2}


def refuse_without_library() -> None:
    """Raise SetupError if bitsandbytes is not installed."""
    if importlib.util.find_spec(LIBRARY) is None:
        raise SetupError(
            f"quantize_base: nf4 in the hardware profile needs the library {LIBRARY}, which is not installed; install "
            "it, pip install 'tinygptv[nf4]', or write none"
        )


def use_nf4(model: nn.Module, place: str, weight: Tensor) -> None:
    """Replace the linear map `place` of `model` by one of 4 bits: with its bias, and `weight` (out, in) rounded.

    It computes in the type of `weight`. Call `train()` or `eval()` afterwards: without either, the map takes
    its slow path.
    """
    # It warns that kernels for evaluation are not there, which would have to be fetched from the web.
    logging.getLogger(f"{LIBRARY}.backends.cpu.ops").setLevel(logging.ERROR)
    library = import_module(f"{LIBRARY}.nn")
    linear = model.get_submodule(place)
    assert isinstance(linear, nn.Linear)
    settings = {"quant_type": "nf4", "compress_statistics": True}
    quantized = library.Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=weight.dtype, device="meta", **settings
    )
    quantized.bias = linear.bias
    rounded = library.Params4bit(weight, requires_grad=False, module=quantized, **settings)
    quantized.weight = rounded.to(torch.device("cpu"))  # which rounds it
    model.set_submodule(place, quantized)
