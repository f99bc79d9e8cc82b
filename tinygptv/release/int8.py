"""Linear layers with int8 weights and one scale per output row; activations are not quantized.

Weights are converted to the activations' type on use. torch's packed kernel (`_weight_int8pack_mm`) avoids that, but
has no fast path for fp32: on the CPU it is 2 to 60 times slower than this (torch 2.13).
"""

from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

PARTS = {
    "vision_encoder": "vision_encoder.",
    "connector": "connector.",
    "language_model": "language_model.model.",
    "head": "language_model.lm_head",
}
"""Name prefix of linear layers, by part in a recipe's `quantize.skip`."""

_INT8_MAX = 127


class Int8Linear(nn.Module):
    """(…, in) -> (…, out), with `weight` int8 (out, in) and `scale` (out,) instead of a float weight."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        # Created on the meta device; memory is allocated when weights are loaded.
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8, device="meta"))
        self.register_buffer("scale", torch.empty(out_features, device="meta"))
        self.register_buffer("bias", torch.empty(out_features, device="meta") if bias else None)

    def forward(self, states: Tensor) -> Tensor:
        """Scale after the product: one multiplication per output instead of one per weight."""
        product = nn.functional.linear(states, self.weight.to(states.dtype)) * self.scale.to(states.dtype)
        return product if self.bias is None else product + self.bias


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) -> int8 (out, in) and float scale (out,). The maximum of each row maps to ±127; zeros stay zero."""
    scale = weight.abs().amax(dim=1) / _INT8_MAX
    quantized = torch.round(weight / scale.clamp(min=torch.finfo(weight.dtype).tiny)[:, None])
    return quantized.to(torch.int8), scale


def use_int8(model: nn.Module, names: Iterable[str]) -> None:
    """Replace the named linear layers of `model` by int8 layers without weights."""
    for name in names:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        model.set_submodule(name, Int8Linear(linear.in_features, linear.out_features, linear.bias is not None))


def linears_outside(skip: Iterable[str], model: nn.Module) -> list[str]:
    """Names of the model's linear layers that are in none of the parts in `skip`, in the model's order."""
    skipped = tuple(PARTS[part] for part in skip)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linears if not name.startswith(skipped)]


def quantized_tensors(folder: Path, linears: Collection[str]) -> dict[str, Tensor]:
    """Load a release folder, quantizing the weights of `linears`. Holds one float weight of them at a time."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as stored:
            names = stored.keys()
            for name in names:
                owner, _, kind = name.rpartition(".")
                if owner in linears and kind == "weight":
                    tensors[name], tensors[f"{owner}.scale"] = quantize_rows(stored.get_tensor(name))
                else:
                    tensors[name] = stored.get_tensor(name)
    return tensors
