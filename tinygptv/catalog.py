"""All definitions by name: loads YAML, follows every reference, refuses early.

A definition's name is its file stem, or the path of any `.yaml` file. Your own may lie in a folder that
$TINYGPTV_DEFINITIONS names, in subfolders called as the shipped ones (sources, filters, scorers, mixtures, benchmarks,
recipes, templates, hardware); they are looked at first. A recipe may begin with `base: NAME` and say only what differs
from it; it is asked for as NAME or, with the paper's ablations, as NAME:SWITCH[:SWITCH…]. `resolve_run` is the one gate
in front of all work: it returns every definition a run needs, or raises a DefinitionError that names file, line, field,
what was found and what to do. Reading and explaining are in `loading`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from tinygptv.definitions.ablations import ablate
from tinygptv.definitions.benchmark import Benchmark
from tinygptv.definitions.captions import Captions
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.mixture import RUN_SOURCE, Mixture
from tinygptv.definitions.recipe import Recipe
from tinygptv.definitions.scorer import Blip2Scorer, OpenClipScorer
from tinygptv.definitions.source import AnnotationsSource, PairsSource, Table
from tinygptv.definitions.table_names import KINDS, is_table_reference, reference_name, suffix_of, unpacked
from tinygptv.definitions.template import Template
from tinygptv.errors import DefinitionError, did_you_mean
from tinygptv.loading import files
from tinygptv.loading.checks import (
    Conflict,
    batch_conflicts,
    component_conflicts,
    feature_conflicts,
    gate_conflicts,
    quantization_conflicts,
)
from tinygptv.loading.files import FOLDERS, OWN_DEFINITIONS, Loaded, names
from tinygptv.loading.mistakes import FieldPath, Mistake, Place, refusal
from tinygptv.loading.written import written_as
from tinygptv.store.locations import shown

__all__ = ["FOLDERS", "OWN_DEFINITIONS", "names"]

_BY_PATH = ("filter", "captions")
"""Kinds that other definitions may also name by the path of a file."""


def load(kind: str, reference: str) -> Loaded:
    """A definition with the places of its values. `reference` is a name or path; for a source it may also be a table,
    and for a recipe it may add switches. Raises DefinitionError."""
    if kind == "source" and is_table_reference(reference):
        return _table_source(reference)
    if kind != "recipe":
        return files.load(kind, reference)
    name, *switches = reference.split(":")
    whole = files.load("recipe", name)
    try:
        return replace(whole, definition=ablate(whole.definition, switches))
    except DefinitionError as error:
        raise DefinitionError(f"recipe '{reference}': {error}") from None


def recipe(reference: str) -> Recipe:
    """The recipe in `tinygptv/recipes/<name>.yaml`; a reference may add switches: `tinygptv:without_lora`."""
    return cast(Recipe, load("recipe", reference).definition)


def source(name: str) -> PairsSource | AnnotationsSource:
    """The source in `datasets/sources/<name>.yaml`, or an ad-hoc one for the path of a URL+caption table, of a folder
    of them, or of several (`*`)."""
    return cast(PairsSource | AnnotationsSource, load("source", name).definition)


def source_name(name: str) -> str:
    """The short name of a source given as a name or as a table's path: `photos.parquet` → `photos`."""
    return reference_name(name) if is_table_reference(name) else name


def filter_chain(name: str) -> FilterChain:
    """The chain in `datasets/filters/<name>.yaml`."""
    return cast(FilterChain, load("filter", name).definition)


def captions(name: str) -> Captions:
    """The cleaning in `datasets/captions/<name>.yaml`."""
    return cast(Captions, load("captions", name).definition)


def scorer(name: str) -> Blip2Scorer | OpenClipScorer:
    """The scorer in `datasets/scorers/<name>.yaml`."""
    return cast(Blip2Scorer | OpenClipScorer, load("scorer", name).definition)


def mixture(name: str) -> Mixture:
    """The mixture in `datasets/mixtures/<name>.yaml`."""
    return cast(Mixture, load("mixture", name).definition)


def benchmark(name: str) -> Benchmark:
    """The benchmark in `datasets/benchmarks/<name>.yaml`."""
    return cast(Benchmark, load("benchmark", name).definition)


def hardware(name: str) -> Hardware:
    """The profile in `infra/hardware/<name>.yaml`."""
    return cast(Hardware, load("hardware", name).definition)


def template(name: str) -> Template:
    """The template in `tinygptv/templates/<name>.yaml`."""
    return cast(Template, load("template", name).definition)


@dataclass(frozen=True)
class ResolvedRun:
    """Everything `train-all` needs, loaded and cross-checked. Keys are names."""

    recipe_name: str
    recipe: Recipe
    hardware_name: str
    hardware: Hardware
    source_name: str
    source: PairsSource
    filter: FilterChain
    mixtures: dict[str, Mixture]
    sources: dict[str, AnnotationsSource | PairsSource]
    benchmarks: dict[str, Benchmark]

    @property
    def benchmark_sources(self) -> dict[str, AnnotationsSource]:
        """What the run is scored on, by source name: nothing of it may be learned from."""
        named = {benchmark.source: self.sources[benchmark.source] for benchmark in self.benchmarks.values()}
        return {name: source for name, source in named.items() if isinstance(source, AnnotationsSource)}


