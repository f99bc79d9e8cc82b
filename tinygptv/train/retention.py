"""Which checkpoints of a stage are kept, during training and after it. Needs no torch, because plans ask too."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from tinygptv.definitions.recipe import Keep, Stage
from tinygptv.train.schedule import total_steps

STATE = "state.json"
_STEP = re.compile(r"step(\d{6,})")


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """The folders of complete checkpoints, damaged or not, by their step."""
    return {int(match[1]): path for path in folder.glob("step*") if (match := _STEP.fullmatch(path.name))}


def losses_in(folder: Path) -> dict[int, float | None]:
    """The mean loss of the last steps before each checkpoint (nats); None where it cannot be read."""
    return {step: _loss(path / STATE) for step, path in checkpoints_in(folder).items()}


def outstanding(losses: Mapping[int, float | None], keep: Keep) -> set[int]:
    """The checkpoints to keep for good: every n-th, and those with the lowest loss; of equal ones the first."""
    milestones = {step for step in losses if keep.every is not None and step and step % keep.every == 0}
    ranked = sorted((loss, step) for step, loss in losses.items() if loss is not None)
    return milestones | {step for _, step in ranked[: keep.best]}


def remove_passing(folder: Path, keep: Keep, also: int = 0) -> None:
    """Remove the checkpoints that are neither outstanding nor among the last `also`, and the folder if none is left."""
    found = checkpoints_in(folder)
    stay = outstanding(losses_in(folder), keep) | set(sorted(found)[len(found) - also :])
    for step in found.keys() - stay:
        shutil.rmtree(found[step])
    if not stay:
        shutil.rmtree(folder, ignore_errors=True)


def most_at_once(stage: Stage) -> int:
    """The largest number of checkpoints of a stage on the disk at once, including the one being written."""
    steps, keep = total_steps(stage.schedule), stage.keep
    saved = (steps - 1) // stage.checkpoint_every + (stage.watch.then == "roll_back")
    milestones = steps // keep.every if keep.every is not None else 0
    return min(saved, keep.last + keep.best + milestones) + 1


def _loss(state: Path) -> float | None:
    try:
        return json.loads(state.read_text())["loss"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
