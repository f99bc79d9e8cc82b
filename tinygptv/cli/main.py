"""`tinygptv <verb>`: one subcommand per arrow of the journey, without a server.

Each calls the same library function as the flow of that name. Exit codes: 0 done, 1 the work failed, 2 a definition or
parameter is wrong and nothing was started. Torch is imported by the work, never by the command line itself.
"""

import argparse
import contextlib
import io
import json
import logging
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from tinygptv import catalog
from tinygptv.cli.ablate import ablate_lines, add_ablate_options
from tinygptv.cli.dataset import Lines, add_dataset_verbs
from tinygptv.cli.doctor import add_doctor_options, run_doctor
from tinygptv.cli.encode import add_encode_options, encode_share, refuse_live
from tinygptv.cli.mix import add_mix_options, mix_lines
from tinygptv.errors import DefinitionError, TinyGPTVError, did_you_mean
from tinygptv.journey import (
    EXPORT,
    HARDWARE,
    QUANTIZED,
    RECIPE,
    RUN,
    SOURCE,
    WORKDIR,
    Arrow,
    Journey,
    Verb,
    open_journey,
    summary,
)
from tinygptv.release.layouts import LAYOUTS
from tinygptv.runs.plan import Planned, plan
from tinygptv.store.artifacts import Manifest
from tinygptv.store.locations import PACKAGE
from tinygptv.store.memory import PeakMemory

BACKBONES = PACKAGE / "backbones" / "shapes"

