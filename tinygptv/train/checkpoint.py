"""Checkpoints inside a stage: written under another name, hashed, renamed; used only if every hash still matches.

    checkpoints/step000100/   tensors.safetensors   value, exp_avg and exp_avg_sq of every trained parameter, 32 bits
                              state.json            step, loss, lineage, optimizer state that is no tensor
                              hashes.json           of the other two

They hold whole tensors under the model's own names, independent of ranks, ZeRO stage and offload, so that any hardware
profile can resume from any other's. DeepSpeed's own files cannot, and if its `latest` file is missing, DeepSpeed
silently starts from step 0.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from safetensors import safe_open
from torch import Tensor, nn

from tinygptv.definitions.recipe import Keep, Stage
from tinygptv.errors import HandoffError, StorageError
from tinygptv.models.weights.files import refuse_not_finite
from tinygptv.store.artifacts import sha256_of, storage_errors
from tinygptv.train.holdings import (
    PARTS,
    loss_scale,
    open_holdings,
    set_loss_scale,
    set_steps_taken,
    steps_taken,
    whole_shape,
)
from tinygptv.train.lineage import differences
from tinygptv.train.retention import STATE, checkpoints_in, most_at_once, remove_passing
from tinygptv.train.tensors import write_tensors

logger = getLogger(__name__)

SNAPSHOT_BYTES = 4 * 2**30
"""Larger checkpoints are written tensor by tensor; smaller ones are copied and written while training continues."""
TENSORS, HASHES = "tensors.safetensors", "hashes.json"
_PARTIAL = ".partial"


class Checkpoints:
    """The checkpoints of one stage in one folder. Its methods are collective: every rank calls them together.

    `parameters` are the trained ones under their plain names, `lineage` is what a checkpoint must share with this
    training. The stage says how many are kept.
    """

    def __init__(
        self,
        engine: DeepSpeedEngine,
        parameters: Mapping[str, nn.Parameter],
        folder: Path,
        lineage: dict[str, Any],
        stage: Stage,
    ) -> None:
        self._engine, self._parameters = engine, parameters
        self._folder, self._lineage, self._stage = folder, lineage, stage
        self._shapes = {name: whole_shape(parameter) for name, parameter in parameters.items()}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: Future[None] | None = None

    def save(self, step: int, loss: float | None) -> None:
        """Save the state after `step` steps, in the background if it is small. `loss`: mean of the last steps.

        Raises StorageError if the disk cannot hold it, TrainingError if a trained value is NaN or Inf.
        """
        self.wait()
        state = {
            "step": step,
            "loss": loss,
            "lineage": self._lineage,
            "optimizer_steps": steps_taken(self._engine),
            "loss_scale": loss_scale(self._engine),
        }
        if dist.get_rank() != 0:
            for _ in self._read():
                pass
            return
        refuse_full_disk(self._folder, self._bytes())
        if self._bytes() <= SNAPSHOT_BYTES:
            self._written = self._writer.submit(self._write, step, state, list(self._read()))
        else:
            self._write(step, state, self._read())

    def check(self) -> None:
        """Raise the error of a checkpoint written in the background, if there was one."""
        if self._written is not None and self._written.done():
            self.wait()

    def wait(self) -> None:
        """Return when the last checkpoint is on disk; raise its error if it failed."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def resume(self) -> int:
        """Load the newest checkpoint that verifies and return its step, 0 if there is none.

        Raises HandoffError if it belongs to another training, StorageError if the disk cannot hold the next ones.
        """
        self.wait()
        found = None
        if dist.get_rank() == 0:
            to_come = most_at_once(self._stage) - len(checkpoints_in(self._folder))
            refuse_full_disk(self._folder, to_come * self._bytes())
            found = newest_valid(self._folder)
        step = torch.tensor(found[0] if found else 0, device=self._engine.device)
        dist.broadcast(step, 0)
        if not step:
            return 0
        path = self._folder / f"step{int(step):06d}"
        state = json.loads((path / STATE).read_text())
        self._check_lineage(path, state["lineage"])
        holdings = open_holdings(self._engine)
        with safe_open(path / TENSORS, "pt") as tensors:
            self._check_names(path, set(tensors.keys()))
            for name, parameter in self._parameters.items():
                for part in PARTS:
                    tensor = tensors.get_tensor(f"{part}/{name}")
                    refuse_not_finite(path / TENSORS, f"{part}/{name}", tensor)
                    holdings.write(parameter, part, tensor.to(self._engine.device))
        set_steps_taken(self._engine, state["optimizer_steps"])
        set_loss_scale(self._engine, state["loss_scale"])
        return int(step)

    def _write(self, step: int, state: dict[str, Any], tensors: Iterable[Tensor]) -> None:
        write_checkpoint(self._folder, step, state, self._names(), tensors, self._stage.keep)

    def _read(self) -> Iterator[Tensor]:
        """Every tensor in the order of `_names`, a copy on the host; collective."""
        holdings = open_holdings(self._engine)
        for parameter in self._parameters.values():
            for part in PARTS:
                whole = holdings.read(parameter, part)
                yield whole.cpu() if dist.get_rank() == 0 else whole.new_empty(0)

    def _names(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(f"{part}/{name}", shape) for name, shape in self._shapes.items() for part in PARTS]

    def _bytes(self) -> int:
        return sum(4 * math.prod(shape) for _, shape in self._names()) + 2**20

    def _check_lineage(self, path: Path, lineage: dict[str, Any]) -> None:
        if changes := differences(lineage, self._lineage):
            raise HandoffError(
                f"{path} belongs to another training: {'; '.join(changes)}. Undo these changes to resume, or "
                f"remove {path.parent} to train the stage from the beginning"
            )

    def _check_names(self, path: Path, found: set[str]) -> None:
        wanted = {name for name, _ in self._names()}
        if found != wanted:
            missing, extra = (", ".join(sorted(names)[:3]) or "nothing" for names in (wanted - found, found - wanted))
            raise HandoffError(
                f"{path} belongs to another training: {missing} missing, {extra} left over. Remove {path.parent} "
                "to train the stage from the beginning"
            )


