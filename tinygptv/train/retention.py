"""Which checkpoints of a stage stay, while it trains and after it. Without torch: who only plans asks, too."""

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
    """For each checkpoint the mean loss of the last steps before it (nats), as far as it can be read."""
    return {step: _loss(path / STATE) for step, path in checkpoints_in(folder).items()}


def outstanding(losses: Mapping[int, float | None], keep: Keep) -> set[int]:
    """Of checkpoints by step: every n-th, and those of the least loss; of equals the first."""
    milestones = {step for step in losses if keep.every is not None and step and step % keep.every == 0}
    ranked = sorted((loss, step) for step, loss in losses.items() if loss is not None)
    return milestones | {step for _, step in ranked[: keep.best]}


def remove_passing(folder: Path, keep: Keep, also: int = 0) -> None:
    """Remove the checkpoints that are neither outstanding nor among the last so many, and a folder that holds none."""
    found = checkpoints_in(folder)
    stay = outstanding(losses_in(folder), keep) | set(sorted(found)[len(found) - also :])
    for step in found.keys() - stay:
        shutil.rmtree(found[step])
    if not stay:
        shutil.rmtree(folder, ignore_errors=True)


def most_at_once(stage: Stage) -> int:
    """How many checkpoints of a stage lie on the disk at most, with the one that is being written."""
    steps, keep = total_steps(stage.schedule), stage.keep
    saved = (steps - 1) // stage.checkpoint_every + (stage.watch.then == "roll_back")
    milestones = steps // keep.every if keep.every is not None else 0
    return min(saved, keep.last + keep.best + milestones) + 1


def _loss(state: Path) -> float | None:
    try:
        return json.loads(state.read_text())["loss"]
    except (FileNotFoundError, ValueError, KeyError):
        return None
