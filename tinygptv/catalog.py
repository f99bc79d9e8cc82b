"""All definitions by name: loads YAML, follows every reference, refuses early.

A definition's name is its file stem, or the path of any `.yaml` file. Your own may lie in a folder that
$TINYGPTV_DEFINITIONS names, in subfolders called as the shipped ones (sources, filters, scorers, mixtures, benchmarks,
recipes, templates, hardware); they are looked at first. A recipe may begin with `base: NAME` and say only what differs
from it; it is asked for as NAME or, with the paper's ablations, as NAME:SWITCH[:SWITCH…]. `resolve_run` is the one gate
in front of all work: it returns every definition a run needs, or raises a DefinitionError that names file, field, what
was found and what to do.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from tinygptv.definitions.ablations import ablate
from tinygptv.definitions.benchmark import Benchmark
from tinygptv.definitions.captions import Captions
from tinygptv.definitions.derived import derive
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.mixture import RUN_SOURCE, Mixture
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Recipe, Stage
from tinygptv.definitions.scorer import Blip2Scorer, OpenClipScorer, Scorer
from tinygptv.definitions.source import AnnotationsSource, PairsSource, Source, Table
from tinygptv.definitions.table_names import KINDS, is_table_reference, reference_name, suffix_of, unpacked
from tinygptv.definitions.template import INSTRUCTION, Template
from tinygptv.definitions.trainable import DECODER
from tinygptv.errors import DefinitionError, did_you_mean
from tinygptv.store.locations import CHECKOUT, PACKAGE

T = TypeVar("T")

FOLDERS: dict[str, Path] = {
    "source": CHECKOUT / "datasets" / "sources",
    "filter": CHECKOUT / "datasets" / "filters",
    "captions": CHECKOUT / "datasets" / "captions",
    "scorer": CHECKOUT / "datasets" / "scorers",
    "mixture": CHECKOUT / "datasets" / "mixtures",
    "benchmark": CHECKOUT / "datasets" / "benchmarks",
    "recipe": PACKAGE / "recipes",
    "template": PACKAGE / "templates",
    "hardware": CHECKOUT / "infra" / "hardware",
}
OWN_DEFINITIONS = "TINYGPTV_DEFINITIONS"

# The parser in C, where PyYAML was built with it as its wheels are, is eight times as fast.
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def names(kind: str) -> list[str]:
    """Names of all definitions of a kind, sorted."""
    return sorted({path.stem for folder in _folders(kind) for path in folder.glob("*.yaml")})


def _folders(kind: str) -> list[Path]:
    shipped = FOLDERS[kind]
    own = os.environ.get(OWN_DEFINITIONS)
    return [Path(own).absolute() / shipped.name, shipped] if own else [shipped]


def recipe(reference: str) -> Recipe:
    """The recipe in `tinygptv/recipes/<name>.yaml`; a reference may add switches: `tinygptv:without_lora`."""
    name, *switches = reference.split(":")
    whole = _load("recipe", name, TypeAdapter(Recipe))
    try:
        return ablate(whole, switches)
    except DefinitionError as error:
        raise DefinitionError(f"recipe '{reference}': {error}") from None


def source(name: str) -> PairsSource | AnnotationsSource:
    """The source in `datasets/sources/<name>.yaml`, or an ad-hoc one for the path of a URL+caption table, of a folder
    of them, or of several (`*`)."""
    if is_table_reference(name):
        return _table_source(name)
    return _load("source", name, TypeAdapter(Source))


def source_name(name: str) -> str:
    """The short name of a source given as a name or as a table's path: `photos.parquet` → `photos`."""
    return reference_name(name) if is_table_reference(name) else name


def filter_chain(name: str) -> FilterChain:
    """The chain in `datasets/filters/<name>.yaml`."""
    return _load("filter", name, TypeAdapter(FilterChain))


def captions(name: str) -> Captions:
    """The cleaning in `datasets/captions/<name>.yaml`."""
    return _load("captions", name, TypeAdapter(Captions))


def scorer(name: str) -> Blip2Scorer | OpenClipScorer:
    """The scorer in `datasets/scorers/<name>.yaml`."""
    return _load("scorer", name, TypeAdapter(Scorer))


def mixture(name: str) -> Mixture:
    """The mixture in `datasets/mixtures/<name>.yaml`."""
    return _load("mixture", name, TypeAdapter(Mixture))


def benchmark(name: str) -> Benchmark:
    """The benchmark in `datasets/benchmarks/<name>.yaml`."""
    return _load("benchmark", name, TypeAdapter(Benchmark))


def hardware(name: str) -> Hardware:
    """The profile in `infra/hardware/<name>.yaml`."""
    return _load("hardware", name, TypeAdapter(Hardware))


