"""Messages about wrong definitions: field, what was found, what is allowed, what was probably meant."""

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tinygptv import catalog
from tinygptv.catalog import FOLDERS, OWN_DEFINITIONS, resolve_run
from tinygptv.definitions import kinds
from tinygptv.definitions.base import Definition
from tinygptv.errors import DefinitionError
from tinygptv.loading.explain import explain
from tinygptv.loading.mistakes import refusal
from tinygptv.loading.written import parse


class Cat(Definition):
    kind: Literal["cat"]
    lives: int = Field(ge=1)
    fur: Literal["long", "short"] = "short"


class Dog(Definition):
    kind: Literal["dog"]
    tricks: list[str] | Literal["all"] = "all"
    age: float | Literal["unknown"] = "unknown"


class Home(Definition):
    about: str
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]
    rooms: dict[Literal["kitchen", "attic"], int | str] = Field(default_factory=dict)
    open: bool = False

    @model_validator(mode="after")
    def _cats_need_an_attic(self) -> "Home":
        for position, pet in enumerate(self.pets):
            if isinstance(pet, Cat) and "attic" not in self.rooms and self.rooms:
                raise ValueError(f"pets[{position}].kind: a cat needs an attic")
            if isinstance(pet, Dog) and self.open:
                raise ValueError("a dog runs away if open is true")
        return self


CAT = "about: x\npets:\n  - kind: cat\n    lives: 9\n"
DOG = "about: x\npets:\n  - kind: dog\n"


def reported(text: str, schema: Any = Home) -> list[str]:
    written, mistakes = parse(text.encode(), "f")
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(schema).validate_python(written.plain())
    mistakes += explain(refused.value, written, schema)
    return str(refusal(mistakes)).removeprefix(f"{len(mistakes)} mistakes:\n").replace("\n  ", "\n").strip().split("\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{CAT}opne: true\n", "f:5: opne: unknown key. Did you mean 'open'?"),
        (f"{CAT}colour: red\n", "f:5: colour: unknown key. Known: open, rooms."),
        (CAT.replace("about: x", "baout: x"), "f:1: baout: unknown key. Did you mean 'about'?"),
        (CAT.replace("about: x\n", ""), "f:1: about: missing; add it"),
        (CAT.replace("about: x", "about:"), "f:1: about: found nothing (null), want text"),
        (CAT.replace("about: x", "about: 7"), "f:1: about: found 7, want text; put it in quotes if it is text"),
        (
            CAT.replace("about: x", "about: no"),
            "f:1: about: found false, want text (YAML reads yes, no, on and off as true and false: put text in quotes)",
        ),
        (f"{CAT}open: 1\n", "f:5: open: found 1, want true or false"),
        (CAT.replace("9", "'9'"), "f:4: pets[0].lives: found '9', want a whole number; leave out the quotes"),
        (CAT.replace("9", "0"), "f:4: pets[0].lives: found 0, want at least 1"),
        (f"{CAT}    fur: shrot\n", "f:5: pets[0].fur: found 'shrot', want one of long, short. Did you mean 'short'?"),
        (f"{CAT}    fur: LONG\n", "f:5: pets[0].fur: found 'LONG', want one of long, short. Did you mean 'long'?"),
        (
            CAT.replace("kind: cat", "kind: cta"),
            "f:3: pets[0].kind: found 'cta', want one of cat, dog. Did you mean 'cat'?",
        ),
        (CAT.replace("kind: cat", "knid: cat"), "f:3: pets[0].knid: unknown key. Did you mean 'kind'?"),
        (CAT.replace("  - kind: cat\n    lives", "  - lives"), "f:3: pets[0].kind: missing; add it"),
        (CAT.replace("lives", "livse"), "f:4: pets[0].livse: unknown key. Did you mean 'lives'?"),
        ("about: x\npets: cat\n", "f:2: pets: found 'cat', want a list; write [cat]"),
        ("about: x\npets: [cat]\n", "f:2: pets[0]: found 'cat', want a mapping (key: value)"),
        ("- about\n- pets\n", "f:1: found a list of 2 item(s), want a mapping (key: value)"),
        ("just text\n", "f:1: found 'just text', want a mapping (key: value)"),
        (f"{DOG}    tricks: 3\n", "f:4: pets[0].tricks: found 3, want a list or all"),
        (f"{DOG}    tricks: [sit, 3]\n", "f:4: pets[0].tricks[1]: found 3, want text; put it in quotes if it is text"),
        (
            f"{DOG}    age: unknwon\n",
            "f:4: pets[0].age: found 'unknwon', want a number or unknown. Did you mean 'unknown'?",
        ),
        (
            f"{DOG}    age: 1e-5\n",
            "f:4: pets[0].age: found '1e-5', want a number or unknown (YAML reads 1e-5 as text: write 1.0e-5)",
        ),
        (f"{CAT}rooms: {{attic: [1]}}\n", "f:5: rooms.attic: found a list of 1 item(s), want a whole number or text"),
        (
            f"{CAT}rooms:\n  atic: 1\n",
            "f:6: rooms.atic: unknown key; want one of kitchen, attic. Did you mean 'attic'?",
        ),
        (f"{CAT}rooms: {{kitchen: 1}}\n", "f:3: pets[0].kind: a cat needs an attic"),
        (f"{DOG}open: true\n", "f:4: a dog runs away if open is true"),
    ],
)
def test_a_mistake_is_reported_once_with_its_line_and_what_to_do(text: str, expected: str) -> None:
    assert reported(text) == [expected]


