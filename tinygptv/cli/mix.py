"""The command line's questions to a finished mixture: how it is drawn, what a step sees, what samples look like."""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

from tinygptv.definitions.recipe import Stage
from tinygptv.errors import DefinitionError, TinyGPTVError, did_you_mean
from tinygptv.journey import Arrow, Journey
from tinygptv.store.locations import local_path


def add_mix_options(parser: argparse.ArgumentParser) -> None:
    """What may be asked after the mixtures are made."""
    parser.add_argument("--stage", help="whose mixture is shown (default: every stage's)")
    parser.add_argument("--show", type=int, metavar="N", help="print the first samples of a stage, token for token")
    parser.add_argument("--html", metavar="FILE", help="with --show, write them with their pictures and boxes, too")
    parser.add_argument("--at", type=int, metavar="STEP", help="name the samples of a step")


def mix_lines(journey: Journey, options: argparse.Namespace) -> Iterator[str]:
    """The answer to each option, stage by stage. The mixtures are there. Raises DefinitionError for a wrong option."""
    if options.html and (options.show is None or options.stage is None):
        raise DefinitionError("--html shows one stage's samples; say --show N and --stage NAME too")
    for option, least in (("show", 1), ("at", 0)):
        given = getattr(options, option)
        if given is not None and given < least:
            raise DefinitionError(f"--{option} {given}: give {least} or more")
    from tinygptv.data.mixtures.sampling_order import order_seed

    stages = {stage.stage: stage for stage in journey.run.recipe.stages}
    if options.stage and options.stage not in stages:
        raise DefinitionError(f"--stage {options.stage}: no such stage. {did_you_mean(options.stage, stages)}")
    for name, stage in stages.items():
        if options.stage in (None, name):
            mixture = journey.find(Arrow("mix", stage.mixture)).artifact
            usable, found = _usable(journey, name)
            yield from journey.shares(name)
            yield from (f"  {line}" for line in found)
            seed = order_seed(journey.run.recipe.seed, name)
            if options.at is not None:
                yield from _step(journey, stage, mixture, usable, seed, options.at)
            if options.show is not None:
                yield from _samples(journey, stage, mixture, usable, seed, options)


def _usable(journey: Journey, stage_name: str) -> tuple[str | None, list[str]]:
    """The artifact that knows which samples a stage can learn from, and what it says. None without the tokenizer, which
    may come later than the data."""
    try:
        local_path(journey.run.recipe.model.language_model.tokenizer)
    except TinyGPTVError as error:
        return None, [f"lengths and end symbols are not checked yet, which training does: {error}"]
    from tinygptv.data.batches.usable import summary_lines

    checked = journey.usable(stage_name)
    return checked.artifact, list(summary_lines(checked))


def _step(journey: Journey, stage: Stage, artifact: str, usable: str | None, seed: int, step: int) -> Iterator[str]:
    from tinygptv.data.mixtures.mixing import MixedSamples

    mixed = MixedSamples(journey.store, artifact, usable=usable)
    places = mixed.order(seed, stage.global_batch_size).draw(step)
    for (component, position), sample in zip(places, mixed.samples(places), strict=True):
        task = mixed.mixture.components[component].task
        images = ", ".join(image.path for image in sample.images) or "no image"
        yield f"  step {step}: {sample.source} {task} #{position} {sample.key}  ({images})"


def _samples(
    journey: Journey, stage: Stage, artifact: str, usable: str | None, seed: int, options: argparse.Namespace
) -> Iterator[str]:
    from tinygptv.data.batches.batching import Loader, load_tokenizer
    from tinygptv.data.batches.showing import line, samples_of, write_gallery

    model = journey.run.recipe.model
    tokenizer = load_tokenizer(local_path(model.language_model.tokenizer))
    tokens = model.num_image_tokens(stage.inputs.image_size)
    batch = stage.global_batch_size
    loader = Loader(
        journey.store,
        artifact,
        stage.inputs,
        tokenizer,
        num_image_tokens=tokens,
        global_batch_size=batch,
        seed=seed,
        usable=usable,
        preprocessing=model.vision_encoder.preprocessing,
    )
    first = list(itertools.islice(samples_of(loader, itertools.count(options.at or 0), tokenizer), options.show))
    yield from (line(shown, coloured=sys.stdout.isatty()) for shown in first)
    if options.html:
        write_gallery(Path(options.html), f"{stage.stage}: {stage.mixture}", first)
        yield f"written to {options.html}"