def template(name: str) -> Template:
    """The template in `tinygptv/templates/<name>.yaml`."""
    return _load("template", name, TypeAdapter(Template))


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
    the_recipe, profile, the_source = recipe(recipe_name), hardware(hardware_name), source(source_reference)
    if not isinstance(the_source, PairsSource):
        raise DefinitionError(
            f"source '{source_reference}' holds annotations; a run starts from a pairs source "
            f"({', '.join(name for name in names('source') if isinstance(source(name), PairsSource))})"
        )
    mixtures: dict[str, Mixture] = {}
    for position, stage in enumerate(the_recipe.stages):
        where = f"recipe {recipe_name}, stages[{position}].mixture"
        mixtures[stage.mixture] = _referenced(where, "mixture", stage.mixture, mixture)
    sources: dict[str, AnnotationsSource | PairsSource] = {}
    for mixture_name, blend in mixtures.items():
        for position, component in enumerate(blend.components):
            if component.source != RUN_SOURCE:
                where = f"datasets/mixtures/{mixture_name}.yaml, components[{position}].source"
                sources[component.source] = _referenced(where, "source", component.source, source)
    benchmarks = {}
    for position, name in enumerate(the_recipe.benchmarks):
        where = f"recipe {recipe_name}, benchmarks[{position}]"
        benchmarks[name] = _referenced(where, "benchmark", name, benchmark)
        where = f"datasets/benchmarks/{name}.yaml, source"
        sources[benchmarks[name].source] = _referenced(where, "source", benchmarks[name].source, source)
    chain = filter_chain(the_source.filter)
    if chain.scores is not None:
        where = f"datasets/filters/{the_source.filter}.yaml"
        judge = _referenced(f"{where}, scores", "scorer", chain.scores, scorer)
        if chain.better_caption and judge.recaption is None:
            raise DefinitionError(f"{where}, better_caption: scorer '{chain.scores}' writes no captions; remove it")
    for stage in the_recipe.stages:
        check_batch(stage.stage, stage.global_batch_size, profile, hardware_name)
        check_batch_sizes(stage, mixtures[stage.mixture], profile, hardware_name)
        check_features(the_recipe.model, stage, profile, hardware_name)
        check_quantized_base(stage, profile, hardware_name)
        check_gates(recipe_name, stage, benchmarks)
    return ResolvedRun(
        recipe_name,
        the_recipe,
        hardware_name,
        profile,
        source_name(source_reference),
        the_source,
        chain,
        mixtures,
        sources,
        benchmarks,
    )


def check_batch(stage: str, global_batch_size: int, profile: Hardware, hardware_name: str) -> None:
    """Refuse a profile whose ranks cannot share a stage's global batch evenly. Raises DefinitionError."""
    ranks = profile.ranks * profile.nodes
    if global_batch_size % ranks:
        raise DefinitionError(
            f"infra/hardware/{hardware_name}.yaml, ranks: {ranks} ranks cannot share the global batch of {stage}, "
            f"{global_batch_size}, evenly; choose a number of ranks that divides it"
        )


def check_features(model: Model, stage: Stage, profile: Hardware, hardware_name: str) -> None:
    """Refuse to compute features for a stage that trains the vision encoder. Raises DefinitionError."""
    if profile.features == "cached" and not stage.frozen_prefix(model):
        raise DefinitionError(
            f"infra/hardware/{hardware_name}.yaml, features: {stage.stage} trains the vision encoder, so what it makes "
            "of an image changes with every step and cannot be computed in advance; write live"
        )


def check_quantized_base(stage: Stage, profile: Hardware, hardware_name: str) -> None:
    """Refuse to round weights that a stage trains. Raises DefinitionError."""
    if profile.quantize_base != "none" and DECODER in stage.trains:
        raise DefinitionError(
            f"infra/hardware/{hardware_name}.yaml, quantize_base: {stage.stage} trains {DECODER}, and weights rounded "
            "to 4 bits cannot learn; write none, or let the stage train language_model.lora"
        )


def check_gates(recipe_name: str, stage: Stage, benchmarks: Mapping[str, Benchmark]) -> None:
    """Refuse a gate that wants a figure its benchmark has not. Raises DefinitionError."""
    for place, gate in enumerate(stage.gates):
        asked = benchmarks[gate.benchmark]
        if gate.metric == "lenient" and not asked.has_lenient_score:
            raise DefinitionError(
                f"recipe {recipe_name}, {stage.stage}.gates[{place}].metric: {gate.benchmark} is scored by "
                f"{asked.metric}, for which the reference has no lenient rule; write score"
            )


def check_batch_sizes(stage: Stage, blend: Mixture, profile: Hardware, hardware_name: str) -> None:
    """Refuse batch sizes of a mixture's components that its ranks or the stage cannot hold. Raises DefinitionError."""
    for place, component in enumerate(blend.components):
        where, size = f"datasets/mixtures/{stage.mixture}.yaml, components[{place}].batch_size", component.batch_size
        if size is not None and size > stage.global_batch_size:
            raise DefinitionError(
                f"{where}: {component.source} puts {size} samples into a step, and {stage.stage} plans for "
                f"{stage.global_batch_size}; raise its global_batch_size to the largest of its mixture"
            )
        if size is not None and size % (profile.ranks * profile.nodes):
            raise DefinitionError(
                f"{where}: infra/hardware/{hardware_name}.yaml has {profile.ranks * profile.nodes} ranks, which cannot "
                f"share the {size} samples of {component.source} evenly; choose a number of ranks that divides them"
            )


