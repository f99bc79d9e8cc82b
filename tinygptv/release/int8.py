"""Linear maps with int8 weights: one scale per output row, activations untouched.

The weight is widened as it is used. torch's packed kernel (`_weight_int8pack_mm`) does the same product without
widening, but in fp32 it has no fast path: 2 to 60 times slower on the CPU than this, measured with torch 2.13.
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
"""How the names of linear maps begin, by the part of a recipe's `quantize.skip` they belong to."""

_LARGEST = 127


class Int8Linear(nn.Module):
    """(…, in) -> (…, out), with `weight` int8 (out, in) and `scale` (out,) instead of a float weight."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        # Buffers made on the meta device: their memory comes with the file.
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8, device="meta"))
        self.register_buffer("scale", torch.empty(out_features, device="meta"))
        self.register_buffer("bias", torch.empty(out_features, device="meta") if bias else None)

    def forward(self, states: Tensor) -> Tensor:
        """The product with the restored weight, scaled after the product: one multiplication per output."""
        product = nn.functional.linear(states, self.weight.to(states.dtype)) * self.scale.to(states.dtype)
        return product if self.bias is None else product + self.bias


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) -> int8 (out, in) and float scale (out,), the largest of each row at ±127; a row of zeros stays one."""
    scale = weight.abs().amax(dim=1) / _LARGEST
    quantized = torch.round(weight / scale.clamp(min=torch.finfo(weight.dtype).tiny)[:, None])
    return quantized.to(torch.int8), scale


def use_int8(model: nn.Module, names: Iterable[str]) -> None:
    """Replace the named linear maps of `model` by int8 ones that wait for their tensors."""
    for name in names:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        model.set_submodule(name, Int8Linear(linear.in_features, linear.out_features, linear.bias is not None))


def linears_outside(skip: Iterable[str], model: nn.Module) -> list[str]:
    """Names of the model's linear maps that are in none of the parts `skip`, in the model's order."""
    skipped = tuple(PARTS[part] for part in skip)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linears if not name.startswith(skipped)]


def quantized_tensors(folder: Path, linears: Collection[str]) -> dict[str, Tensor]:
    """A release folder's tensors, the weights of `linears` as int8 `weight` and `scale`; one float tensor at a time."""
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