def newest_valid(folder: Path) -> tuple[int, Path] | None:
    """The newest step whose files are complete and unchanged; damaged checkpoints are skipped with a warning."""
    steps = checkpoints_in(folder)
    for step in sorted(steps, reverse=True):
        if problem := _problem(steps[step]):
            logger.warning("%s: %s; skipped, the one before it is tried", steps[step], problem)
        else:
            return step, steps[step]
    if steps:
        logger.warning("%s: no usable checkpoint is left; the stage starts from the beginning", folder)
    return None


def write_checkpoint(
    folder: Path,
    step: int,
    state: dict[str, Any],
    names: list[tuple[str, tuple[int, ...]]],
    tensors: Iterable[Tensor],
    keep: Keep,
) -> None:
    """Write one checkpoint atomically, and remove those that are not kept.

    Raises StorageError if the disk is full, TrainingError if a value is NaN or Inf.
    """
    with storage_errors(folder):
        for leftover in folder.glob(f"{_PARTIAL}-*"):
            shutil.rmtree(leftover)
        aside, final = (folder / f"{prefix}step{step:06d}" for prefix in (f"{_PARTIAL}-", ""))
        aside.mkdir(parents=True)
        try:
            hashes = {
                TENSORS: write_tensors(aside / TENSORS, names, tensors),
                STATE: _write_synced(aside / STATE, json.dumps(state).encode()),
            }
            _write_synced(aside / HASHES, json.dumps(hashes).encode())
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        remove_passing(folder, keep, also=keep.last)
        _sync_folder(folder)


def refuse_full_disk(folder: Path, needed: int) -> None:
    """Raise StorageError unless `needed` bytes are free."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"{folder}: checkpoints need {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; free some space, then "
            "start the same command again: it resumes from the last good checkpoint"
        )


def _write_synced(path: Path, content: bytes) -> str:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return hashlib.sha256(content).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _problem(path: Path) -> str | None:
    try:
        hashes: dict[str, str] = json.loads((path / HASHES).read_text())
    except FileNotFoundError:
        return f"{HASHES} is missing"
    except ValueError:
        return f"{HASHES} is damaged"
    for name in (TENSORS, STATE):
        if not (path / name).is_file():
            return f"{name} is missing"
        if hashes.get(name) != sha256_of(path / name):
            return f"{name} has changed since it was written"
    return None
