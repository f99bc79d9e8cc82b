"""The decoder's linear maps in 4 bits beside which adapters learn: NF4 of QLoRA (arXiv 2305.14314), by bitsandbytes.

A weight becomes the nearest of 16 levels, in units of the largest among 64 neighbours; these units are rounded to 8
bits in their turn. A product restores its map for as long as it lasts, once forward and once backward. Norms, adapters,
projections, embeddings, the head and all biases stay as they are, and the maps cannot learn.
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
"""A level, its share in a unit, and in the unit of 256 units."""

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
    """Put a map of 4 bits in the place of the linear map `place` of `model`: its bias, and `weight` (out, in) rounded.

    It computes in the type of `weight`. Call `train()` or `eval()` afterwards: a map that is not told it is evaluated
    takes the slow way.
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
