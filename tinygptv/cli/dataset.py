"""The verbs that manage existing data: refresh, versions, diff, card, forget."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tinygptv import catalog
from tinygptv.cli.options import AddVerb, printing
from tinygptv.errors import DataError, DefinitionError
from tinygptv.journey import HARDWARE, RECIPE, SOURCE, WORKDIR
from tinygptv.store.artifacts import Store

if TYPE_CHECKING:
    from tinygptv.data.forget.tombstones import Kind

_SHOWN_KEYS = 20


def _refresh(options: argparse.Namespace) -> Iterator[str]:
    """Bring a source up to date. Raises DataError if its checks refuse the new version."""
    from tinygptv.data.versions.refresh import refresh
    from tinygptv.judging.arrow import score_source

    run = catalog.resolve_run(options.recipe, options.source, HARDWARE)
    store = Store(options.workdir)
    done = refresh(
        store, run.source_name, run.source, options.accept, benchmarks=run.benchmark_sources, score=score_source
    )
    yield from (f"{row['count']:>9} {row['about']}: {row['what']}" for row in done.report())
    if done.outcome == "refused":
        raise DataError(str(done))
    yield str(done)


def _versions(options: argparse.Namespace) -> Iterator[str]:
    """One line per published version, oldest first, with the current one marked."""
    from tinygptv.data.versions.versions import versions

    found = versions(Store(options.workdir))
    if not found:
        yield f"{options.workdir}: no published versions; `tinygptv refresh` publishes one"
    for source_name, known in found.items():
        for one in known.versions:
            mark = "  current" if one == known.current else ""
            yield f"{source_name}@{one.number}  {one.published}  {one.rows:>9} samples  {one.filtered}{mark}"


def _diff(options: argparse.Namespace) -> Iterator[str]:
    """Counts of added, removed and changed samples between two versions, then their keys."""
    from tinygptv.data.versions.versions import artifact_of, diff

    store = Store(options.workdir)
    found = diff(store, artifact_of(store, options.before), artifact_of(store, options.after))
    for kind, count in found.counts.items():
        yield f"{count} {kind}"
    rows = found.table if options.all else found.table.slice(0, _SHOWN_KEYS)
    yield from (f"{row['change']:<8} {row['key']}  {row['url']}" for row in rows.to_pylist())
    if len(rows) < len(found.table):
        yield f"… and {len(found.table) - len(rows)} more; --all lists them"


def _card(options: argparse.Namespace) -> Iterator[str]:
    """Write the data card of a version and yield the paths."""
    from tinygptv.data.versions.card import CARD_JSON, CARD_PAGE, card
    from tinygptv.data.versions.versions import artifact_of

    store = Store(options.workdir)
    artifact = artifact_of(store, options.version)
    filtered = store.find(artifact)
    if filtered is None or not artifact.startswith("filtered/"):
        raise DefinitionError(f"'{options.version}': expected source@number or the name of a filtered artifact")
    folder = store.folder(card(store, filtered).artifact)
    yield f"{folder / CARD_PAGE}"
    yield f"{folder / CARD_JSON}"


def _forget(options: argparse.Namespace) -> Iterator[str]:
    """Record a request to forget, and list every artifact that holds or was trained on the named samples."""
    from tinygptv.data.forget.tombstones import add_tombstone, tombstone
    from tinygptv.runs.exposure import annotated_copies, traces

    ((kind, value),) = [(kind, given) for kind in KINDS if (given := getattr(options, kind)) is not None]
    store, request = Store(options.workdir), tombstone(kind, value, options.why)
    named = [request]
    if kind == "sha256":
        why = f"{request.why}; sha256 {request.value}"
        named += [tombstone("image", place, why) for place in annotated_copies(store, request.value)]
    if options.dry_run:
        yield from (f"would forget samples with {one.kind} {one.value}:" for one in named)
    else:
        for one in named:
            number = add_tombstone(store, one)
            yield f"tombstone {number}: {one.kind} {one.value}; masked from now on and left out of new artifacts"
    found = traces(store, named)
    yield from (f"  {trace}" for trace in (*found.holders, *found.exposures, *found.elsewhere))
    if not found.holders and not found.exposures:
        yield "  no artifact in this workdir holds it or was trained on it"


KINDS: tuple["Kind", ...] = ("url", "domain", "sha256", "caption", "image")
"""Ways to name the samples to forget; exactly one is given."""


def add_dataset_verbs(add: AddVerb) -> None:
    """Declare the verbs."""
    about = "fetch what changed in a source and publish a new version if its checks pass"
    refresh = add("refresh", about, "refresh", printing(_refresh))
    refresh.add_argument("--source", default=SOURCE, help=f"name of a source, or a table (default: {SOURCE})")
    about = f"items of this recipe's benchmarks are left out (default: {RECIPE})"
    refresh.add_argument("--recipe", default=RECIPE, help=about)
    refresh.add_argument(
        "--accept", action="append", default=[], metavar="CHECK", help="publish even if this check fails"
    )
    versions = add("versions", "list the published versions of every source", "versions", printing(_versions))
    diff = add("diff", "show what changed between two versions", f"diff {SOURCE}@1 {SOURCE}@2", printing(_diff))
    diff.add_argument("before", help="source@number, or an artifact's name")
    diff.add_argument("after")
    diff.add_argument("--all", action="store_true", help=f"list all keys, not only the first {_SHOWN_KEYS}")
    card = add("card", "write the data card of a version", f"card {SOURCE}@1", printing(_card))
    card.add_argument("version", help="source@number, or the name of a filtered artifact")
    about = "remove samples: mask them now, leave them out later, and list what was trained on them"
    forget = add("forget", about, "forget --domain example.org --why 'requested by its owner'", printing(_forget))
    named = forget.add_mutually_exclusive_group(required=True)
    named.add_argument("--url")
    named.add_argument("--domain", help="including its subdomains")
    named.add_argument("--sha256", help="hash of the image as served or as stored")
    named.add_argument(
        "--image", metavar="PATH", help="image of an annotated set: the end of its path, such as val2014/42.jpg"
    )
    named.add_argument("--caption", metavar="REGEX", help="RE2 syntax; (?i) ignores case")
    forget.add_argument("--why", required=True, help="reason, recorded with the request")
    forget.add_argument("--dry-run", action="store_true", help="list what would be forgotten, and record nothing")
    for parser in (refresh, versions, diff, card, forget):
        parser.add_argument("--workdir", default=WORKDIR, help=f"path or s3://… (default: {WORKDIR})")
