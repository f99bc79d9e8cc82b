"""A source's next version: fetch what changed, filter it, ask the checks, and only then publish it.

One refresh of a source runs at a time. Nothing new gives no version; a check that fails leaves the old version current
and the new artifacts where they are, for a look at them. Either way the next refresh goes on from the newest ledger,
and then removes what it went on from, if neither a version nor a run is made of it.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from tinygptv import catalog
from tinygptv.data.download.download import download
from tinygptv.data.download.ledger import KEPT
from tinygptv.data.filters.filtering import filter_source
from tinygptv.data.forget.forget import without_forgotten
from tinygptv.data.versions.checks import Failure, run_checks
from tinygptv.data.versions.versions import (
    Newest,
    Published,
    Version,
    diff,
    is_kept,
    note_newest,
    originals,
    publish,
    published,
    settings_of,
)
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.reasons import FORGOTTEN
from tinygptv.definitions.source import AnnotationsSource, PairsSource
from tinygptv.store.artifacts import Manifest, Store, fingerprint

logger = logging.getLogger(__name__)

Score = Callable[[Store, str, FilterChain, Manifest], Manifest]
"""Scores the rows of a source's raw artifact, as a chain asks: `tinygptv.judging.arrow.score_source`."""

_NO_LOSS = (KEPT, "duplicate_url", FORGOTTEN)


@dataclass(frozen=True)
class Refreshed:
    """What a refresh did. `version` is the current one afterwards, None if there is none. `changes` counts samples
    added, removed and changed since the last version; `filtered` is None where it came to nothing new."""

    source: str
    outcome: Literal["published", "nothing_new", "refused"]
    version: Version | None
    raw: Manifest
    filtered: Manifest | None = None
    changes: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def report(self) -> list[dict[str, Any]]:
        """The change report: what became of each address, of each sample, and what was dropped, with counts."""
        rows = [("address", what, count) for what, count in self.raw.details.get("changes", {}).items()]
        rows += [("sample", what, count) for what, count in self.changes.items()]
        for step, made in (("dropped by download", self.raw), ("dropped by filter", self.filtered)):
            rows += [(step, reason, count) for reason, count in (made.drops if made else {}).items()]
        rows += [("failed check", str(failure), failure.count) for failure in self.failures]
        return [{"about": about, "what": what, "count": count} for about, what, count in rows]

    def rot(self) -> list[dict[str, Any]]:
        """The hosts that lost most addresses: how many, and why. A copy of another row's address is no loss."""
        rows = []
        for host in self.raw.details.get("hosts", []):
            lost = {why: count for why, count in host["outcomes"].items() if why not in _NO_LOSS}
            if lost:
                told = ", ".join(f"{why} {count}" for why, count in sorted(lost.items()))
                rows.append({"host": host["host"], "addresses": host["rows"], "lost": sum(lost.values()), "why": told})
        return sorted(rows, key=lambda row: (-row["lost"], row["host"]))

    def __str__(self) -> str:
        counted = ", ".join(f"{count} {change}" for change, count in self.changes.items())
        match self.outcome:
            case "published" if self.version:
                return f"{self.source}: version {self.version.number} with {self.version.rows} samples ({counted})"
            case "nothing_new" if self.version:
                return f"{self.source}: nothing new since version {self.version.number}"
            case _:
                kept = f"version {self.version.number} stays current" if self.version else "nothing is published"
                return f"{self.source}: refused, {kept}: {' | '.join(map(str, self.failures))}"


def refresh(
    store: Store,
    source_name: str,
    source: PairsSource,
    accept: Collection[str] = (),
    *,
    benchmarks: Mapping[str, AnnotationsSource],
    score: Score | None = None,
) -> Refreshed:
    """Bring a source up to date and publish it if it passes its checks, but for those whose failure you `accept`.

    What one of `benchmarks` holds as well is left out, as `filter_source` says, and copies of what `not_in` names as it
    is published now. Raises StorageError, naming the holder,
    if another refresh of this source is under way; what `download` and `filter_source` raise; DefinitionError for a
    check that cannot be asked.
    """
    with store.exclusive(f"refresh/{source_name}", "refreshing it"):
        before = published(store, source_name).newest
        done = _refresh(store, source_name, source, accept, benchmarks, score)
        if before and before.raw != done.raw.artifact and not is_kept(store, source_name, before.raw):
            _discard(store, before.raw)
    return done


def _refresh(
    store: Store,
    source_name: str,
    source: PairsSource,
    accept: Collection[str],
    benchmarks: Mapping[str, AnnotationsSource],
    score: Score | None,
) -> Refreshed:
    known = published(store, source_name)
    earlier = list(originals(store, source_name, source).values())
    raw = download(store, source_name, source, _previous(store, known, source))
    current, newest = known.current, Newest(raw=raw.artifact, settings=settings_of(source))
    asked = catalog.filter_chain(source.filter)
    scores = score(store, source_name, asked, raw) if score and asked.scores else None
    chain = without_forgotten(store, asked, raw, None).model_dump()
    held_out = {name: benchmark.model_dump() for name, benchmark in benchmarks.items()}
    scored_by = [scores.definition] if scores else []
    judged_by = fingerprint(chain, held_out, [made.artifact for made in earlier], *scored_by)
    if current and not any(_changes(store, current.raw, raw).values()) and current.filter == judged_by:
        note_newest(store, source_name, newest)
        return Refreshed(source_name, "nothing_new", current, raw)
    filtered = filter_source(
        store, source_name, source.filter, raw, benchmarks=benchmarks, earlier=earlier, scores=scores
    )
    changes = _changes(store, current.filtered, filtered) if current else {"added": filtered.rows_out}
    made = (current.raw, current.filtered) if current else (None, None)
    failures = [one for one in run_checks(store, raw.artifact, filtered.artifact, *made) if one.check not in accept]
    if failures:
        note_newest(store, source_name, newest)
        return Refreshed(source_name, "refused", current, raw, filtered, changes, failures)
    version = Version(
        number=len(known.versions) + 1,
        raw=raw.artifact,
        filtered=filtered.artifact,
        settings=newest.settings,
        filter=judged_by,
        rows=filtered.rows_out,
        published=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    publish(store, source_name, version)
    return Refreshed(source_name, "published", version, raw, filtered, changes)


def _previous(store: Store, known: Published, source: PairsSource) -> Manifest | None:
    """The artifact whose ledger and pictures a refresh goes on from: the newest of this definition."""
    if known.newest is None or known.newest.settings != settings_of(source):
        return None
    return store.find(known.newest.raw)


def _discard(store: Store, artifact: str) -> None:
    """Remove a superseded raw artifact and what curation made of it, which is made of nothing else."""
    for place in ("described/", "measured/", "scores/", "filtered/", "cards/"):
        for name in store.names(place):
            made = store.find(name)
            if made and artifact in made.parents:
                _discard(store, name)
    store.discard(artifact)


def _changes(store: Store, before: str, after: Manifest) -> dict[str, int]:
    return diff(store, before, after.artifact).counts if before != after.artifact else {}
