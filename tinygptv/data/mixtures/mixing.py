"""A mixture's components → one table of samples, every record left out counted by reason; and that table read back.

An image is referred to by the artifact or definition it lies in and a path below, so that a mixture stays valid when a
workdir moves, and on S3. The order in which training draws is `drawing.py`'s.
"""

import functools
import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tinygptv import catalog
from tinygptv.data.annotations import TASKS, AnnotationReader, contents_of
from tinygptv.data.forget.tombstones import Tombstone, caption_patterns, image_endings, matching_texts, tombstones
from tinygptv.data.mixtures.sampling_order import Mask, Order, Plan
from tinygptv.data.mixtures.shares import declared_shares
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.definitions.base import LOCATION_PREFIXES
from tinygptv.definitions.mixture import RUN_SOURCE, Mixture, Task
from tinygptv.definitions.reasons import FORGOTTEN
from tinygptv.definitions.source import AnnotationsSource
from tinygptv.errors import DataError, DefinitionError
from tinygptv.sample import ImageReference, Sample, Turn
from tinygptv.shapes.files import corpus_folder, draw_corpus
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.store.locations import local_path

log = logging.getLogger(__name__)

SAMPLES, SUMMARY, LEFT_OUT = "samples.parquet", "mixture.json", "left_out.npy"
_LAYOUT = 3  # of the table; raise it when its columns, or what is read of a record, change
PAIR_TASKS: tuple[Task, ...] = ("caption_only", "describe", "caption")

_TURNS = pa.list_(pa.struct([("instruction", pa.string()), ("answer", pa.string())]))
_IMAGE = pa.struct(
    [
        ("root", pa.string()),  # an artifact's name or a definition's location: where `path` starts
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
    ]
)
_BATCH = 10_000  # annotated samples that are Python objects at a time
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("images", pa.list_(_IMAGE)),
        ("turns", _TURNS),
        ("source", pa.string()),
        ("group", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("boxes", pa.list_(pa.list_(pa.float64()))),
    ]
)


# Making a mixture


@dataclass
class _Part:
    """One component's samples, before they are written."""

    table: pa.Table
    rows_in: int
    drops: Counter[str]
    not_read: Counter[str] = field(default_factory=Counter)
    first_trouble: str = ""


def mix(store: Store, mixture_name: str, pairs: Manifest | None, first_tombstones: int | None = None) -> Manifest:
    """Gather all samples of a mixture; `pairs` is the filtered artifact of the run's source, if the mixture uses one.

    Annotated samples that the `first_tombstones`, or all, name are left out and counted as `forgotten`. Raises
    DefinitionError for a component that cannot be asked its task or has no pairs, DataError for an empty one.
    """
    mixture = catalog.mixture(mixture_name)
    sources = _annotation_sources(mixture_name, mixture)
    parents = []
    if any(component.source == RUN_SOURCE for component in mixture.components):
        if pairs is None:
            raise DefinitionError(
                f"{_named(mixture_name)}: needs the filtered pairs of a run for {RUN_SOURCE}; give them"
            )
        parents.append(pairs.artifact)
    places = [place for source in sources.values() for place in (source.images, *source.files.values())]
    if any(place.startswith("embedded:") for place in places):
        parents.append(draw_corpus(store).artifact)
    definition: dict[str, Any] = {
        "layout": _LAYOUT,
        "mixture": mixture.model_dump(exclude={"about"}),
        "sources": {name: source.model_dump(exclude={"about", "licence"}) for name, source in sources.items()},
        "contents": {name: contents_of(source) for name, source in sources.items()},
    }
    wanted = tombstones(store, first_tombstones) if sources else []
    if named := [*caption_patterns(wanted), *image_endings(wanted)]:
        definition["forgotten"] = named

    def build(folder: Path) -> Outcome:
        annotated = functools.cache(lambda name: _annotated(store, name, sources[name]))
        parts = []
        for place, component in enumerate(mixture.components):
            if pairs is not None and component.source == RUN_SOURCE:
                part = _pairs(store, pairs)
            else:
                read = annotated(component.source)
                part = replace(read, drops=Counter(read.drops))
                _forget(part, wanted)
            _limit(part, component.max_samples)
            if not part.table.num_rows:
                raise DataError(
                    f"{_named(mixture_name)}, components[{place}]: {component.source} has no usable sample left of "
                    f"{part.rows_in} (dropped: {dict(part.drops) or 'none'}){part.first_trouble and '; '}"
                    f"{part.first_trouble}"
                )
            log.info(
                "mix %s: %s as %s, %d samples", mixture_name, component.source, component.task, part.table.num_rows
            )
            parts.append(part)
        return _write(folder, mixture, parts)

    return store.make(artifact_name(f"mixtures/{mixture_name}", definition, parents), "mix", definition, parents, build)


def _named(mixture_name: str) -> str:
    return f"mixture '{mixture_name}'"


