"""Dataset versions: which artifacts of a source are its current data, which were before, and which a run keeps to.

A version is a raw artifact and its filtered one, neither of which ever changes. `published/<source>.json` lists a
source's versions; the last is current, and the file is replaced whole. `runs/<run>/data.json` says with which raw
artifact a run began: the same run goes on with it, whatever was published since; a new run takes the current version.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from tinygptv.data.columns.database import connect
from tinygptv.data.forget.forget import sidecar_view
from tinygptv.data.forget.tombstones import tombstones
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.definitions.source import PairsSource
from tinygptv.errors import DataError, DefinitionError, did_you_mean
from tinygptv.store.artifacts import Manifest, Store, fingerprint

_STORED = {"image_size", "max_pixels", "min_side", "max_aspect", "jpeg_quality", "animated"}
"""The download settings that decide what a stored picture looks like; the others say how it is asked for."""

_PINS = "data.json"

CHANGES = ("added", "removed", "changed")
_DIFFERENCES = """
SELECT coalesce(after.key, before.key) AS key, coalesce(after.url, before.url) AS url,
    CASE WHEN before.key IS NULL THEN 'added' WHEN after.key IS NULL THEN 'removed' ELSE 'changed' END AS change
FROM before FULL JOIN after USING (key)
WHERE before.key IS NULL OR after.key IS NULL
    OR before.sha256 IS DISTINCT FROM after.sha256 OR before.caption IS DISTINCT FROM after.caption
ORDER BY change, key
"""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(_Document):
    """One published state of a source. `settings` and `filter` are hashes of how it is fetched and filtered."""

    number: int
    raw: str
    filtered: str
    settings: str
    filter: str
    rows: int
    published: str


class Newest(_Document):
    """The raw artifact with the newest ledger, which the next refresh goes on from; it may belong to no version,
    because it had no news or did not pass a check."""

    raw: str
    settings: str


class Published(_Document):
    """A source's versions, oldest first, and where its next refresh begins."""

    versions: list[Version] = []
    newest: Newest | None = None

    @property
    def current(self) -> Version | None:
        """What a new run takes."""
        return self.versions[-1] if self.versions else None


class Pin(_Document):
    """What a run began with: its raw data, its number if it was published, how many tombstones there were, and which
    artifacts the references of `not_in` stood for."""

    raw: str
    version: int | None
    tombstones: int
    not_in: dict[str, str] = {}


class _Pins(_Document):
    sources: dict[str, Pin] = {}


@dataclass(frozen=True)
class Difference:
    """How a version differs from another: a table of key, url and change (added, removed or changed: picture or
    caption), sorted by change and key, and the rows of each kind."""

    table: pa.Table
    counts: dict[str, int]


def settings_of(source: PairsSource) -> str:
    """A hash of what a version's pictures depend on, except for what the web and the tables happen to hold."""
    download = source.download.model_dump(include=_STORED)
    return fingerprint(source.model_dump(include={"tables", "licence", "allow_private"}), download)


def published(store: Store, source_name: str) -> Published:
    """A source's versions; none if it was never refreshed. Raises DataError if the document is damaged."""
    document = _published_document(source_name)
    try:
        return Published.model_validate_json(store.read(document) or "{}")
    except ValidationError as error:
        raise DataError(f"{store.workdir}/{document}: damaged ({error.error_count()} problems); remove it") from error


def publish(store: Store, source_name: str, version: Version) -> None:
    """Make a version current. Raises DataError if another one was published since this one was numbered."""

    def append(text: str | None) -> str:
        known = Published.model_validate_json(text or "{}")
        if version.number != len(known.versions) + 1:
            raise DataError(f"source '{source_name}': version {version.number} is already there; refresh again")
        newest = Newest(raw=version.raw, settings=version.settings)
        return Published(versions=[*known.versions, version], newest=newest).model_dump_json(indent=2)

    store.update(_published_document(source_name), append)


def note_newest(store: Store, source_name: str, newest: Newest) -> None:
    """Remember where the next refresh begins, although it gave no version."""

    def change(text: str | None) -> str:
        known = Published.model_validate_json(text or "{}")
        return known.model_copy(update={"newest": newest}).model_dump_json(indent=2)

    store.update(_published_document(source_name), change)


def chosen(store: Store, run_name: str, source_name: str, source: PairsSource) -> Version | None:
    """The published version a run works on: the one it began with, or the current one if it begins now.

    None if there is none of this definition, or if the run began before there was: then its data are those that
    `download` makes of the tables as they are.
    """
    fitting = [one for one in published(store, source_name).versions if one.settings == settings_of(source)]
    if pin := pinned(store, run_name, source_name):
        return next((one for one in fitting if one.raw == pin.raw), None)
    return fitting[-1] if fitting else None


