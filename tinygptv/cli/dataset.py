"""The command line's verbs about data that is there: refresh, versions, diff, card, forget.

Each takes the parsed options and gives lines to print, as it gets them.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tinygptv import catalog
from tinygptv.errors import DataError, DefinitionError
from tinygptv.journey import HARDWARE, RECIPE, SOURCE, WORKDIR
from tinygptv.store.artifacts import Store

if TYPE_CHECKING:
    from tinygptv.data.forget.tombstones import Kind

Lines = Callable[[argparse.Namespace], Iterator[str]]

_SHOWN_KEYS = 20


def refresh_lines(options: argparse.Namespace) -> Iterator[str]:
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


def versions_lines(options: argparse.Namespace) -> Iterator[str]:
    """One line per published version, the current one of each source last and marked."""
    from tinygptv.data.versions.versions import versions

    found = versions(Store(options.workdir))
    if not found:
        yield f"{options.workdir}: nothing is published; `tinygptv refresh` publishes"
    for source_name, known in found.items():
        for one in known.versions:
            mark = "  current" if one == known.current else ""
            yield f"{source_name}@{one.number}  {one.published}  {one.rows:>9} samples  {one.filtered}{mark}"


def diff_lines(options: argparse.Namespace) -> Iterator[str]:
    """Counts of what one version has and another has not, then their keys."""
    from tinygptv.data.versions.versions import artifact_of, diff

    store = Store(options.workdir)
    found = diff(store, artifact_of(store, options.before), artifact_of(store, options.after))
    for kind, count in found.counts.items():
        yield f"{count} {kind}"
    rows = found.table if options.all else found.table.slice(0, _SHOWN_KEYS)
    yield from (f"{row['change']:<8} {row['key']}  {row['url']}" for row in rows.to_pylist())
    if len(rows) < len(found.table):
        yield f"… and {len(found.table) - len(rows)} more; --all lists them"


def card_lines(options: argparse.Namespace) -> Iterator[str]:
    """Write the data card of a version; where it is."""
    from tinygptv.data.versions.card import CARD_JSON, CARD_PAGE, card
    from tinygptv.data.versions.versions import artifact_of

    store = Store(options.workdir)
    artifact = artifact_of(store, options.version)
    filtered = store.find(artifact)
    if filtered is None or not artifact.startswith("filtered/"):
        raise DefinitionError(f"'{options.version}': want source@number, or the name of a filtered artifact")
    folder = store.folder(card(store, filtered).artifact)
    yield f"{folder / CARD_PAGE}"
    yield f"{folder / CARD_JSON}"


def forget_lines(options: argparse.Namespace) -> Iterator[str]:
    """Write down a request to forget, and list everything that holds or saw what it names."""
    from tinygptv.data.forget.tombstones import bury, tombstone
    from tinygptv.runs.exposure import annotated_copies, traces

    ((kind, value),) = [(kind, given) for kind in KINDS if (given := getattr(options, kind)) is not None]
    store, wanted = Store(options.workdir), tombstone(kind, value, options.why)
    named = [wanted]
    if kind == "sha256":
        why = f"{wanted.why}; sha256 {wanted.value}"
        named += [tombstone("image", place, why) for place in annotated_copies(store, wanted.value)]
    if options.dry_run:
        yield from (f"would forget what {one.kind} {one.value} names:" for one in named)
    else:
        for one in named:
            number = bury(store, one)
            yield f"tombstone {number}: {one.kind} {one.value}; masked from now on, left out of what is made later"
    found = traces(store, named)
    yield from (f"  {trace}" for trace in (*found.holders, *found.exposures, *found.elsewhere))
    if not found.holders and not found.exposures:
        yield "  nothing here holds or saw it"


KINDS: tuple["Kind", ...] = ("url", "domain", "sha256", "caption", "image")
"""What a request to forget may be named by; exactly one is given."""


def add_dataset_verbs(add: Callable[[str, str, str, Lines], argparse.ArgumentParser]) -> None:
    """Declare the verbs."""
    refresh = add(
        "refresh", "fetch what changed in a source and publish a version if its checks pass", "refresh", refresh_lines
    )
    refresh.add_argument("--source", default=SOURCE, help=f"a source's name, or a table (default: {SOURCE})")
    about = f"what of this recipe's benchmarks is in it is left out (default: {RECIPE})"
    refresh.add_argument("--recipe", default=RECIPE, help=about)
    refresh.add_argument(
        "--accept", action="append", default=[], metavar="CHECK", help="publish although this check fails"
    )
    versions = add("versions", "list the published versions of every source", "versions", versions_lines)
    diff = add("diff", "say what changed between two versions", f"diff {SOURCE}@1 {SOURCE}@2", diff_lines)
    diff.add_argument("before", help="source@number, or an artifact's name")
    diff.add_argument("after")
    diff.add_argument("--all", action="store_true", help=f"list all keys, not the first {_SHOWN_KEYS}")
    card = add("card", "write the data card of a version", f"card {SOURCE}@1", card_lines)
    card.add_argument("version", help="source@number, or the name of a filtered artifact")
    about = "take samples back: mask them now, leave them out later, and list who saw them"
    forget = add("forget", about, "forget --domain example.org --why 'asked for by its owner'", forget_lines)
    named = forget.add_mutually_exclusive_group(required=True)
    named.add_argument("--url")
    named.add_argument("--domain", help="with its subdomains")
    named.add_argument("--sha256", help="of the image, as served or as stored")
    named.add_argument("--image", metavar="PATH", help="of an annotated set: the end of its path, as val2014/42.jpg")
    named.add_argument("--caption", metavar="REGEX", help="RE2; (?i) ignores case")
    forget.add_argument("--why", required=True, help="so that others can tell later")
    forget.add_argument("--dry-run", action="store_true", help="list what would be forgotten, and write nothing down")
    for parser in (refresh, versions, diff, card, forget):
        parser.add_argument("--workdir", default=WORKDIR, help=f"path or s3://… (default: {WORKDIR})")