def _annotation_sources(mixture_name: str, mixture: Mixture) -> dict[str, AnnotationsSource]:
    """The annotation sources of a mixture by name; every component can be asked its task."""
    sources = {}
    for place, component in enumerate(mixture.components):
        where, allowed = f"{_named(mixture_name)}, components[{place}]", PAIR_TASKS
        if component.source != RUN_SOURCE:
            source = catalog.source(component.source)
            if not isinstance(source, AnnotationsSource):
                raise DefinitionError(
                    f"{where}.source: {component.source} holds URL pairs; write {RUN_SOURCE} for a run's curated pairs"
                )
            sources[component.source], allowed = source, TASKS[source.format]
        if component.task not in allowed:
            raise DefinitionError(
                f"{where}.task: {component.source} cannot be asked '{component.task}'; "
                f"choose one of {', '.join(allowed)}"
            )
    return sources


def _pairs(store: Store, pairs: Manifest) -> _Part:
    columns = ["key", "caption", "shard", "offset", "length"]
    sidecar = pq.read_table(store.file(pairs.artifact, SIDECAR), columns=columns)
    count = sidecar.num_rows
    captions = pa.StructArray.from_arrays(
        [pa.repeat("", count), sidecar["caption"].combine_chunks()], ["instruction", "answer"]
    )
    places = [sidecar[column].combine_chunks() for column in ("shard", "offset", "length")]
    images = pa.StructArray.from_arrays([pa.repeat(pairs.artifact, count), *places], fields=list(_IMAGE))
    one_each = np.arange(count + 1, dtype=np.int32)
    table = pa.table(
        {
            "key": sidecar["key"],
            "images": pa.ListArray.from_arrays(one_each, images),
            "turns": pa.ListArray.from_arrays(one_each, captions),
            "source": pa.repeat(RUN_SOURCE, count),
            "group": pa.repeat("", count),
            "answers": pa.nulls(count, _SCHEMA.field("answers").type),
            "boxes": pa.nulls(count, _SCHEMA.field("boxes").type),
        },
        _SCHEMA,
    )
    return _Part(table, count, Counter())


def _annotated(store: Store, name: str, source: AnnotationsSource) -> _Part:
    reader = AnnotationReader(store, name, source)
    samples, tables = iter(reader), [_SCHEMA.empty_table()]
    while some := list(itertools.islice(samples, _BATCH)):
        rows = [_row(sample, source.images, reader.images) for sample in some]
        tables.append(pa.Table.from_pylist(rows, _SCHEMA))
    return _Part(pa.concat_tables(tables), reader.rows_in, reader.drops, reader.not_read, reader.first_trouble)


def _row(sample: Sample, root: str, images: Path) -> dict[str, Any]:
    return {
        "key": sample.key,
        "images": [
            asdict(image) | {"root": root, "path": str(Path(image.path).relative_to(images))} for image in sample.images
        ],
        "turns": [asdict(turn) for turn in sample.turns],
        "source": sample.source,
        "group": sample.group,
        "answers": sample.answers,
        "boxes": sample.boxes,
    }


def _forget(part: _Part, wanted: list[Tombstone]) -> None:
    """Leave out what is said, or shown, to be forgotten."""
    forgotten = np.zeros(part.table.num_rows, np.bool_)
    if patterns := caption_patterns(wanted):
        texts = [
            "\n".join(f"{turn['instruction']}\n{turn['answer']}" for turn in turns)
            for turns in part.table["turns"].to_pylist()
        ]
        forgotten |= matching_texts(texts, patterns)
    if endings := image_endings(wanted):
        for number, images in enumerate(part.table["images"].to_pylist()):
            places = (f"/{image['root']}/{image['path']}".replace(":", "/") for image in images)
            forgotten[number] |= any(place.endswith(endings) for place in places)
    if forgotten.any():
        part.drops[FORGOTTEN] = int(forgotten.sum())
        part.table = part.table.filter(pa.array(~forgotten))


def _limit(part: _Part, most: int | None) -> None:
    """Keep `most` samples: those whose keys hash lowest, whatever the order of the file."""
    if most is not None and part.table.num_rows > most:
        part.drops["over_max_samples"] = part.table.num_rows - most
        hashes = [hashlib.sha256(key.encode()).digest() for key in part.table["key"].to_pylist()]
        part.table = part.table.take(sorted(range(len(hashes)), key=hashes.__getitem__)[:most])


