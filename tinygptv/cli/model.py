"""The verbs about weights and models: bootstrap, chat, convert."""

import argparse
from pathlib import Path

from tinygptv import catalog
from tinygptv.cli.options import AddVerb, add_dry_run, add_run_options, journey_of
from tinygptv.errors import DefinitionError, did_you_mean
from tinygptv.journey import EXPORT, QUANTIZED, RECIPE
from tinygptv.release import LAYOUTS
from tinygptv.store.locations import PACKAGE

BACKBONES = PACKAGE / "backbones" / "shapes"


def add_model_verbs(add: AddVerb) -> None:
    """Declare the verbs."""
    about = "pretrain the tiny recipe's frozen parts on the embedded corpus; takes about an hour on two cores"
    bootstrap = add("bootstrap", about, "bootstrap --output backbones", _bootstrap)
    bootstrap.add_argument("--output", type=Path, default=BACKBONES, help="phases already finished there are skipped")
    bootstrap.add_argument("--phase", action="append", help="tokenizer, tower, qformer or language (default: all)")
    add_dry_run(bootstrap)

    chat = add("chat", "ask a run's exported model about an image", "chat picture.png '[vqa] what is this?'", _chat)
    add_run_options(chat)
    chat.add_argument("--model", default=EXPORT, choices=[EXPORT, QUANTIZED], help=f"default: {EXPORT}")
    chat.add_argument("picture", type=Path)
    chat.add_argument("question", help="may begin with a task tag such as [vqa], [refer] or [caption]")

    about = "convert weights from one layout to another, accounting for every tensor"
    example = "convert TinyGPT-V_for_Stage3.pth stage3 --to tinygptv --recipe tinygptv --stage stage3"
    convert = add("convert", about, example, _convert)
    convert.add_argument("input", type=Path, help="a published file or folder, a stage's folder or trained.safetensors")
    convert.add_argument("output", type=Path, help="must not exist: a .pth file for reference, otherwise a folder")
    convert.add_argument("--to", choices=LAYOUTS, default=LAYOUTS[0], help=f"default: {LAYOUTS[0]}")
    convert.add_argument("--recipe", default=RECIPE, help=f"recipe of the model (default: {RECIPE})")
    convert.add_argument("--stage", help="stage that produced the input (default: the last)")


def _bootstrap(options: argparse.Namespace) -> int:
    if options.dry_run:
        print(f"would train {', '.join(options.phase or ['every phase'])} into {options.output}")
        return 0
    from tinygptv.shapes.bootstrap import PHASES, run

    run(options.output, options.phase or PHASES)
    return 0


def _chat(options: argparse.Namespace) -> int:
    journey = journey_of(options)
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
