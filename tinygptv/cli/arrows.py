"""The verbs that follow the journey's arrows: download, score, filter, mix, encode, train, … and train-all."""

import argparse
import contextlib
import json
import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby

from tinygptv import catalog
from tinygptv.cli.encode import add_encode_options, encode_share, refuse_live
from tinygptv.cli.mix import add_mix_options, mix_lines
from tinygptv.cli.options import AddVerb, Command, add_dry_run, add_run_options, journey_of
from tinygptv.errors import DefinitionError
from tinygptv.journey import SOURCE, Arrow, Journey, Verb, summary
from tinygptv.runs.plan import Planned, plan
from tinygptv.store.artifacts import Manifest
from tinygptv.store.memory import PeakMemory

_VERBS: dict[str, tuple[tuple[Verb, ...], str]] = {
    "download": (("download",), "fetch the images listed in a source's tables into raw shards"),
    "score": (("score",), "score how well image and caption match, with the frozen model that the filter names"),
    "filter": (("filter",), "keep the raw pairs that pass every rule of the source's filter"),
    "curate": (("download", "score", "filter"), "download, score if the filter uses scores, then filter"),
    "mix": (("mix",), "build the mixtures that a recipe's stages sample from"),
    "encode": (("encode",), "precompute the output of a stage's frozen parts for its images (features: cached)"),
    "train": (("train", "gate"), "train a recipe's stages in order, checking their gates, or one with --stage"),
    "export": (("export",), "merge the last stage's adapters into one folder that loads by itself"),
    "quantize": (("quantize",), "store the export's linear layers in 8 bits"),
    "evaluate": (("evaluate",), "score every stage and export on the recipe's benchmarks, or one model with --model"),
    "report": (("report",), "write report.html from the results of the run"),
    "train-all": ((), "all of the above, in order"),
}


def add_arrow_verbs(add: AddVerb) -> None:
    """Declare the verbs."""
    commands: dict[str, Command] = {"curate": _curate, "filter": _filter, "mix": _mix, "encode": _encode}
    for name, (verbs, about) in _VERBS.items():
        verb = add(name, about, f"{name} --run first --source {SOURCE}", commands.get(name, _walk))
        add_run_options(verb)
        add_dry_run(verb)
        verb.set_defaults(verbs=verbs, stage=None, model=None)
        if name == "encode":
            add_encode_options(verb)
        if name == "train":
            verb.add_argument("--stage", help="train only this stage, from the previous stage's checkpoint")
        if name == "mix":
            add_mix_options(verb)
        if name == "evaluate":
            verb.add_argument("--model", help="only this model: a stage's name, export or int8")
        if name == "filter":
            verb.add_argument("--preview", metavar="RULE", help="make nothing; show the effect of another threshold")
            verb.add_argument("--threshold", type=float, metavar="X", help="threshold to try, with --preview")


def print_plan(planned: Iterable[Planned]) -> None:
    """One line per arrow; evaluations of the same model share a line."""

    def row(one: Planned) -> tuple[str, str, str, str]:
        scores = one.arrow.verb == "evaluate"
        subject = f"{one.arrow.subject}{' (noise)' if one.arrow.noise else ''}"
        return one.action, one.arrow.verb, subject, "" if scores else f"{one.artifact}  ({one.why})"

    for (action, verb, subject, detail), group in groupby(planned, key=row):
        print(f"{action:<7} {verb:<9} {subject:<16} {detail or f'on {len(list(group))} benchmarks'}")


def _walk(options: argparse.Namespace) -> int:
    """Follow the selected arrows in order, or with --dry-run print them."""
    journey = journey_of(options)
    selected = _selected(journey, options)
    if not selected:
        where = f"datasets/filters/{journey.run.source.filter}.yaml"
        raise DefinitionError(f"{where} names no scorer; add `scores: NAME` ({', '.join(catalog.names('scorer'))})")
    if options.dry_run:
        _print_selected(journey, selected)
        return 0
    _make_all(journey, selected)
    return 0


def _curate(options: argparse.Namespace) -> int:
    """Like `_walk`. The last line is a JSON summary that accounts for every row of the source's tables."""
    if options.dry_run:
        return _walk(options)
    started = time.monotonic()
    with PeakMemory() as memory, _unwinding_on_sigterm():
        journey = journey_of(options)
        raw, *_, kept = (_make(journey, arrow) for arrow in journey.arrows(*options.verbs))
    account = {
        "rows_in": raw.rows_in,
        "rows_out": kept.rows_out,
        "drops": dict(Counter(raw.drops) + Counter(kept.drops)),
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory_bytes": memory.bytes,
    }
    print(json.dumps(account), flush=True)
    return 0


def _filter(options: argparse.Namespace) -> int:
    """Like `_walk`, or with --preview print as JSON what another threshold would change."""
    if options.preview is None:
        return _walk(options)
    if options.threshold is None:
        raise DefinitionError("--preview needs --threshold: the threshold to try for that rule")
    from tinygptv.data.filters.preview import preview

    journey = journey_of(options)
    run, raw, scores = journey.run, journey.find(journey.arrows("download")[0]), journey.scores()
    rule = options.preview, options.threshold
    shown = preview(journey.store, run.source_name, run.source.filter, raw, *rule, scores)
    print(json.dumps(asdict(shown), default=str))
    return 0


def _encode(options: argparse.Namespace) -> int:
    """Like `_walk`, or with --part one machine's share of the work."""
    journey = journey_of(options)
    refuse_live(journey)
    if options.dry_run or options.part is None:
        return _walk(options)
    with _unwinding_on_sigterm():
        encode_share(journey, _selected(journey, options), options.part)
    return 0


def _mix(options: argparse.Namespace) -> int:
    """Build every mixture, then print its shares and what the options ask for."""
    journey = journey_of(options)
    mixtures = journey.arrows("mix")
    if options.dry_run:
        _print_selected(journey, mixtures)
        return 0
    _make_all(journey, mixtures)
    for line in mix_lines(journey, options):
        print(line, flush=True)
    return 0


def _selected(journey: Journey, options: argparse.Namespace) -> list[Arrow]:
    """The arrows of a verb, only those of --stage or --model if given. Raises DefinitionError if it is unknown."""
    arrows = journey.arrows(*options.verbs)
    if options.stage:
        journey.arrow(options.verbs[0], options.stage)
        return [arrow for arrow in arrows if arrow.subject == options.stage]
    if options.model:
        journey.arrow("evaluate", options.model)
        return [arrow for arrow in arrows if arrow.subject == options.model]
    return arrows


def _print_selected(journey: Journey, selected: list[Arrow]) -> None:
    print_plan(planned for planned in plan(journey) if planned.arrow in selected)


def _make_all(journey: Journey, arrows: list[Arrow]) -> None:
    with _unwinding_on_sigterm():
        for arrow in arrows:
            _make(journey, arrow)


def _make(journey: Journey, arrow: Arrow) -> Manifest:
    manifest = journey.make(arrow, logging.getLogger("tinygptv").info)
    print(f"{arrow}: {summary(manifest)}\n    {journey.store.workdir}/{manifest.artifact}", flush=True)
    return manifest


@contextlib.contextmanager
def _unwinding_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that child processes end and locks are released."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
