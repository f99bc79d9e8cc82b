"""Finds the file of a definition by name, fills in its base and templates, and validates it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tinygptv.definitions.benchmark import Benchmark
from tinygptv.definitions.captions import Captions
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.mixture import Mixture
from tinygptv.definitions.recipe import Recipe
from tinygptv.definitions.scorer import Scorer
from tinygptv.definitions.source import Source
from tinygptv.definitions.template import INSTRUCTION, Template
from tinygptv.errors import DefinitionError, closest, did_you_mean
from tinygptv.loading.derived import STAGES, check_stages, derive, with_own_positions
from tinygptv.loading.explain import explain
from tinygptv.loading.mistakes import FieldPath, Mistake, field_name, refusal
from tinygptv.loading.shared_columns import with_shared_columns
from tinygptv.loading.written import Written, parse
from tinygptv.store.locations import CHECKOUT, PACKAGE, shown

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

SCHEMAS: dict[str, Any] = {
    "source": Source,
    "filter": FilterChain,
    "captions": Captions,
    "scorer": Scorer,
    "mixture": Mixture,
    "benchmark": Benchmark,
    "recipe": Recipe,
    "template": Template,
    "hardware": Hardware,
}
_BASE = "base"


@dataclass(frozen=True)
class Loaded:
    """A definition, its YAML with base and templates filled in, and the YAML of its own file alone."""

    definition: Any
    written: Written
    own: Written

    def mistake(self, path: FieldPath, text: str) -> Mistake:
        """A mistake in the value at a path."""
        found = Mistake(self.written.nearest(path).place, field_name(path), text)
        return with_own_positions([found], self.own, self.written)[0]


def names(kind: str) -> list[str]:
    """Names of all definitions of a kind, sorted."""
    return sorted({path.stem for folder in _folders(kind) for path in folder.glob("*.yaml")})


def load(kind: str, name: str) -> Loaded:
    """The definition with that name, or in that `.yaml` file. Raises DefinitionError with all mistakes in it."""
    path = _find(kind, name)
    own, mistakes = _read(path)
    written = own
    if kind == "recipe":
        written = _with_base(own, [path], mistakes)
        written = _with_templates(written, mistakes)
    content = written.plain()
    if kind == "source":
        written = with_shared_columns(written)
    try:
        definition = TypeAdapter(SCHEMAS[kind]).validate_python(content)
    except ValidationError as error:
        mistakes += explain(error, written, SCHEMAS[kind])
    if mistakes:
        raise refusal(with_own_positions(mistakes, own, written), shown(path))
    return Loaded(definition, written, own)


def _folders(kind: str) -> list[Path]:
    shipped = FOLDERS[kind]
    own = os.environ.get(OWN_DEFINITIONS)
    return [Path(own).absolute() / shipped.name, shipped] if own else [shipped]


def _find(kind: str, name: str) -> Path:
    is_path = name.endswith(".yaml")
    candidates = [Path(name)] if is_path else [folder / f"{name}.yaml" for folder in _folders(kind)]
    path = next((path for path in candidates if path.is_file()), candidates[-1])
    if not path.is_file():
        raise DefinitionError(f"no {kind} named '{name}': there is no {shown(path)}. {did_you_mean(name, names(kind))}")
    return path


def _read(path: Path) -> tuple[Written, list[Mistake]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DefinitionError(f"{shown(path)}: cannot be read: {error.strerror}") from error
    return parse(data, shown(path))


def _with_base(own: Written, files: Sequence[Path], mistakes: list[Mistake]) -> Written:
    """A recipe merged over its base, if it names one, and that over its own.

    `files` are the files on the way here, which must not come again. Mistakes in the bases are added to `mistakes`.
    """
    name = own.get(_BASE)
    if name is None:
        for key, value in own.content.items() if isinstance(own.content, dict) else ():
            if closest(key, [_BASE, *Recipe.model_fields]) == _BASE:  # else nearly every field is missing
                raise refusal([*mistakes, Mistake(value.place, key, f"unknown key. Did you mean '{_BASE}'?")])
        return own
    if not isinstance(name.content, str):
        raise refusal([*mistakes, Mistake(name.place, _BASE, f"found {name.plain()!r}, want the name of a recipe")])
    try:
        path = _find("recipe", name.content)
    except DefinitionError as error:
        raise refusal([*mistakes, Mistake(name.place, _BASE, str(error))]) from None
    if path in files:
        raise refusal([*mistakes, Mistake(name.place, _BASE, f"'{name.content}' is derived from this very file")])
    base, found = _read(path)
    mistakes += found
    base = _with_base(base, [*files, path], mistakes)
    changes = Written({key: value for key, value in own.content.items() if key != _BASE}, own.place)
    changes, found = check_stages(changes)
    mistakes += found
    return derive(base, changes)


def _with_templates(recipe: Written, mistakes: list[Mistake]) -> Written:
    """A recipe whose stages hold the fields of the templates they name; fields of the stages win."""
    stages = recipe.get(STAGES)
    if stages is None or not isinstance(stages.content, list):
        return recipe
    filled = [_with_template(position, stage, mistakes) for position, stage in enumerate(stages.content)]
    return Written(recipe.content | {STAGES: Written(filled, stages.place)}, recipe.place)


def _with_template(position: int, stage: Written, mistakes: list[Mistake]) -> Written:
    inputs = stage.get("inputs")
    named = inputs.get("template") if inputs else None
    if inputs is None or named is None or not isinstance(named.content, str) or INSTRUCTION in named.content:
        return stage
    if named.content in names("template"):
        template = load("template", named.content).written.content
    else:
        text = (
            f"{named.content!r} is no file of {shown(FOLDERS['template'])}/, and a template of one's own needs exactly "
            f"one {{}} where the instruction goes. {did_you_mean(named.content, names('template'))}"
        )
        mistakes.append(Mistake(named.place, field_name((STAGES, position, "inputs", "template")), text))
        template = {"template": Written(INSTRUCTION, named.place), "end_symbol": Written("", named.place)}
    given = {key: value for key, value in inputs.content.items() if key != "template"}
    filled = {key: value for key, value in template.items() if key != "about"} | given
    return Written(stage.content | {"inputs": Written(filled, inputs.place)}, stage.place)
