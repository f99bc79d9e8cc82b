"""A mixture's components → one table of samples, every record left out counted by reason; and that table read back.

An image is referred to by the artifact or definition it lies in and a path below, so that a mixture stays valid when a
workdir moves, and on S3. The order in which training draws is `drawing.py`'s.
"""

import functools
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tinygptv import catalog
from tinygptv.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.data.annotations import TASKS, Annotations, read_annotations
from tinygptv.data.drawing import declared_shares
from tinygptv.data.shapes.files import corpus_folder, draw_corpus
from tinygptv.definitions.mixture import RUN_SOURCE, Component, Mixture, Task
from tinygptv.definitions.source import AnnotationsSource
from tinygptv.errors import DataError, DefinitionError
from tinygptv.locations import local_path
from tinygptv.sample import ImageReference, Sample, Turn

log = logging.getLogger(__name__)

SAMPLES, SUMMARY = "samples.parquet", "mixture.json"
PAIR_TASKS: tuple[Task, ...] = ("caption_only", "describe", "caption")

_TURNS = pa.list_(pa.struct([("instruction", pa.string()), ("answer", pa.string())]))
_SCHEMA = pa.schema(
    [
        ("component", pa.int16()),
        ("key", pa.string()),
        ("root", pa.string()),  # an artifact's name or a definition's location: where `path` starts; null: no image
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("turns", _TURNS),
        ("source", pa.string()),
        ("group", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("box", pa.list_(pa.float64())),
    ]
)


# Making a mixture


@dataclass
class _Part:
    """One component's rows, before they are written."""

    rows: list[dict[str, Any]]
    rows_in: int
    drops: Counter[str]


def mix(store: Store, mixture_name: str, pairs: Manifest | None) -> Manifest:
    """Gather all samples of a mixture; `pairs` is the filtered artifact of the run's source, if it uses one.

    Raises DefinitionError for a component that cannot be asked its task or has no pairs, DataError for an empty one.
    """
    mixture = catalog.mixture(mixture_name)
    sources = {c.source: _annotations_source(mixture_name, c, pairs) for c in mixture.components}
    described = {name: source.model_dump() for name, source in sources.items() if source}
    definition = {"mixture": mixture.model_dump(), "sources": described}
    parents = [pairs.artifact] if pairs and RUN_SOURCE in sources else []
    if any("embedded:" in source.images for source in sources.values() if source):
        parents.append(draw_corpus(store).artifact)

    def build(folder: Path) -> Outcome:
        read = functools.cache(lambda name: read_annotations(store, name, sources[name]))
        parts = []
        for place, component in enumerate(mixture.components):
            part = _pairs(store, pairs) if component.source == RUN_SOURCE else _annotated(read, sources, component)
            _limit(part, component.max_samples)
            if not part.rows:
                raise DataError(
                    f"datasets/mixtures/{mixture_name}.yaml, components[{place}]: {component.source} has no usable "
                    f"sample left of {part.rows_in} (dropped: {dict(part.drops) or 'none'})"
                )
            log.info("mix %s: %s %s: %d samples", mixture_name, component.source, component.task, len(part.rows))
            parts.append(part)
        return _write(folder, mixture, parts)

    return store.make(artifact_name(f"mixtures/{mixture_name}", definition, parents), "mix", definition, parents, build)


def _annotations_source(mixture_name: str, component: Component, pairs: Manifest | None) -> AnnotationsSource | None:
    where = f"datasets/mixtures/{mixture_name}.yaml, source {component.source}"
    if component.source == RUN_SOURCE:
        if pairs is None:
            raise DefinitionError(f"{where}: this mixture needs the filtered pairs of a run; give one")
        source, allowed = None, PAIR_TASKS
    else:
        source = catalog.source(component.source)
        if not isinstance(source, AnnotationsSource):
            raise DefinitionError(f"{where}: holds URL pairs; only the run's own ({RUN_SOURCE}) are curated and mixed")
        allowed = TASKS[source.format]
    if component.task not in allowed:
        raise DefinitionError(f"{where}: cannot be asked '{component.task}'; choose one of {', '.join(allowed)}")
    return source


def _pairs(store: Store, pairs: Manifest | None) -> _Part:
    if pairs is None:
        raise AssertionError("checked with the definition")
    columns = ["key", "caption", "shard", "offset", "length"]
    sidecar = pq.read_table(store.folder(pairs.artifact) / "sidecar.parquet", columns=columns)
    rows = [
        {
            "key": row["key"],
            "root": pairs.artifact,
            "path": row["shard"],
            "offset": row["offset"],
            "length": row["length"],
            "turns": [{"instruction": "", "answer": row["caption"]}],
            "source": RUN_SOURCE,
            "group": "",
            "answers": [],
            "box": None,
        }
        for row in sidecar.to_pylist()
    ]
    return _Part(rows, len(rows), Counter())


def _annotated(read: Any, sources: dict[str, AnnotationsSource | None], component: Component) -> _Part:
    found: Annotations = read(component.source)
    source = sources[component.source]
    if source is None:
        raise AssertionError("only the run's own pairs have no definition here")
    rows = [_row(sample, source.images, found.images) for sample in found.samples]
    return _Part(rows, found.rows_in, Counter(found.drops))


def _row(sample: Sample, root: str, images: Path) -> dict[str, Any]:
    image = sample.image
    return {
        "key": sample.key,
        "root": root if image else None,
        "path": str(Path(image.path).relative_to(images)) if image else None,
        "offset": image.offset if image else 0,
        "length": image.length if image else 0,
        "turns": [asdict(turn) for turn in sample.turns],
        "source": sample.source,
        "group": sample.group,
        "answers": list(sample.answers),
        "box": list(sample.box) if sample.box else None,
    }


def _limit(part: _Part, most: int | None) -> None:
    """Keep `most` rows: those whose keys hash lowest, which is a sample that does not depend on the file's order."""
    if most is not None and len(part.rows) > most:
        part.drops["over_max_samples"] = len(part.rows) - most
        part.rows = sorted(part.rows, key=lambda row: hashlib.sha256(row["key"].encode()).digest())[:most]


def _write(folder: Path, mixture: Mixture, parts: list[_Part]) -> Outcome:
    rows, drops, details = [], Counter[str](), []
    shares = declared_shares(mixture)
    for place, (component, part) in enumerate(zip(mixture.components, parts, strict=True)):
        rows += [{"component": place, **row} for row in sorted(part.rows, key=lambda row: str(row["key"]))]
        drops.update({f"{component.source}: {reason}": count for reason, count in part.drops.items()})
        details.append(
            {
                "source": component.source,
                "task": component.task,
                "weight": component.weight,
                "declared_share": round(shares[place], 6),
                "rows_in": part.rows_in,
                "samples": len(part.rows),
                "drops": dict(part.drops),
            }
        )
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), folder / SAMPLES)
    (folder / SUMMARY).write_text(json.dumps({"mixture": mixture.model_dump(), "components": details}, indent=2))
    rows_in = sum(part.rows_in for part in parts)
    return Outcome(rows_in=rows_in, rows_out=len(rows), drops=dict(drops), details={"components": details})


