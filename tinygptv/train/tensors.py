"""Trained tensors as safetensors, written one after the other, so that none but the current one is in memory.

Checkpoints are such files, and so is `trained.safetensors`, which a stage leaves for the next one.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tinygptv.errors import TrainingError
from tinygptv.models.weights import trained_file
from tinygptv.models.weights.strength import metadata
from tinygptv.train.engine import open_handoff, trained_parameters
from tinygptv.train.holdings import open_holdings, whole_shape
from tinygptv.train.job import Job


def save_trained(job: Job, engine: Any, model: nn.Module, path: Path) -> None:
    """Write all that this stage and earlier ones trained, in 32 bits, tensor by tensor."""
    parameters = trained_parameters(model)
    # Also what no stage of this recipe trains: a published checkpoint may hold a Q-Former.
    handoff = open_handoff(job, model)
    carried = trained_file(handoff.path, job.model, job.lora).tensors if handoff else {}
    carried = {name: stored for name, stored in carried.items() if name not in parameters}
    shapes = {name: whole_shape(parameter) for name, parameter in parameters.items()}
    shapes |= {name: tuple(stored.shape) for name, stored in carried.items()}

    def tensors() -> Iterator[Tensor]:
        holdings = open_holdings(engine)
        for parameter in parameters.values():
            yield holdings.read(parameter, "value").cpu()
        for stored in carried.values():
            yield stored.read()

    if dist.get_rank() == 0:
        partial = path.with_suffix(".partial")
        write_tensors(partial, list(shapes.items()), tensors(), metadata(job.lora))
        partial.rename(path)
    else:
        for _ in tensors():
            pass


def write_tensors(
    path: Path,
    names: list[tuple[str, tuple[int, ...]]],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write float32 tensors as safetensors, streaming one after the other; returns the file's sha256.

    Raises TrainingError if one of them contains NaN or Inf.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in names:
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for data in _chunks(struct.pack("<Q", len(text)) + text, names, tensors):
            stream.write(data)
            digest.update(data)
        stream.flush()
        os.fsync(stream.fileno())
    return digest.hexdigest()


def _chunks(header: bytes, names: list[tuple[str, tuple[int, ...]]], tensors: Iterable[Tensor]) -> Iterator[Any]:
    yield header
    for (name, _), tensor in zip(names, tensors, strict=True):
        if not torch.isfinite(tensor).all():
            raise TrainingError(f"{name} contains NaN or Inf; not saved. The previous checkpoint is kept.")
        yield tensor.float().contiguous().view(-1).numpy()
