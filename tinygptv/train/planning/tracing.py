"""One forward and backward pass on fake tensors: the memory it would need, and the operations it would compute.

The traced model is the one that is trained, so a plan cannot drift from it. Weights and activations are fake: they have
a shape, a type and a device, but no data. Token ids, mask and labels are real, because the number of labels decides the
size of what follows.
"""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from tinygptv.train.objective import summed

aten = torch.ops.aten


@dataclass(frozen=True)
class Trace:
    """What a pass allocates in addition to the weights, in bytes, and the floating-point operations of its products.

    `kept`: what the backward pass needs, alive when the forward pass ends; `peak`: the most that is alive at any time,
    `gradients` of which are parameters' gradients. A multiply-add counts as two operations.
    """

    kept: int
    peak: int
    gradients: int
    forward_flops: int
    backward_flops: int


def trace(model: nn.Module, dtype: torch.dtype, pixels: Sequence[int], texts: Sequence[Tensor]) -> Trace:
    """Run `model(pixel_values, *texts)`, which returns the parts of a loss, and the backward pass of their sum.

    `model` is an objective's Learner, set up for training, and may be on the `meta` device; it is left with fake
    parameters of type `dtype`. `pixels` is a shape, `texts` are real tensors.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        _fake(model, dtype)
        meter = _Meter(tensor.untyped_storage() for tensor in [*model.parameters(), *model.buffers()])
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(meter.count_gradient)
        with meter:
            pixel_values = torch.empty(*pixels, dtype=dtype)
            losses = model(pixel_values, *texts)
            loss = summed({part: mean for part, (mean, _) in losses.items()})
            kept, forward_flops = meter.alive, meter.flops
            loss.backward()
    del losses
    return Trace(kept, meter.peak, meter.gradients_at_peak, forward_flops, meter.flops - forward_flops)


class _Meter(TorchDispatchMode):
    """Counts the bytes of live storages and the operations of every product; real tensors are computed normally.

    Storages in `before` are not counted.
    """

    def __init__(self, before: Iterable[torch.UntypedStorage]) -> None:
        super().__init__()
        self.alive = self.peak = self.flops = 0
        self.gradients_at_peak = self._gradients = 0
        self._seen = weakref.WeakSet(before)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        tensors = _tensors((*args, *kwargs.values()))
        # Positions are real as well: the library inspects them to find out that it needs no mask.
        known = bool(tensors) or func._overloadpacket is aten.arange
        if known and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is aten.index.Tensor:
            args = (args[0], _positions(args[1]))
        result = func(*args, **kwargs)
        if count := FLOPS.get(func._overloadpacket):
            self.flops += count(*args, **kwargs, out_val=result)
        for tensor in _tensors((result,)):
            if isinstance(tensor, FakeTensor):
                self._follow(tensor.untyped_storage())
        return result

    def count_gradient(self, parameter: Tensor) -> None:
        """Called when the gradient of `parameter` is complete."""
        self._gradients += parameter.numel() * parameter.element_size()

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:
            self._seen.add(storage)
            self.alive += storage.nbytes()
            if self.alive > self.peak:
                self.peak, self.gradients_at_peak = self.alive, self._gradients
            weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, size: int) -> None:
        self.alive -= size


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among `values` and in the lists among them; kernels nest no deeper."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [item for item in value if isinstance(item, Tensor)]
    return found


def _positions(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Real boolean masks as the positions they select, so that the number of selected rows is known."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is None or isinstance(index, FakeTensor) or index.dtype != torch.bool:
            found.append(index)
        else:
            with unset_fake_temporarily():
                found += index.nonzero(as_tuple=True)
    return found


def _fake(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace every parameter and buffer by a fake one on the CPU; buffers keep their type, as in DeepSpeed."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = nn.Parameter(torch.empty(parameter.shape, dtype=dtype), parameter.requires_grad)
            setattr(module, name, empty)
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


FLOPS: dict[Any, Callable[..., int]] = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Operations of every product, by kernel; torch itself does not count attention on the CPU."""
