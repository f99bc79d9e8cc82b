"""Other places that the lines of metrics.jsonl are sent to.

    TINYGPTV_TENSORBOARD=DIR    event files below DIR/<run>/<stage>@<hash>; pip install 'tinygptv[tensorboard]'
    TINYGPTV_WANDB=PROJECT      a run of that project at Weights & Biases; WANDB_MODE=offline and the like apply

metrics.jsonl stays the record. A sink that fails is logged once and dropped; the training continues.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any, Protocol

logger = getLogger(__name__)

TENSORBOARD, WANDB = "TINYGPTV_TENSORBOARD", "TINYGPTV_WANDB"
_INIT_SECONDS = 30
_NO_CURVES = ("step", "round", "batch")


class Sink(Protocol):
    """Takes rows of metrics.jsonl, in the order of their steps."""

    def begin(self, step: int, known: int) -> None:
        """Rows from `step` on come next. Those up to `known` were sent before and are repeated."""

    def write(self, row: Mapping[str, Any]) -> None:
        """One step's row."""

    def close(self) -> None:
        """No more rows follow; flush those that were sent."""


class TensorBoard:
    """Event files in a folder. Steps that are taken again replace what was shown before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def begin(self, step: int, known: int) -> None:
        """See Sink. Raises ModuleNotFoundError if tensorboard is not installed."""
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        self._writer = SummaryWriter(str(self._folder), purge_step=step)

    def write(self, row: Mapping[str, Any]) -> None:
        """See Sink."""
        for name, value in curves(row).items():
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """See Sink."""
        if self._writer is not None:
            self._writer.close()


class Wandb:
    """A run at Weights & Biases, with the same id however often it is interrupted. It cannot take steps back, so those
    it has are not sent again; their values are the same."""

    def __init__(self, project: str, name: str) -> None:
        self._project, self._name = project, name
        self._run: Any = None
        self._known = 0

    def begin(self, step: int, known: int) -> None:
        """See Sink."""
        import wandb

        self._known = known
        if self._run is None:
            self._run = wandb.init(
                project=self._project,
                name=self._name,
                id=hashlib.sha256(self._name.encode()).hexdigest()[:16],
                resume="allow",
                settings=wandb.Settings(init_timeout=_INIT_SECONDS, console="off"),
            )

    def write(self, row: Mapping[str, Any]) -> None:
        """See Sink."""
        if row["step"] > self._known:
            self._run.log(curves(row), step=row["step"])

    def close(self) -> None:
        """See Sink."""
        if self._run is not None:
            self._run.finish()


class Sinks:
    """Several sinks as one. A sink that fails gets no more rows."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks

    def begin(self, step: int, known: int) -> None:
        """See Sink."""
        self._each(lambda sink: sink.begin(step, known))

    def write(self, row: Mapping[str, Any]) -> None:
        """See Sink."""
        self._each(lambda sink: sink.write(row))

    def close(self) -> None:
        """See Sink."""
        self._each(lambda sink: sink.close())

    def _each(self, act: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                act(sink)
            except Exception as error:  # no failure of a sink may stop a training
                self._sinks.remove(sink)
                logger.warning("%s gets no more metrics: %s", type(sink).__name__, error)


def open_sinks(folder: Path) -> Sinks:
    """The sinks that the environment asks for, for the training in `folder`: `…/<run>/<stage>@<hash>`."""
    run, stage = folder.absolute().parts[-2:]
    sinks: list[Sink] = []
    if place := os.environ.get(TENSORBOARD):
        sinks.append(TensorBoard(Path(place) / run / stage))
    if project := os.environ.get(WANDB):
        sinks.append(Wandb(project, f"{run}/{stage}"))
    return Sinks(sinks)


def curves(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row, those by source and by part as `losses/<source>` and `loss_parts/<part>`; what was not
    measured is left out."""
    numbers = {name: value for name, value in row.items() if name not in _NO_CURVES and isinstance(value, int | float)}
    groups = {group: row.get(group, {}) for group in ("losses", "loss_parts")}
    return numbers | {f"{group}/{name}": loss for group, losses in groups.items() for name, loss in losses.items()}
