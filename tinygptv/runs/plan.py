"""What a run would do next: which artifacts it would reuse, resume and make."""

from dataclasses import dataclass
from typing import Any, Literal

from tinygptv.errors import GateError
from tinygptv.journey import Arrow, Journey
from tinygptv.store.artifacts import Manifest, Store
from tinygptv.store.reading import ReadingStore


@dataclass(frozen=True)
class Planned:
    """What would happen to one arrow: reuse, resume, run or, at a gate, stop; `why` says what that rests on."""

    arrow: Arrow
    artifact: str
    action: Literal["reuse", "resume", "run", "stop"]
    why: str


def plan(journey: Journey) -> list[Planned]:
    """What `train_all` would do, in order, without doing any of it.

    The same functions are asked, on a store that makes nothing: what they would make is what a run would make. Where a
    gate would stop it, the plan ends.
    """
    absent: list[str] = []

    def missing(artifact: str, definition: dict[str, Any], parents: list[str]) -> Manifest:
        absent.append(artifact)
        return _placeholder(artifact, definition, parents)

    planner = Journey(ReadingStore(journey.store.workdir, missing), journey.run, journey.name)
    planned = []
    for arrow in planner.arrows():
        try:
            manifest = planner.make(arrow)
        except GateError as error:
            planned.append(Planned(arrow, "", "stop", str(error)))
            break
        if manifest.artifact in absent:
            planned.append(_planned_work(journey.store, arrow, manifest.artifact))
        else:
            why = f"{_version(journey.store, manifest)}complete since {manifest.created}"
            planned.append(Planned(arrow, manifest.artifact, "reuse", why))
    return planned


def _version(store: Store, manifest: Manifest) -> str:
    from tinygptv.data.versions.versions import number_of

    number = number_of(store, manifest.artifact) if manifest.made_by in ("download", "filter") else None
    return f"version {number}, " if number else ""


def _planned_work(store: Store, arrow: Arrow, artifact: str) -> Planned:
    if (draft := store.draft(artifact)).is_dir():
        steps = [int(path.name.removeprefix("step")) for path in draft.glob("checkpoints/step*")]
        return Planned(arrow, artifact, "resume", f"from step {max(steps)}" if steps else "an attempt was interrupted")
    if older := store.names(artifact.rpartition("@")[0] + "@"):
        return Planned(arrow, artifact, "run", f"its definition or inputs changed since {older[-1]}")
    return Planned(arrow, artifact, "run", "not made yet")


def _placeholder(artifact: str, definition: dict[str, Any], parents: list[str]) -> Manifest:
    """The manifest of something that is not there: a name for the arrows after it to build on."""
    return Manifest(
        artifact=artifact,
        made_by="plan",
        definition=definition,
        parents=parents,
        rows_in=0,
        rows_out=0,
        drops={},
        details={},
        files={},
        seconds=0,
        created="",
    )
