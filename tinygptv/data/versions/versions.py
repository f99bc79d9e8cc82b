"""Dataset versions: a source's current artifacts, its earlier ones, and those pinned by runs.

A version is a raw artifact and the filtered artifact made from it; neither ever changes. `published/<source>.json`
lists a source's versions, the last of which is current; the file is replaced atomically. `runs/<run>/data.json` records
the raw artifact a run started with: the run keeps it, whatever is published later; a new run takes the current version.
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
"""Download settings that affect stored pictures; the others affect only how they are requested."""

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
    """The raw artifact with the newest ledger, from which the next refresh continues; it may belong to no version,
    because nothing changed or a check failed."""

    raw: str
    settings: str


class Published(_Document):
    """A source's versions, oldest first, and where its next refresh continues."""

    versions: list[Version] = []
    newest: Newest | None = None

    @property
    def current(self) -> Version | None:
        """The version that a new run uses."""
        return self.versions[-1] if self.versions else None


class Pin(_Document):
    """What a run started with: its raw artifact, the version number if published, the number of tombstones, and the
    artifacts that the references in `not_in` resolved to."""

    raw: str
    version: int | None
    tombstones: int
    not_in: dict[str, str] = {}


class _Pins(_Document):
    sources: dict[str, Pin] = {}


@dataclass(frozen=True)
class Difference:
    """How a version differs from another: a table of key, url and change (added, removed or changed, in picture or
    caption), sorted by change and key, and the number of rows of each kind."""

    table: pa.Table
    counts: dict[str, int]


def settings_of(source: PairsSource) -> str:
    """A hash of the settings that a version's pictures depend on, without the content of the tables and the web."""
    download = source.download.model_dump(include=_STORED)
    return fingerprint(source.model_dump(include={"tables", "licence", "allow_private"}), download)


def published(store: Store, source_name: str) -> Published:
    """A source's versions; none before its first refresh. Raises DataError if the document is damaged."""
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
            raise DataError(f"source '{source_name}': version {version.number} already exists; refresh again")
        newest = Newest(raw=version.raw, settings=version.settings)
        return Published(versions=[*known.versions, version], newest=newest).model_dump_json(indent=2)

    store.update(_published_document(source_name), append)


def note_newest(store: Store, source_name: str, newest: Newest) -> None:
    """Record where the next refresh continues, without a new version."""

    def change(text: str | None) -> str:
        known = Published.model_validate_json(text or "{}")
        return known.model_copy(update={"newest": newest}).model_dump_json(indent=2)

    store.update(_published_document(source_name), change)


def chosen(store: Store, run_name: str, source_name: str, source: PairsSource) -> Version | None:
    """The published version a run uses: the one it started with, or the current one for a new run.

    None if there is none of this definition, or if the run started before the first version; such a run uses what
    `download` makes of the tables.
    """
    fitting = [one for one in published(store, source_name).versions if one.settings == settings_of(source)]
    if pin := pinned(store, run_name, source_name):
        return next((one for one in fitting if one.raw == pin.raw), None)
    return fitting[-1] if fitting else None


def pinned(store: Store, run_name: str, source_name: str) -> Pin | None:
    """What a run started with; None for a new run."""
    return _Pins.model_validate_json(store.read(_pins_document(run_name)) or "{}").sources.get(source_name)


def pin(store: Store, run_name: str, source_name: str, raw: Manifest, originals: Mapping[str, Manifest]) -> None:
    """Record that a run uses `raw` without copies of the `originals`, unless already recorded."""
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
    """Whether a version or a run uses this raw artifact."""
    pins = (pinned(store, run, source_name) for run in store.documents("runs/", f"/{_PINS}"))
    began = {pin.raw for pin in pins if pin}
    return raw in began | {one.raw for one in published(store, source_name).versions}


def number_of(store: Store, artifact: str) -> int | None:
    """The version number of a raw or filtered artifact, if it was published.

    If several versions share a raw artifact, because only the filter changed, the latest number.
    """
    source_name = artifact.partition("/")[2].rpartition("@")[0]
    for known in (source_name, source_name.rpartition("-")[0]):
        for one in reversed(published(store, known).versions if known else []):
            if artifact in (one.raw, one.filtered):
                return one.number
    return None


def versions(store: Store) -> dict[str, Published]:
    """All published sources by name."""
    return {name: published(store, name) for name in store.documents("published/", ".json")}


def originals(store: Store, source_name: str, source: PairsSource, pin: Pin | None = None) -> dict[str, Manifest]:
    """Resolve a source's `not_in` references: to the artifacts pinned by a run, or else to the current versions.

    Raises DefinitionError if a reference cannot be resolved, or names the source's own current version.
    """
    found = {}
    for reference in source.not_in:
        try:
            if reference == source_name:
                raise DefinitionError(f"nothing would be left of it; name an older version, as in {reference}@1")
            artifact = pin.not_in.get(reference) if pin else None
            manifest = store.find(artifact or artifact_of(store, reference))
            if manifest is None:
                raise DefinitionError(f"{artifact} is gone; start another run")
        except DefinitionError as error:
            raise DefinitionError(f"source '{source_name}', not_in: '{reference}': {error}") from None
        found[reference] = manifest
    return found


def artifact_of(store: Store, reference: str) -> str:
    """Resolve a reference: `shapes@2` → the filtered artifact of version 2, `shapes` → that of the current version, an
    artifact's name → itself.

    Raises DefinitionError if it does not exist.
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
    """Compare two raw or filtered artifacts by key."""
    with compared(store, before=before, after=after) as database:
        table = database.sql(_DIFFERENCES).to_arrow_table()
    kinds = Counter(map(str, table["change"].to_pylist()))
    return Difference(table, {kind: kinds[kind] for kind in CHANGES})


@contextmanager
def compared(store: Store, **artifacts: str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with a view of each artifact's sidecar, by argument name; an empty view for None."""
    with connect(Path(tempfile.gettempdir())) as database:
        for view, artifact in artifacts.items():
            sidecar_view(database, view, store.file(artifact, SIDECAR) if artifact else None)
        yield database


def _published_document(source_name: str) -> str:
    return f"published/{source_name}.json"


def _pins_document(run_name: str) -> str:
    return f"runs/{run_name}/{_PINS}"
