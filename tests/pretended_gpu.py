"""A GPU for tests where there is none: real numbers on the host, of which some count as being on the device.

    with PretendedGpu():
        model.to("cuda")

What PyTorch would refuse on a real one is refused: a product of tensors on two devices, a look at the device's memory
as if it were an array. Kernels are the CPU's, so that nothing is said about those of a GPU.
"""

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

HOST, DEVICE = torch.device("cpu"), torch.device("cuda", 0)
aten = torch.ops.aten

_MOVES = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda}
_ACROSS = {aten.copy_.default, aten._to_copy.default}
_INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


class PretendedGpu(TorchFunctionMode):
    """While it is entered, `cuda` is such a device."""

    def __init__(self) -> None:
        super().__init__()
        self._there = weakref.WeakSet[torch.UntypedStorage]()
        self._kernels = _Kernels(self)

    def __enter__(self) -> "PretendedGpu":
        self._kernels.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._kernels.__exit__(*error)

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor counts as being on the device."""
        return tensor.untyped_storage() in self._there

    def take(self, values: Any) -> None:
        """Count the tensors among `values` as being there."""
        for tensor in _tensors(values):
            self._there.add(tensor.untyped_storage())

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._nn._parse_to:
            return func(*args, **kwargs)  # only names a device
        if func == torch.Tensor.device.__get__:
            return DEVICE if self.holds(args[0]) else HOST
        if func is torch.Tensor.numpy and self.holds(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        named = [value for value in (*args, *kwargs.values()) if isinstance(value, (str, torch.device))]
        wanted = next((torch.device(value).type for value in named if str(value).startswith(("cuda", "cpu"))), None)
        wanted = {torch.Tensor.cpu: "cpu", torch.Tensor.cuda: "cuda"}.get(func, wanted)
        args, kwargs = tuple(map(_on_host, args)), {name: _on_host(value) for name, value in kwargs.items()}
        if func in _MOVES and wanted is not None:
            return self._moved(func, wanted == "cuda", args, kwargs)
        result = func(*args, **kwargs)
        if wanted == "cuda":
            self.take(result)
        return result

    def _moved(self, func: Any, there: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        moved = args[0].cpu() if func is torch.Tensor.cuda else func(*args, **kwargs)
        if there != self.holds(args[0]):
            with self._kernels.between_devices():
                moved = moved.clone()
            if there:
                self.take(moved)
        return moved


class _Kernels(TorchDispatchMode):
    """Every kernel gets tensors of one device, and leaves its results there."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self._gpu, self._moving = gpu, False

    @contextlib.contextmanager
    def between_devices(self) -> Iterator[None]:
        """What is made meanwhile is on the host until it is taken."""
        self._moving = True
        yield
        self._moving = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((args, kwargs)))
        there = [self._gpu.holds(tensor) for tensor in given]
        if func in _INDEXING:
            # Indices may lie on the host.
            refused = not there[0] and any(there)
        else:
            wide = {on_gpu for tensor, on_gpu in zip(given, there, strict=True) if tensor.dim()}
            refused = len(wide) > 1 and func not in _ACROSS
        if refused:
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, cpu and cuda:0")
        result = func(*args, **kwargs)
        stays = there[0] if func in _ACROSS else any(there)
        if stays and not self._moving:
            self._gpu.take(result)
        return result


def _on_host(value: Any) -> Any:
    is_device = isinstance(value, torch.device) or (isinstance(value, str) and value.startswith("cuda"))
    return HOST if is_device else value


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