def resolve_run(recipe_name: str, source_reference: str, hardware_name: str) -> ResolvedRun:
    """Load and check all that a run refers to. Raises DefinitionError."""
    the_recipe, profile = load("recipe", recipe_name), load("hardware", hardware_name)
    the_source = load("source", source_reference)
    if not isinstance(the_source.definition, PairsSource):
        raise DefinitionError(
            f"source '{source_reference}' holds annotations; a run starts from a pairs source "
            f"({', '.join(name for name in names('source') if isinstance(source(name), PairsSource))})"
        )
    references = _References()
    mixtures = {
        stage.mixture: references.follow(the_recipe, ("stages", position, "mixture"), "mixture", stage.mixture)
        for position, stage in enumerate(the_recipe.definition.stages)
    }
    benchmarks = {
        name: references.follow(the_recipe, ("benchmarks", position), "benchmark", name)
        for position, name in enumerate(the_recipe.definition.benchmarks)
    }
    chain = references.follow(the_source, ("filter",), "filter", the_source.definition.filter)
    references.refuse_unknown()
    sources = {}
    for blend in mixtures.values():
        for position, component in enumerate(blend.definition.components):
            if component.source != RUN_SOURCE:
                where = ("components", position, "source")
                sources[component.source] = references.follow(blend, where, "source", component.source)
    for asked in benchmarks.values():
        name = asked.definition.source
        sources[name] = references.follow(asked, ("source",), "source", name)
    references.follow(chain, ("captions",), "captions", chain.definition.captions)
    if chain.definition.scores is not None:
        judge = references.follow(chain, ("scores",), "scorer", chain.definition.scores)
        references.refuse_unknown()
        if chain.definition.better_caption and judge.definition.recaption is None:
            text = f"scorer '{chain.definition.scores}' writes no captions; remove it"
            raise refusal([chain.mistake(("better_caption",), text)])
    references.refuse_unknown()
    run = ResolvedRun(
        recipe_name,
        the_recipe.definition,
        hardware_name,
        profile.definition,
        source_name(source_reference),
        the_source.definition,
        chain.definition,
        {name: loaded.definition for name, loaded in mixtures.items()},
        {name: loaded.definition for name, loaded in sources.items()},
        {name: loaded.definition for name, loaded in benchmarks.items()},
    )
    owners = {("recipe", recipe_name): the_recipe, ("hardware", hardware_name): profile}
    owners |= {("mixture", name): loaded for name, loaded in mixtures.items()}
    if conflicts := list(_conflicts(run)):
        raise refusal(owners[one.kind, one.name].mistake(one.path, one.text) for one in conflicts)
    return run


def _conflicts(run: ResolvedRun) -> Iterator[Conflict]:
    """All conflicts between the definitions of a run."""
    machine = run.hardware, run.hardware_name
    for position, stage in enumerate(run.recipe.stages):
        yield from batch_conflicts(stage, *machine)
        yield from component_conflicts(stage, run.mixtures[stage.mixture], *machine)
        yield from feature_conflicts(run.recipe.model, stage, *machine)
        yield from quantization_conflicts(stage, *machine)
        yield from gate_conflicts(run.recipe_name, position, stage, run.benchmarks)


class _References:
    """Follows names in definitions; unknown ones are reported together."""

    def __init__(self) -> None:
        self._unknown: list[Mistake] = []

    def follow(self, owner: Loaded, path: FieldPath, kind: str, name: str) -> Loaded:
        """The definition that `owner` names at `path`; a placeholder if the name is unknown, see `refuse_unknown`."""
        if name in names(kind) or (kind in _BY_PATH and name.endswith(".yaml")):
            return load(kind, name)
        text = f"no {kind} named '{name}' in {shown(FOLDERS[kind])}/. {did_you_mean(name, names(kind))}"
        self._unknown.append(owner.mistake(path, text))
        return owner

    def refuse_unknown(self) -> None:
        """Raise DefinitionError for the unknown names so far."""
        if self._unknown:
            raise refusal(self._unknown)


def _table_source(reference: str) -> Loaded:
    if "://" not in reference and "*" not in reference and not Path(reference).exists():
        what = "no such file" if suffix_of(unpacked(reference)) in KINDS else "not a table, and not a folder of tables"
        raise DefinitionError(f"source '{reference}': {what}")
    location = reference if "://" in reference else str(Path(reference).absolute())
    definition = PairsSource(
        kind="pairs",
        about=f"the table {reference}",
        licence="unknown: given by path",
        tables=[Table(location=location)],
        filter="web_pairs",
    )
    written = written_as(definition.model_dump(exclude_unset=True), Place("--source"))
    return Loaded(definition, written, written)