def test_all_mistakes_of_a_file_are_reported_in_the_order_of_its_lines() -> None:
    text = "pets:\n  - kind: cat\n    lives: no\n    fru: long\n    fru: short\nopen: maybe\nabout: x\nabout: y\n"
    assert reported(text) == [
        "f:3: pets[0].lives: found false, want a whole number",
        "f:4: pets[0].fru: unknown key. Did you mean 'fur'?",
        "f:5: pets[0].fru: this key stands here twice, first in line 4; keep one of them",
        "f:6: open: found 'maybe', want true or false",
        "f:8: about: this key stands here twice, first in line 7; keep one of them",
    ]


def test_a_mistake_behind_an_alias_is_reported_once() -> None:
    assert reported("about: x\npets:\n  - &pet {kind: cat, lives: 0}\n  - *pet\n") == [
        "f:3: pets[0].lives: found 0, want at least 1"
    ]


def test_mistakes_on_one_line_are_reported_separately() -> None:
    assert reported("about: x\npets: [{kind: cat, lives: 0}, {kind: cat, lives: 0}]\n") == [
        "f:2: pets[0].lives: found 0, want at least 1",
        "f:2: pets[1].lives: found 0, want at least 1",
    ]


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [SimpleNamespace(name="llama"), SimpleNamespace(name="phi")]
    monkeypatch.setattr(kinds, "import_module", lambda _: SimpleNamespace(__path__=[]))
    monkeypatch.setattr(kinds.pkgutil, "iter_modules", lambda _: modules)


def test_an_unknown_kind_is_reported_at_its_field(decoders: None) -> None:
    def known(name: str) -> str:
        kinds.load_kind("tinygptv.models.decoders", name)
        return name

    class Model(BaseModel):
        model_config = ConfigDict(extra="forbid")
        architecture: Annotated[str, AfterValidator(known)]

    assert reported("architecture: lama\n", Model) == [
        "f:1: architecture: no 'lama' in tinygptv/models/decoders/. Did you mean 'llama'?"
    ]


def test_a_kind_refused_for_a_whole_mapping_is_reported_at_the_key_that_names_it(decoders: None) -> None:
    class Model(BaseModel):
        width: int
        architecture: str

        @model_validator(mode="before")
        @classmethod
        def _is_known(cls, data: Any) -> Any:
            kinds.load_kind("tinygptv.models.decoders", data["architecture"])
            return data

    assert reported("width: 3\narchitecture: phii\n", Model) == [
        "f:2: architecture: no 'phii' in tinygptv/models/decoders/. Did you mean 'phi'?"
    ]