def _referenced(where: str, kind: str, name: str, load: Any) -> Any:
    if name not in names(kind):
        folder = FOLDERS[kind].relative_to(CHECKOUT)
        raise DefinitionError(f"{where}: no {kind} named '{name}' in {folder}/. {did_you_mean(name, names(kind))}")
    return load(name)


def _load(kind: str, name: str, adapter: "TypeAdapter[T]") -> T:
    path = _find(kind, name)
    content = _read(path)
    if kind == "recipe":
        content = _with_templates(path, _with_base(path, content))
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        raise DefinitionError(f"{_shown(path)}: {_explain(error, content)}") from error


def _find(kind: str, name: str) -> Path:
    is_path = name.endswith(".yaml")
    candidates = [Path(name)] if is_path else [folder / f"{name}.yaml" for folder in _folders(kind)]
    path = next((path for path in candidates if path.is_file()), candidates[-1])
    if not path.is_file():
        raise DefinitionError(
            f"no {kind} named '{name}': there is no {_shown(path)}. {did_you_mean(name, names(kind))}"
        )
    return path


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _YAML_LOADER)
    except yaml.YAMLError as error:
        raise DefinitionError(f"{_shown(path)}: not valid YAML: {error}") from error


def _with_base(path: Path, content: Any) -> Any:
    """A recipe's content over that of its base, and of the base's, if it names one."""
    seen = [path]
    while isinstance(content, dict) and "base" in content:
        changes = {key: value for key, value in content.items() if key != "base"}
        base = content["base"]
        if not isinstance(base, str):
            raise DefinitionError(f"{_shown(path)}, base: found {base!r}, want the name of a recipe")
        try:
            above = _find("recipe", base)
        except DefinitionError as error:
            raise DefinitionError(f"{_shown(seen[-1])}, base: {error}") from None
        if above in seen:
            raise DefinitionError(f"{_shown(seen[-1])}, base: '{base}' is derived from this very file")
        seen.append(above)
        content = derive(_read(above), changes)
    return content


def _with_templates(path: Path, content: Any) -> Any:
    """A recipe's content with the templates that its stages name in their place, under what the stages say."""
    if not isinstance(content, dict) or not isinstance(content.get("stages"), list):
        return content
    where = f"{_shown(path)}, stages"
    stages = [_with_template(f"{where}[{place}]", stage) for place, stage in enumerate(content["stages"])]
    return content | {"stages": stages}


def _with_template(where: str, stage: Any) -> Any:
    inputs = stage.get("inputs") if isinstance(stage, dict) else None
    if not isinstance(inputs, dict):
        return stage
    name = inputs.get("template")
    if not isinstance(name, str) or INSTRUCTION in name:
        return stage
    if name not in names("template"):
        raise DefinitionError(
            f"{where}.inputs.template: {name!r} is no file of {_shown(FOLDERS['template'])}/, and a template of one's "
            f"own needs exactly one {{}} where the instruction goes. {did_you_mean(name, names('template'))}"
        )
    named = template(name).model_dump(exclude={"about"}, exclude_unset=True)
    return stage | {"inputs": named | {key: value for key, value in inputs.items() if key != "template"}}


def _shown(path: Path) -> Path:
    return path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path


def _explain(error: ValidationError, content: Any) -> str:
    """All problems at once, each with its field, what was found and what to do."""
    lines = []
    for problem in error.errors():
        field = _field_path(problem["loc"])
        found = problem["input"]
        match problem["type"]:
            case "extra_forbidden":
                lines.append(f"{field}: unknown key; remove or rename it")
            case "missing":
                lines.append(f"{field}: missing; add it")
            case "float_type" if isinstance(found, str):
                lines.append(
                    f"{field}: found the text {found!r}, want a number (YAML reads 1e-5 as text: write 1.0e-5)"
                )
            case _:
                shown = "" if isinstance(found, (dict, list, BaseModel)) else f" (found {found!r})"
                lines.append(f"{field}: {problem['msg'].removeprefix('Value error, ')}{shown}")
    return "; ".join(lines)


def _field_path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".") or "top level"


def _table_source(reference: str) -> PairsSource:
    if "://" not in reference and "*" not in reference and not Path(reference).exists():
        what = "no such file" if suffix_of(unpacked(reference)) in KINDS else "not a table, and not a folder of tables"
        raise DefinitionError(f"source '{reference}': {what}")
    location = reference if "://" in reference else str(Path(reference).absolute())
    return PairsSource(
        kind="pairs",
        about=f"the table {reference}",
        licence="unknown: given by path",
        tables=[Table(location=location)],
        filter="web_pairs",
    )
