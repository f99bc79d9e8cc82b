"""Every value that the stages of a run use, and where each comes from, as YAML.

    run · recipe · planned · hardware · source · filter · captions · scorer · mixtures · benchmarks · sources

Each section but `run` and `planned` is a definition, or one per name, defaults included. `planned` holds what a stage's
batch and machine determine together.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tinygptv import catalog
from tinygptv.catalog import OWN_DEFINITIONS, ResolvedRun
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.recipe import Stage
from tinygptv.loading.annotated import annotated
from tinygptv.loading.mistakes import Place
from tinygptv.loading.origins import with_changes, with_origins
from tinygptv.loading.written import Written
from tinygptv.train.deepspeed import accumulation_steps


def resolved(run: ResolvedRun, source_reference: str, profiles: Mapping[str, Hardware]) -> Written:
    """The run as a mapping of sections.

    `source_reference` is the source as requested: a name or a table. `profiles` holds the hardware profile of each
    stage, with gradient checkpointing resolved to true or false.
    """
    asked = {"recipe": run.recipe_name, "source": source_reference, "hardware": run.hardware_name}
    recipe, hardware = _recipe(run), _definition("hardware", run.hardware_name)
    sections = {
        "run": Written({name: Written(value, Place(f"--{name}")) for name, value in asked.items()}, Place("")),
        "recipe": recipe,
        "planned": Written(
            {stage.stage: _planned(stage, profiles[stage.stage], hardware) for stage in run.recipe.stages}, Place("")
        ),
        "hardware": hardware,
        "source": _definition("source", source_reference),
        "filter": _definition("filter", run.source.filter),
        "captions": _definition("captions", run.filter.captions),
        **({"scorer": _definition("scorer", run.filter.scores)} if run.filter.scores else {}),
        "mixtures": _named("mixture", run.mixtures, recipe),
        "benchmarks": _named("benchmark", run.benchmarks, recipe.content["benchmarks"]),
        "sources": _named("source", run.sources, recipe),
    }
    return Written(sections, Place(""))


def resolved_yaml(document: Written, shown: Callable[[Place], str] | None = None) -> str:
    """YAML in which a comment after each value names its origin."""
    return "".join(f"{line}\n" for line in annotated(document, shown or shown_place))


def shown_place(place: Place) -> str:
    """An origin; its file is relative to the checkout or to $TINYGPTV_DEFINITIONS, if it lies there."""
    own = os.environ.get(OWN_DEFINITIONS)
    path = Path(place.file)
    if own and path.is_relative_to(Path(own).absolute()):
        return str(Place(str(path.relative_to(Path(own).absolute())), place.line, note=place.note))
    return str(place)


def _definition(kind: str, reference: str) -> Written:
    loaded = catalog.load(kind, reference)
    return with_origins(loaded.definition, loaded.written, loaded.written.place)


def _named(kind: str, names: Iterable[str], asked_by: Written) -> Written:
    return Written({name: _definition(kind, name) for name in names}, asked_by.place)


def _recipe(run: ResolvedRun) -> Written:
    """The recipe; values that an ablation switch changed come from the option that names it."""
    name, *switches = run.recipe_name.split(":")
    whole = _definition("recipe", name)
    if not switches:
        return whole
    place = Place("--recipe", note=":".join(switches))
    return with_changes(whole, with_origins(run.recipe, None, place).plain(), place)


def _planned(stage: Stage, profile: Hardware, hardware: Written) -> Written:
    """Batch pieces and gradient checkpointing of a stage on this machine."""
    pieces = accumulation_steps(stage.global_batch_size, profile.world_size, profile.micro_batch_size)
    share = stage.global_batch_size // profile.world_size

    def value(content: object, field: str, note: str) -> Written:
        place = hardware.content[field].place
        return Written(content, Place(place.file, place.line, note=note))

    said = hardware.content["gradient_checkpointing"].content
    return Written(
        {
            "micro_batch_size": value(share // pieces, "micro_batch_size", "an equal share of the global batch"),
            "gradient_accumulation_steps": value(pieces, "micro_batch_size", "as many as make up the global batch"),
            "gradient_checkpointing": value(
                profile.gradient_checkpointing,
                "gradient_checkpointing",
                "decided by the stage's memory" if said == "if_needed" else "as it says",
            ),
        },
        Place(""),
    )
