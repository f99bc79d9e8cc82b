"""Who saw a sample: the versions and mixtures that hold it, the stages that drew it, and what was made from those.

Drawing is a pure function, so nothing had to be recorded to know exactly, except how many tombstones the ranks knew at
each step: `metrics.jsonl` says that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tinygptv.data.forget.forget import masked_rows, matches
from tinygptv.data.forget.tombstones import Tombstone
from tinygptv.data.mixtures.mixing import SAMPLES, MixedSamples, root_place
from tinygptv.data.mixtures.sampling_order import order_seed
from tinygptv.data.versions.versions import number_of
from tinygptv.store.artifacts import Manifest, Store, sha256_of
from tinygptv.train.job import CHECKPOINTS, JOB, METRICS, Job, read_metrics


@dataclass(frozen=True)
class Holder:
    """A raw or filtered artifact or a mixture with samples that are named; `version` if it was published."""

    artifact: str
    samples: int
    version: int | None = None

    def __str__(self) -> str:
        version = f" (version {self.version})" if self.version else ""
        return f"{self.artifact}{version}: holds {self.samples}"


@dataclass(frozen=True)
class Exposure:
    """A stage that was shown named samples, or something made from one (`through` names the stage).

    `samples` are distinct ones, `times` how often they were shown, from step `first_step` (from 1) on, within `steps`
    steps. `checkpoints` are those of an unfinished stage that were written after it.
    """

    artifact: str
    samples: int = 0
    times: int = 0
    first_step: int = 0
    steps: int = 0
    through: str | None = None
    unfinished: bool = False
    checkpoints: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.through:
            return f"{self.artifact}: made from {self.through}"
        seen = (
            f"{self.artifact}: saw {self.samples}, {self.times} times in {self.steps} steps, first in {self.first_step}"
        )
        if not self.unfinished:
            return seen
        kept = f"; in its checkpoints {', '.join(self.checkpoints)}" if self.checkpoints else ""
        return f"{seen}; unfinished{kept}; ranks that run now go on until they are started again"


@dataclass(frozen=True)
class Traces:
    """Everything in a workdir that holds or saw named samples."""

    holders: list[Holder]
    exposures: list[Exposure]
    elsewhere: list[str] = field(default_factory=list)


def traces(store: Store, wanted: Sequence[Tombstone]) -> Traces:
    """Where samples that tombstones name lie, and what has learned from them.

    A finished stage is judged exactly, an unfinished one by the steps it has recorded here so far. What another machine
    has begun below the same S3 address can only be named.
    """
    holders = []
    for artifact in [*store.names("raw/"), *store.names("filtered/")]:
        if found := len(matches(store, artifact, wanted)):
            holders.append(Holder(artifact, found, number_of(store, artifact)))
    masks = {}
    for mixture in store.names("mixtures/"):
        named = masked_rows(store, mixture, store.file(mixture, SAMPLES), wanted)
        if named.any():
            masks[mixture] = named
            holders.append(Holder(mixture, int(named.sum())))
    made = [manifest for name in store.names("runs/*/") if (manifest := store.find(name))]
    seen = [*_finished(store, made, masks), *_unfinished(store, masks)]
    descendants = list(_descendants(made, [one.artifact for one in seen]))
    elsewhere = list(_elsewhere(store)) if masks else []
    return Traces(holders, [*seen, *descendants], elsewhere)


def _elsewhere(store: Store) -> Iterator[str]:
    """Unfinished artifacts of runs that other machines have begun, each with what can be said of it."""
    for artifact, machine in store.begun_elsewhere("runs/").items():
        yield f"{artifact}: unfinished on {machine}; what it saw is known there alone: ask again from that machine"


def annotated_copies(store: Store, digest: str) -> list[str]:
    """Where those annotated images of the workdir's mixtures lie that have this SHA-256, as `root/path`.

    Every image is read once, which no reader of a mixture can be asked to do.
    """
    places: set[tuple[str, str]] = set()
    for mixture in store.names("mixtures/"):
        images = pq.read_table(store.file(mixture, SAMPLES), columns=["images"])["images"].combine_chunks().flatten()
        named = pa.table({field: images.field(field) for field in ("root", "path")}).group_by(["root", "path"])
        places |= {(row["root"], row["path"]) for row in named.aggregate([]).to_pylist()}
    annotated = sorted(place for place in places if not place[0].startswith("filtered/"))
    return [f"{root}/{path}" for root, path in annotated if _has_content(Path(root_place(store, root)) / path, digest)]


def _has_content(image: Path, digest: str) -> bool:
    return image.is_file() and sha256_of(image) == digest


def _finished(store: Store, made: list[Manifest], masks: dict[str, NDArray[np.bool_]]) -> Iterator[Exposure]:
    for manifest in made:
        if "stage" in manifest.definition and manifest.parents[0] in masks:
            stage, seed = manifest.definition["stage"], manifest.definition["seed"]
            usable = manifest.details.get("usable")
            drawn = _Drawn(store, manifest.parents[0], stage["stage"], stage["global_batch_size"], seed, usable)
            rows = read_metrics(store.file(manifest.artifact, METRICS))
            if found := drawn.exposure(manifest.artifact, rows, masks[manifest.parents[0]]):
                yield found


def _unfinished(store: Store, masks: dict[str, NDArray[np.bool_]]) -> Iterator[Exposure]:
    for path in sorted(store.draft("runs").glob(f"*/*/{JOB}")):
        job = Job.model_validate_json(path.read_text())
        if job.mixture not in masks:
            continue
        drawn = _Drawn(store, job.mixture, job.stage.stage, job.stage.global_batch_size, job.seed, job.usable)
        rows, artifact = read_metrics(path.with_name(METRICS)), str(path.parent.relative_to(store.draft("")))
        if found := drawn.exposure(artifact, rows, masks[job.mixture]):
            after = (folder.name for folder in sorted((path.parent / CHECKPOINTS).glob("step*")))
            kept = tuple(name for name in after if int(name.removeprefix("step")) >= found.first_step)
            yield Exposure(**(vars(found) | {"unfinished": True, "checkpoints": kept}))


def _descendants(made: list[Manifest], seen: list[str]) -> Iterator[Exposure]:
    """Later stages, exports and their quantized forms, each after what it was made from; not scores and reports."""
    known = set(seen)
    for source in seen:
        waiting = [source]
        for parent in waiting:
            for manifest in made:
                is_model = "stage" in manifest.definition or manifest.made_by in ("export", "quantize")
                if is_model and parent in manifest.parents and manifest.artifact not in known:
                    known.add(manifest.artifact)
                    waiting.append(manifest.artifact)
                    yield Exposure(manifest.artifact, through=source)


class _Drawn:
    """What a stage drew from a mixture."""

    def __init__(self, store: Store, mixture: str, stage: str, batch: int, seed: int, usable: str | None) -> None:
        self._store, self._mixture, self._usable = store, mixture, usable
        self._seed, self._batch = order_seed(seed, stage), batch

    def exposure(self, artifact: str, rows: list[dict[str, Any]], named: NDArray[np.bool_]) -> Exposure | None:
        """How the steps of these metrics showed the named rows of the mixture; None if they did not."""
        wanted, first = np.flatnonzero(named), None
        times = np.zeros(len(wanted), dtype=np.int64)
        for steps, skipped, mixed in self._parts(rows):
            drawn = range(steps.start + skipped, steps.stop + skipped)
            for plan in mixed.order(self._seed, self._batch).plans(drawn):
                shown = mixed.rows(plan)
                hits = np.flatnonzero(named[shown])
                np.add.at(times, np.searchsorted(wanted, shown[hits]), 1)
                if first is None and len(hits):
                    first = plan.steps[int(np.searchsorted(plan.starts, hits[0], side="right")) - 1] - skipped
        if first is None:
            return None
        return Exposure(artifact, int((times > 0).sum()), int(times.sum()), first + 1, len(rows))

    def _parts(self, rows: list[dict[str, Any]]) -> Iterator[tuple[range, int, MixedSamples]]:
        """Runs of steps whose ranks knew the same tombstones and drew batch after batch; the batches left out before
        them, by roll-backs; and the mixture as those ranks saw it."""
        begin = 0
        told = ((row.get("tombstones", 0), row.get("batch", step + 1) - step - 1) for step, row in enumerate(rows))
        for (known, skipped), group in groupby(told):
            end = begin + len(list(group))
            yield range(begin, end), skipped, MixedSamples(self._store, self._mixture, known, self._usable)
            begin = end
