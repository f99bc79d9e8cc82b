"""Options of the verb `mix`: show how a finished mixture is sampled, and the samples of a step."""

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
    """Add the options that inspect the finished mixtures."""
    parser.add_argument("--stage", help="show only this stage's mixture (default: all)")
    parser.add_argument("--show", type=int, metavar="N", help="print the first N samples of a stage, token by token")
    parser.add_argument("--html", metavar="FILE", help="with --show, also write the samples with images and boxes")
    parser.add_argument("--at", type=int, metavar="STEP", help="list the samples of a step")


def mix_lines(journey: Journey, options: argparse.Namespace) -> Iterator[str]:
    """Yield what the options ask for, stage by stage; mixtures must exist. Raises DefinitionError for a bad option."""
    if options.html and (options.show is None or options.stage is None):
        raise DefinitionError("--html needs --show N and --stage NAME: it shows the samples of one stage")
    for option, minimum in (("show", 1), ("at", 0)):
        given = getattr(options, option)
        if given is not None and given < minimum:
            raise DefinitionError(f"--{option} {given}: must be at least {minimum}")
    from tinygptv.data.mixtures.sampling_order import order_seed

    stages = {stage.stage: stage for stage in journey.run.recipe.stages}
    if options.stage and options.stage not in stages:
        raise DefinitionError(f"--stage {options.stage}: no such stage. {did_you_mean(options.stage, stages)}")
    for name, stage in stages.items():
        if options.stage in (None, name):
            mixture = journey.find(Arrow("mix", stage.mixture)).artifact
            usable, lines = _usable(journey, name)
            yield from journey.shares(name)
            yield from (f"  {line}" for line in lines)
            seed = order_seed(journey.run.recipe.seed, name)
            if options.at is not None:
                yield from _step(journey, stage, mixture, usable, seed, options.at)
            if options.show is not None:
                yield from _samples(journey, stage, mixture, usable, seed, options)


def _usable(journey: Journey, stage_name: str) -> tuple[str | None, list[str]]:
    """The artifact that lists the samples a stage can use, and a summary of it; None if the tokenizer is missing."""
    try:
        local_path(journey.run.recipe.model.language_model.tokenizer)
    except TinyGPTVError as error:
        return None, [f"sequence lengths and end symbols will be checked when training starts: {error}"]
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
    from tinygptv.data.batches.sample_view import line, samples_of, write_gallery

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