def test_mistakes_in_a_derived_recipe_have_the_lines_and_positions_of_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: tinygptv_tiny\nsede: 1\nstages:\n  - stage: stage3\n    schedule: {peak_lr: 1e-3}\n"
        "  - stage: stage2\n    lora: {rnak: 4}\n    inputs: {template: llava}\n"
    )
    with pytest.raises(DefinitionError) as refused:
        catalog.recipe(str(path))
    assert str(refused.value).split("\n") == [
        "4 mistakes:",
        f"  {path}:2: sede: unknown key. Did you mean 'seed'?",
        f"  {path}:5: stages[0].schedule.peak_lr: found '1e-3', want a number (YAML reads 1e-3 as text: write 1.0e-3)",
        f"  {path}:7: stages[1].lora.rnak: unknown key. Did you mean 'rank'?",
        f"  {path}:8: stages[1].inputs.template: 'llava' is no file of tinygptv/templates/, and a template of one's "
        "own needs exactly one {} where the instruction goes. Did you mean 'llava_v1'?",
    ]


def test_a_mistake_in_a_base_has_the_file_and_line_of_the_base(tmp_path: Path) -> None:
    base, path = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text("base: tinygptv_tiny\nabout: wrong\nquantize: {bits: 9}\n")
    path.write_text(f"base: {base}\nseed: many\n")
    with pytest.raises(DefinitionError) as refused:
        catalog.recipe(str(path))
    assert str(refused.value).split("\n")[1:] == [
        f"  {path}:2: seed: found 'many', want a whole number",
        f"  {base}:3: quantize.bits: found 9, want 8",
    ]


def test_a_conflict_between_base_and_recipe_points_at_the_recipe(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: tinygptv_tiny\nstages:\n  - stage: stage4\n    schedule: {final_lr: 1.0}\n")
    with pytest.raises(DefinitionError, match=rf"{path}:4: stages\[0\].schedule: final_lr 1.0 lies above peak_lr"):
        catalog.recipe(str(path))


def test_a_base_that_is_misspelt_is_the_only_mistake_reported(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("bsae: tinygptv_tiny\nabout: mine\n")
    with pytest.raises(DefinitionError) as refused:
        catalog.recipe(str(path))
    assert str(refused.value) == f"{path}:1: bsae: unknown key. Did you mean 'base'?"


def test_unknown_names_are_reported_together_with_their_lines(tmp_path: Path) -> None:
    content = yaml.safe_load((FOLDERS["recipe"] / "tinygptv_tiny.yaml").read_text())
    content["stages"][1]["mixture"] = "tiny_pears"
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content | {"benchmarks": ["shapes_qva"]}, sort_keys=False))
    lines = path.read_text().splitlines()
    mixture = next(number for number, line in enumerate(lines, 1) if "tiny_pears" in line)
    benchmark = next(number for number, line in enumerate(lines, 1) if "shapes_qva" in line)
    with pytest.raises(DefinitionError) as refused:
        resolve_run(str(path), "shapes", "cpu")
    assert str(refused.value).split("\n")[1:] == [
        f"  {path}:{mixture}: stages[1].mixture: no mixture named 'tiny_pears' in datasets/mixtures/. "
        "Did you mean 'tiny_pairs'?",
        f"  {path}:{benchmark}: benchmarks[0]: no benchmark named 'shapes_qva' in datasets/benchmarks/. "
        "Did you mean 'shapes_vqa'?",
    ]


def test_a_conflict_between_definitions_points_at_the_line_to_change(tmp_path: Path) -> None:
    path = tmp_path / "three.yaml"
    path.write_text((FOLDERS["hardware"] / "cpu.yaml").read_text().replace("ranks: 2", "ranks: 3"))
    with pytest.raises(DefinitionError, match=rf"{path}:3: ranks: 3 ranks cannot share the global batch of stage1, 32"):
        resolve_run("tinygptv_tiny", "shapes", str(path))


def test_columns_that_all_tables_share_are_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OWN_DEFINITIONS, str(tmp_path))
    path = tmp_path / "sources" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(
        "kind: pairs\nabout: mine\nlicence: mine\ncolumns:\n  ulr: address\n"
        "tables: [{location: ./a.csv}, {location: ./b.csv}]\nfilter: web_pairs\n"
    )
    with pytest.raises(DefinitionError) as refused:
        catalog.source("mine")
    assert str(refused.value).count("'ulr' is not a field of a row. Did you mean 'url'?") == 1
    assert str(refused.value).startswith(f"{path}:")


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("about: x\n")

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DefinitionError, match=r"mine\.yaml: cannot be read: Permission denied"):
        catalog.hardware(str(path))
