"""Checkpoints inside a stage: saved aside, hashed, renamed; found again only if every hash still holds.

    checkpoints/step000100/   DeepSpeed's files, and hashes.json

DeepSpeed's own `latest` file is neither written nor read: when it is missing, DeepSpeed starts from step 0 in silence.
"""

import json
import os
import re
import shutil
from logging import getLogger
from pathlib import Path

import torch.distributed as dist
from deepspeed import DeepSpeedEngine

from tinygptv.artifacts import sha256_of
from tinygptv.errors import HandoffError

logger = getLogger(__name__)

KEPT = 2
_HASHES = "hashes.json"
_PARTIAL = ".partial"
_STEP = re.compile(r"step(\d{6,})")


def save(engine: DeepSpeedEngine, folder: Path, step: int) -> None:
    """Save trained parameters and optimizer state after `step` steps; to be called by every rank."""
    aside = folder / f"{_PARTIAL}-step{step:06d}"
    if dist.get_rank() == 0:
        for leftover in folder.glob(f"{_PARTIAL}-*"):
            shutil.rmtree(leftover)
    dist.barrier()
    engine.save_checkpoint(
        str(folder), tag=aside.name, client_state={"step": step}, save_latest=False, exclude_frozen_parameters=True
    )
    dist.barrier()
    if dist.get_rank() == 0:
        _seal(aside, folder / f"step{step:06d}", _shape(engine))
        for old in sorted(_steps(folder))[:-KEPT]:
            shutil.rmtree(_steps(folder)[old])
    dist.barrier()


def resume(engine: DeepSpeedEngine, folder: Path) -> int:
    """Load the newest checkpoint that verifies and return its step, 0 if there is none; for every rank.

    Raises HandoffError if it was written by another number of ranks or under another ZeRO stage.
    """
    found = newest_valid(folder)
    if found is None:
        return 0
    step, path = found
    written = json.loads((path / _HASHES).read_text())["shape"]
    if written != _shape(engine):
        raise HandoffError(
            f"{path} was written by {written['ranks']} ranks under ZeRO-{written['zero_stage']}, and this run has "
            f"{dist.get_world_size()} under ZeRO-{engine.zero_optimization_stage()}; continue with the same hardware "
            "profile, or remove this folder to train the stage from its beginning"
        )
    loaded, _ = engine.load_checkpoint(str(folder), tag=path.name, load_module_strict=False)
    if loaded is None:
        raise HandoffError(f"{path}: DeepSpeed found nothing to load although its hashes hold; remove this folder")
    return step


def newest_valid(folder: Path) -> tuple[int, Path] | None:
    """The last step whose files are all there and unchanged; damaged checkpoints are skipped with a warning."""
    steps = _steps(folder)
    for step in sorted(steps, reverse=True):
        if problem := _problem(steps[step]):
            logger.warning("%s: %s; it is skipped in favour of the one before", steps[step], problem)
        else:
            return step, steps[step]
    return None


def _seal(aside: Path, final: Path, shape: dict[str, int]) -> None:
    files = {str(f.relative_to(aside)): sha256_of(f) for f in sorted(aside.rglob("*")) if f.is_file()}
    with (aside / _HASHES).open("w") as stream:
        json.dump({"shape": shape, "files": files}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)


def _problem(path: Path) -> str | None:
    hashes = path / _HASHES
    if not hashes.is_file():
        return f"{_HASHES} is missing"
    try:
        files: dict[str, str] = json.loads(hashes.read_text())["files"]
    except (json.JSONDecodeError, KeyError):
        return f"{_HASHES} is damaged"
    for name, expected in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256_of(path / name) != expected:
            return f"{name} is not what was written"
    return None


def _steps(folder: Path) -> dict[int, Path]:
    return {int(match[1]): path for path in folder.glob("step*") if (match := _STEP.fullmatch(path.name))}


def _shape(engine: DeepSpeedEngine) -> dict[str, int]:
    return {"ranks": dist.get_world_size(), "zero_stage": engine.zero_optimization_stage()}