def _write(folder: Path, mixture: Mixture, parts: list[_Part]) -> Outcome:
    shares = declared_shares(mixture)
    details = [
        {
            "source": component.source,
            "task": component.task,
            "weight": component.weight,
            "declared_share": round(share, 6),
            "rows_in": part.rows_in,
            "samples": part.table.num_rows,
            "drops": dict(part.drops),
            "not_read": dict(part.not_read),
        }
        for component, share, part in zip(mixture.components, shares, parts, strict=True)
    ]
    with pq.ParquetWriter(folder / SAMPLES, _SCHEMA.append(pa.field("component", pa.int16()))) as writer:
        for place, part in enumerate(parts):
            number = pa.repeat(pa.scalar(place, pa.int16()), part.table.num_rows)
            writer.write_table(part.table.sort_by("key").append_column("component", number))
    (folder / SUMMARY).write_text(json.dumps({"mixture": mixture.model_dump(), "components": details}, indent=2))
    drops: Counter[str] = Counter()
    for component, part in zip(mixture.components, parts, strict=True):
        drops.update({f"{component.source}: {reason}": count for reason, count in part.drops.items()})
    return Outcome(
        rows_in=sum(part.rows_in for part in parts),
        rows_out=sum(part.table.num_rows for part in parts),
        drops=dict(drops),
        details={"components": details},
    )


# Reading it back


class MixedSamples:
    """A finished mixture: its definition, the size of each component, and any sample by component and position.

    Samples that tombstones name are masked: they are neither drawn nor handed out. `tombstones` says how many there
    were when the mixture was opened. So are those that a stage cannot learn from, if `usable` names what was found out
    about that (see `usable`).
    """

    def __init__(
        self, store: Store, artifact: str, first_tombstones: int | None = None, usable: str | None = None
    ) -> None:
        """Only the `first_tombstones` count, or all. Raises DataError if nothing of a component is left."""
        folder = store.folder(artifact)
        self.mixture = Mixture.model_validate(json.loads((folder / SUMMARY).read_text())["mixture"])
        self._table = pq.read_table(
            folder / SAMPLES, memory_map=True
        ).combine_chunks()  # one chunk: rows are then found fast
        counts = np.bincount(self._table["component"].to_numpy(), minlength=len(self.mixture.components))
        self.sizes = tuple(int(count) for count in counts)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        wanted = tombstones(store, first_tombstones)
        self.tombstones = len(wanted)
        self._masked = _masked_rows(store, artifact, folder / SAMPLES, wanted) if wanted else None
        if usable is not None:
            left_out = np.isin(np.arange(len(self._table)), np.load(store.file(usable, LEFT_OUT)))
            self._masked = left_out if self._masked is None else self._masked | left_out
        self.masks = self._masks(artifact)
        self._root = functools.cache(functools.partial(root_place, store))

    def order(self, seed: int, batch: int) -> Order:
        """What every step draws of it, for the order seed and the global batch size of a stage."""
        return Order(self.mixture, self.sizes, seed, batch, self.masks)

    def rows(self, plan: Plan) -> NDArray[np.int64]:
        """(N,) The rows of the table that hold a plan's samples."""
        rows: NDArray[np.int64] = self._starts[plan.components] + plan.positions
        return rows

    def samples(self, places: Sequence[tuple[int, int]]) -> list[Sample]:
        """The samples at (component, position), their images by path or address. Raises DataError for a masked one."""
        numbers = [int(self._starts[component]) + position for component, position in places]
        if self._masked is not None and self._masked[numbers].any():
            raise DataError("a sample was asked for that is to be forgotten or left out; use MixedSamples.order")
        return [self._sample(row) for row in self._table.take(numbers).to_pylist()]

    def _masks(self, artifact: str) -> list[Mask]:
        if self._masked is None or not self._masked.any():
            return []
        masks: list[Mask] = []
        for component, start, size in zip(self.mixture.components, self._starts, self.sizes, strict=False):
            mask = self._masked[start : start + size]
            if mask.all():
                raise DataError(f"{artifact}: nothing of {component.source} is left that may be used; mix again")
            masks.append(mask if mask.any() else None)
        return masks

    def _sample(self, row: dict[str, Any]) -> Sample:
        images = (
            ImageReference(f"{self._root(image['root'])}/{image['path']}", image["offset"], image["length"])
            for image in row["images"]
        )
        return Sample(
            key=row["key"],
            images=tuple(images),
            turns=tuple(Turn(**turn) for turn in row["turns"]),
            source=row["source"],
            group=row["group"],
            answers=tuple(row["answers"] or ()),
            boxes=tuple(map(tuple, row["boxes"] or ())),
        )


def _masked_rows(store: Store, artifact: str, samples: Path, wanted: list[Tombstone]) -> NDArray[np.bool_]:
    from tinygptv.data.forget.forget import masked_rows  # ranks of a run without tombstones need no database

    return masked_rows(store, artifact, samples, wanted)


def root_place(store: Store, root: str) -> str:
    """Where the paths of a mixture's images start that name this root: an artifact, here or on S3, or a definition's
    location."""
    if root.startswith(LOCATION_PREFIXES):
        return str(local_path(root, functools.partial(corpus_folder, store)))
    return store.place(root)