# Reading it back


class MixedSamples:
    """A finished mixture: its definition, the size of each component, and any sample by component and position."""

    def __init__(self, store: Store, artifact: str) -> None:
        folder = store.folder(artifact)
        self.mixture = Mixture.model_validate(json.loads((folder / SUMMARY).read_text())["mixture"])
        self._table = pq.read_table(folder / SAMPLES, memory_map=True)
        counts = np.bincount(self._table["component"].to_numpy(), minlength=len(self.mixture.components))
        self.sizes = tuple(int(count) for count in counts)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._root = functools.cache(functools.partial(_root_folder, store))

    def samples(self, places: Sequence[tuple[int, int]]) -> list[Sample]:
        """The samples at (component, position), with absolute image paths."""
        rows = self._table.take([int(self._starts[component]) + position for component, position in places])
        return [self._sample(row) for row in rows.to_pylist()]

    def _sample(self, row: dict[str, Any]) -> Sample:
        image = None
        if row["root"] is not None:
            image = ImageReference(str(self._root(row["root"]) / row["path"]), row["offset"], row["length"])
        return Sample(
            key=row["key"],
            image=image,
            turns=tuple(Turn(**turn) for turn in row["turns"]),
            source=row["source"],
            group=row["group"],
            answers=tuple(row["answers"]),
            box=tuple(row["box"]) if row["box"] else None,
        )


def _root_folder(store: Store, root: str) -> Path:
    if "@" in root:
        return store.folder(root)
    return local_path(root, functools.partial(corpus_folder, store))