_VERBS: dict[str, tuple[tuple[Verb, ...], str]] = {
    "download": (("download",), "fetch the images that a source's tables point at, into raw shards"),
    "score": (("score",), "say how well the raw pairs match, by the frozen model that the source's filter names"),
    "filter": (("filter",), "keep the raw pairs that every rule of the source's filter keeps"),
    "curate": (("download", "score", "filter"), "download, score if the filter asks for it, then filter"),
    "mix": (("mix",), "make the mixtures that a recipe's stages draw from"),
    "encode": (("encode",), "compute once what a stage's frozen parts make of its images (features: cached)"),
    "train": (("train", "gate"), "train a recipe's stages in order, each up to its gates, or one of them with --stage"),
    "export": (("export",), "merge the last stage's adapters into one folder that loads by itself"),
    "quantize": (("quantize",), "store the export's linear layers in eight bits"),
    "evaluate": (("evaluate",), "score every stage and export on the recipe's benchmarks, or one model with --model"),
    "report": (("report",), "write report.html from everything the run left"),
    "train-all": ((), "all of the above, in order"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code. Errors meant for users are one line on stderr."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be any bytes
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("tinygptv").setLevel(logging.INFO)
    try:
        _refuse_other_bytes(options)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except DefinitionError as error:
        print(f"DefinitionError: {error}", file=sys.stderr)
        return 2
    except TinyGPTVError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


def _refuse_other_bytes(options: argparse.Namespace) -> None:
    """Raise DefinitionError for text that is not UTF-8; paths may be any bytes."""
    for name, value in vars(options).items():
        texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise DefinitionError(f"{name}: {text!r} is not UTF-8; write it in UTF-8") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tinygptv", description="From URL tables to a trained, evaluated model.")
    subcommands = parser.add_subparsers(required=True, metavar="VERB")

    def add(
        name: str, about: str, example: str, command: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        added = subcommands.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", epilog=f"example: tinygptv {example}"
        )
        added.set_defaults(command=command)
        return added

    about = "say what each stage needs, and what train-all would reuse, resume and run"
    planned = add("plan", about, "plan --recipe tinygptv --hardware rtx3090", _plan)
    _add_run_options(planned)
    planned.add_argument("--json", action="store_true", help="one JSON line per stage, and nothing else")
    for name, (verbs, about) in _VERBS.items():
        command = _curate if name == "curate" else _walk
        verb = add(name, about, f"{name} --run first --source {SOURCE}", command)
        _add_run_options(verb)
        verb.add_argument("--dry-run", action="store_true", help="print what would happen, and do nothing")
        verb.set_defaults(verbs=verbs, stage=None, model=None)
        if name == "encode":
            add_encode_options(verb)
            verb.set_defaults(command=_encode)
        if name == "train":
            verb.add_argument("--stage", help="only this stage, from what the stage before it left")
        if name == "mix":
            add_mix_options(verb)
            verb.set_defaults(command=_mix)
        if name == "evaluate":
            verb.add_argument("--model", help="only this model: a stage's name, export or int8")
        if name == "filter":
            verb.add_argument("--preview", metavar="RULE", help="make nothing; say what another threshold would change")
            verb.add_argument("--threshold", type=float, metavar="X", help="the number to try in the rule's place")
            verb.set_defaults(command=_filter)
    add_dataset_verbs(lambda name, about, example, verb: add(name, about, example, _printing(verb)))
    _add_others(add)
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", default=RUN, help=f"name; the same name continues (default: {RUN})")
    parser.add_argument("--recipe", default=RECIPE, help=f"what is learned (default: {RECIPE})")
    parser.add_argument("--source", default=SOURCE, help=f"a source's name, or a URL+caption table (default: {SOURCE})")
    parser.add_argument("--hardware", default=HARDWARE, help=f"how it fits the machine (default: {HARDWARE})")
    parser.add_argument("--workdir", default=WORKDIR, help=f"path or s3://… (default: {WORKDIR})")


def _add_others(add: Callable[..., argparse.ArgumentParser]) -> None:
    about = "pretrain the tiny recipe's frozen parts on the embedded corpus; about an hour on two cores, run once"
    bootstrap = add("bootstrap", about, "bootstrap --output backbones", _bootstrap)
    bootstrap.add_argument("--output", type=Path, default=BACKBONES, help="finished phases there are not repeated")
    bootstrap.add_argument("--phase", action="append", help="tokenizer, tower, qformer or language (default: all)")
    bootstrap.add_argument("--dry-run", action="store_true", help="print what would happen, and do nothing")

    chat = add("chat", "ask a run's released model about a picture", "chat picture.png '[vqa] what is this?'", _chat)
    _add_run_options(chat)
    chat.add_argument("--model", default=EXPORT, choices=[EXPORT, QUANTIZED], help=f"default: {EXPORT}")
    chat.add_argument("picture", type=Path)
    chat.add_argument("question", help="may begin with a task tag such as [vqa], [refer] or [caption]")

    about = "write weights of one layout in another, every tensor accounted for"
    example = "convert TinyGPT-V_for_Stage3.pth stage3 --to tinygptv --recipe tinygptv --stage stage3"
    convert = add("convert", about, example, _convert)
    convert.add_argument("input", type=Path, help="a published file or folder, a stage's folder or trained.safetensors")
    convert.add_argument("output", type=Path, help="must not exist yet: a .pth file for reference, else a folder")
    convert.add_argument("--to", choices=LAYOUTS, default=LAYOUTS[0], help=f"default: {LAYOUTS[0]}")
    convert.add_argument("--recipe", default=RECIPE, help=f"whose model it is (default: {RECIPE})")
    convert.add_argument("--stage", help="which stage left the input behind (default: the last)")

    about = "read finished artifacts again, and say what in them is damaged"
    verify = add("verify", about, f"verify {WORKDIR}/raw", _verify)
    repair = add("repair", "restore what is damaged, or have it made again", f"repair {WORKDIR}/raw", _repair)
    for reader in (verify, repair):
        reader.add_argument("place", help="a workdir, a part of one, or one artifact: a path or s3://…")

    add_doctor_options(
        add("doctor", "prove by behaviour that this environment works", "doctor --workdir work", run_doctor)
    )

    about = "train a recipe whole and without one thing at a time, and compare what each learns"
    ablating = add("ablate", about, "ablate --without lora,qk_norm --steps-scale 0.25", _printing(ablate_lines))
    _add_run_options(ablating)
    add_ablate_options(ablating)


def _printing(verb: Lines) -> Callable[[argparse.Namespace], int]:
    """A command that prints the lines of a verb as they come."""

    def command(options: argparse.Namespace) -> int:
        for line in verb(options):
            print(line, flush=True)
        return 0

    return command


def _journey(options: argparse.Namespace) -> Journey:
    return open_journey(options.run, options.recipe, options.source, options.hardware, options.workdir)


def _plan(options: argparse.Namespace) -> int:
    """Needs neither weights nor data, but counts the longest sequence of a mixture that was checked. Raises
    DefinitionError, after printing, for a stage that does not fit."""
    journey = _journey(options)
    from tinygptv.train.planning.estimate import StageEstimator
    from tinygptv.train.planning.fitting import refuse_unfit, settle
    from tinygptv.train.planning.table import record, table

    recipe, hardware = journey.run.recipe, journey.run.hardware
    longest = {stage.stage: journey.longest_sequence(stage.stage) for stage in recipe.stages}
    estimators = [StageEstimator(recipe, stage, tokens) for stage, tokens in longest.items()]
    profiles = [settle(estimator, hardware) for estimator in estimators]
    records = [record(*each) for each in zip(estimators, profiles, strict=True)]
    lines = [json.dumps(one) for one in records] if options.json else table(records, hardware)
    print("\n".join(lines), flush=True)
    for estimator, profile in zip(estimators, profiles, strict=True):
        refuse_unfit(estimator, profile, journey.run.hardware_name)
    if not options.json:
        try:
            _print_plan(plan(journey))
        except TinyGPTVError as error:
            print(f"not everything that training starts from is there yet: {error}")
    return 0


def _walk(options: argparse.Namespace) -> int:
    """Follow the chosen arrows in order, or with --dry-run say what that would do."""
    journey = _journey(options)
    chosen = _chosen(journey, options)
    if not chosen:
        where = f"datasets/filters/{journey.run.source.filter}.yaml"
        raise DefinitionError(f"{where} names no scorer; add `scores: NAME` ({', '.join(catalog.names('scorer'))})")
    if options.dry_run:
        _print_plan([planned for planned in plan(journey) if planned.arrow in chosen])
        return 0
    with _ending_in_order():
        for arrow in chosen:
            _make(journey, arrow)
    return 0


def _filter(options: argparse.Namespace) -> int:
    """As `_walk`, or with --preview what a threshold would change; the last line is that in JSON."""
    if options.preview is None:
        return _walk(options)
    if options.threshold is None:
        raise DefinitionError("--preview needs --threshold: the number to try in the rule's place")
    from tinygptv.data.filters.preview import preview

    journey = _journey(options)
    run, raw, scores = journey.run, journey.find(journey.arrows("download")[0]), journey.scores()
    asked = options.preview, options.threshold
    shown = preview(journey.store, run.source_name, run.source.filter, raw, *asked, scores)
    print(json.dumps(asdict(shown), default=str))
    return 0


def _encode(options: argparse.Namespace) -> int:
    """As `_walk`, or with --part one machine's share of the work."""
    journey = _journey(options)
    refuse_live(journey)
    if options.dry_run or options.part is None:
        return _walk(options)
    with _ending_in_order():
        encode_share(journey, _chosen(journey, options), options.part)
    return 0


def _mix(options: argparse.Namespace) -> int:
    """As `_walk`, for every mixture; then what was made, and what was asked about it."""
    journey = _journey(options)
    chosen = journey.arrows("mix")
    if options.dry_run:
        _print_plan([planned for planned in plan(journey) if planned.arrow in chosen])
        return 0
    with _ending_in_order():
        for arrow in chosen:
            _make(journey, arrow)
    for line in mix_lines(journey, options):
        print(line, flush=True)
    return 0


def _make(journey: Journey, arrow: Arrow) -> Manifest:
    manifest = journey.make(arrow, logging.getLogger("tinygptv").info)
    print(f"{arrow}: {summary(manifest)}\n    {journey.store.workdir}/{manifest.artifact}", flush=True)
    return manifest


def _curate(options: argparse.Namespace) -> int:
    """As `_walk`; the last line accounts, in JSON, for every row of the source's tables."""
    if options.dry_run:
        return _walk(options)
    started = time.monotonic()
    with PeakMemory() as memory, _ending_in_order():
        journey = _journey(options)
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


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM unwind what is going on, as Ctrl-C does, instead of leaving processes and locks behind."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _chosen(journey: Journey, options: argparse.Namespace) -> list[Arrow]:
    arrows = journey.arrows(*options.verbs)
    if options.stage:
        journey.arrow(options.verbs[0], options.stage)
        return [arrow for arrow in arrows if arrow.subject == options.stage]
    if options.model:
        journey.arrow("evaluate", options.model)
        return [arrow for arrow in arrows if arrow.subject == options.model]
    return arrows


def _print_plan(planned: list[Planned]) -> None:
    """One line per arrow; the evaluations of one model share a line."""

    def row(one: Planned) -> tuple[str, str, str, str]:
        scores = one.arrow.verb == "evaluate"
        subject = f"{one.arrow.subject}{' (noise)' if one.arrow.noise else ''}"
        return one.action, one.arrow.verb, subject, "" if scores else f"{one.artifact}  ({one.why})"

    for (action, verb, subject, detail), group in groupby(planned, key=row):
        print(f"{action:<7} {verb:<9} {subject:<16} {detail or f'on {len(list(group))} benchmarks'}")


def _bootstrap(options: argparse.Namespace) -> int:
    if options.dry_run:
        print(f"would train {', '.join(options.phase or ['every phase'])} into {options.output}")
        return 0
    from tinygptv.shapes.bootstrap import PHASES, run

    run(options.output, options.phase or PHASES)
    return 0


def _chat(options: argparse.Namespace) -> int:
    journey = _journey(options)
    model = journey.find(journey.arrows("export" if options.model == EXPORT else "quantize")[0])
    from tinygptv.release.chat import answer

    print(answer(journey.store.folder(model.artifact), options.picture, options.question))
    return 0


def _convert(options: argparse.Namespace) -> int:
    recipe = catalog.recipe(options.recipe)
    stages = [stage.stage for stage in recipe.stages]
    stage = options.stage or stages[-1]
    if stage not in stages:
        raise DefinitionError(f"--stage {stage}: {options.recipe} has no such stage. {did_you_mean(stage, stages)}")
    from tinygptv.release.convert import convert

    report = convert(options.input, options.output, options.to, recipe, stage)
    print("\n".join([*report.lines(), f"written to {options.output}"]))
    return 0


def _verify(options: argparse.Namespace) -> int:
    """One line per damage, and one JSON line for all. 1 if anything is damaged."""
    from tinygptv.data.upkeep.verify import verify

    found = verify(options.place)
    for damage in found.damages:
        print(damage)
    print(json.dumps(found.summary()))
    return 1 if found.damages else 0


def _repair(options: argparse.Namespace) -> int:
    """One line per artifact that was damaged, and one JSON line for all. 1 if one of them has to be made again."""
    from tinygptv.data.upkeep.repair import repair

    repaired = repair(options.place)
    for one in repaired:
        print(one)
    given_up = [one.name for one in repaired if one.given_up]
    print(json.dumps({"samples": sum(one.samples for one in repaired), "damaged": len(repaired), "given_up": given_up}))
    return 1 if given_up else 0