def pinned(store: Store, run_name: str, source_name: str) -> Pin | None:
    """What a run began with; None if it begins now."""
    return _Pins.model_validate_json(store.read(_pins_document(run_name)) or "{}").sources.get(source_name)


def pin(store: Store, run_name: str, source_name: str, raw: Manifest, originals: Mapping[str, Manifest]) -> None:
    """Write down that a run works on `raw` without copies of the `originals`, unless it did so already."""
    fresh = Pin(
        raw=raw.artifact,
        version=number_of(store, raw.artifact),
        tombstones=len(tombstones(store)),
        not_in={reference: made.artifact for reference, made in originals.items()},
    )

    def change(text: str | None) -> str:
        known = _Pins.model_validate_json(text or "{}")
        before = known.sources.get(source_name)
        if before is not None and (before.raw, before.not_in) == (fresh.raw, fresh.not_in):
            return text or ""
        return _Pins(sources=known.sources | {source_name: fresh}).model_dump_json(indent=2)

    store.update(_pins_document(run_name), change)


def is_kept(store: Store, source_name: str, raw: str) -> bool:
    """Whether a version or a run has this raw artifact for its data."""
    pins = (pinned(store, run, source_name) for run in store.documents("runs/", f"/{_PINS}"))
    began = {pin.raw for pin in pins if pin}
    return raw in began | {one.raw for one in published(store, source_name).versions}


def number_of(store: Store, artifact: str) -> int | None:
    """The number of the version that a raw or filtered artifact belongs to, if it was published.

    Two versions may share their raw artifact, if only the filter changed: then the later one's number.
    """
    source_name = artifact.partition("/")[2].rpartition("@")[0]
    for known in (source_name, source_name.rpartition("-")[0]):
        for one in reversed(published(store, known).versions if known else []):
            if artifact in (one.raw, one.filtered):
                return one.number
    return None


def versions(store: Store) -> dict[str, Published]:
    """Every source that was ever published, by name."""
    return {name: published(store, name) for name in store.documents("published/", ".json")}


def originals(store: Store, source_name: str, source: PairsSource, pin: Pin | None = None) -> dict[str, Manifest]:
    """What `not_in` of a source stands for, by reference: what a run keeps to, its `pin`, else what is published now.

    Raises DefinitionError if one stands for nothing, or for the source's own current version.
    """
    found = {}
    for reference in source.not_in:
        try:
            if reference == source_name:
                raise DefinitionError(f"nothing would be left of it; name an older version, as {reference}@1")
            artifact = pin.not_in.get(reference) if pin else None
            manifest = store.find(artifact or artifact_of(store, reference))
            if manifest is None:
                raise DefinitionError(f"{artifact} is gone; begin another run")
        except DefinitionError as error:
            raise DefinitionError(f"source '{source_name}', not_in: '{reference}': {error}") from None
        found[reference] = manifest
    return found


def artifact_of(store: Store, reference: str) -> str:
    """`shapes@2` → the filtered artifact of that version, `shapes` → that of the current one; the name of an artifact
    with a sidecar → itself.

    Raises DefinitionError if there is no such thing.
    """
    if "/" in reference:
        if store.find(reference) is None:
            raise DefinitionError(f"{store.workdir}/{reference}: no such artifact")
        return reference
    all_versions = versions(store)
    known = {f"{source}@{one.number}": one.filtered for source, found in all_versions.items() for one in found.versions}
    known |= {source: found.current.filtered for source, found in all_versions.items() if found.current}
    if reference not in known:
        raise DefinitionError(
            f"'{reference}': want source or source@number of a published version (`tinygptv refresh` publishes), or an "
            "artifact's name. "
            f"{did_you_mean(reference, known)}"
        )
    return known[reference]


def diff(store: Store, before: str, after: str) -> Difference:
    """What a raw or filtered artifact has that another has not, by key."""
    with compared(store, before=before, after=after) as database:
        table = database.sql(_DIFFERENCES).to_arrow_table()
    kinds = Counter(map(str, table["change"].to_pylist()))
    return Difference(table, {kind: kinds[kind] for kind in CHANGES})


@contextmanager
def compared(store: Store, **artifacts: str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with a view of the sidecar of each artifact, under the name it is given; None: an empty one."""
    with connect(Path(tempfile.gettempdir())) as database:
        for view, artifact in artifacts.items():
            sidecar_view(database, view, store.file(artifact, SIDECAR) if artifact else None)
        yield database


def _published_document(source_name: str) -> str:
    return f"published/{source_name}.json"


def _pins_document(run_name: str) -> str:
    return f"runs/{run_name}/{_PINS}"
