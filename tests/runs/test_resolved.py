"""The resolved form of a run: complete, with the right origins, and unchanged for shipped recipes."""

import difflib
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter

from tests.runs.golden_recipes.resolve import GOLDEN, RUNS, golden_text
from tinygptv import catalog
from tinygptv.catalog import OWN_DEFINITIONS, ResolvedRun, names, resolve_run
from tinygptv.definitions.source import Source
from tinygptv.runs.resolved import resolved, resolved_yaml
from tinygptv.store.locations import CHECKOUT

REFRESH = "python -m tests.runs.golden_recipes"


def text_of(run: ResolvedRun, source: str) -> str:
    return resolved_yaml(resolved(run, source, {stage.stage: run.hardware for stage in run.recipe.stages}))


def resolve(recipe: str, source: str = "shapes", hardware: str = "cpu") -> str:
    return text_of(resolve_run(recipe, source, hardware), source)


def origins(text: str, pattern: str) -> list[str]:
    """The origins of all lines whose value matches."""
    lines = [line.rpartition("  # ") for line in text.splitlines() if "  # " in line]
    return [origin for value, _, origin in lines if re.fullmatch(pattern, value.strip())]


@pytest.mark.parametrize("recipe", RUNS)
def test_the_resolved_form_of_every_shipped_recipe_is_unchanged(recipe: str) -> None:
    golden = (GOLDEN / f"{recipe}.yaml").read_text(encoding="utf-8")
    found = golden_text(recipe)
    changes = "\n".join(
        difflib.unified_diff(golden.splitlines(), found.splitlines(), "before", "now", lineterm="", n=1)
    )
    assert found == golden, f"runs of {recipe} would change; if that is meant, run `{REFRESH}`:\n{changes}"


def test_there_is_no_golden_file_of_a_recipe_that_is_gone() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(RUNS)


@pytest.mark.parametrize("hardware", names("hardware"))
@pytest.mark.parametrize("recipe", names("recipe"))
def test_what_is_printed_loads_back_to_the_resolved_definitions(recipe: str, hardware: str) -> None:
    run = resolve_run(recipe, "laion", hardware)
    found = yaml.safe_load(text_of(run, "laion"))
    sections: dict[str, BaseModel] = {
        "recipe": run.recipe,
        "hardware": run.hardware,
        "source": run.source,
        "filter": run.filter,
        "captions": catalog.captions(run.filter.captions),
    }
    for name, definition in sections.items():
        assert type(definition).model_validate(found[name]) == definition
    read = {name: TypeAdapter(Source).validate_python(source) for name, source in found["sources"].items()}
    assert read == run.sources
    assert {name: type(run.mixtures[name]).model_validate(blend) for name, blend in found["mixtures"].items()} == (
        run.mixtures
    )
    assert found["run"] == {"recipe": recipe, "source": "laion", "hardware": hardware}


def test_every_value_names_the_line_it_comes_from() -> None:
    values = [line for line in resolve("tinygptv_fixed", "laion", "h200").splitlines() if not line.endswith(":")]
    origin = re.compile(r"  # (--(recipe|source|hardware)|(?P<file>\S+):(?P<line>\d+)( \(.+\))?)$")
    for value in values:
        found = origin.search(value)
        assert found, value
        key = value.strip().removeprefix("- ").partition(":")[0]
        if found["file"] and value.count(": ") and not re.search(r"\((an equal|as many)", value):
            line = (CHECKOUT / found["file"]).read_text(encoding="utf-8").splitlines()[int(found["line"]) - 1]
            assert key in line, value


def test_a_derived_value_comes_from_the_file_that_says_it_last() -> None:
    text = resolve("tinygptv_fixed", "laion", "h200")
    assert origins(text, "steps: 85000") == [place("tinygptv/recipes/tinygptv_fixed.yaml", "steps: 85000")]
    assert origins(text, "peak_lr: 3.0e-05") == [place("tinygptv/recipes/tinygptv.yaml", "peak_lr: 3.0e-5")]


def test_a_default_comes_from_the_line_that_declares_it() -> None:
    text = resolve("tinygptv_tiny")
    assert set(origins(text, "unusable_samples: halt")) == {
        f"{place('tinygptv/definitions/recipe.py', 'unusable_samples: Literal')} (default)"
    }
    assert set(origins(text, "bare_image: .*")) == {
        f"{place('tinygptv/definitions/template.py', 'bare_image: str')} (default)"
    }


def test_a_named_template_is_where_its_words_come_from(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: tinygptv_tiny\nstages:\n  - stage: stage3\n    inputs: {template: llava_v1_5, plain: true}\n"
    )
    text = resolve(str(path))
    assert origins(text, "system: .*curious.*") == [place("tinygptv/templates/llava_v1_5.yaml", "system:")]
    assert f"{path}:4" in origins(text, "plain: true")


def test_what_a_switch_changes_comes_from_the_option_that_names_it() -> None:
    text = resolve("tinygptv_tiny:without_lora")
    assert origins(text, "lora: null")[1:] == ["--recipe (without_lora)"] * 3
    assert set(origins(text, r"trains: \[connector.projections, language_model.norms\]")[1:]) == {
        "--recipe (without_lora)"
    }


def test_columns_that_a_source_shares_come_from_where_it_says_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OWN_DEFINITIONS, str(tmp_path))
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "mine.yaml").write_text(
        "kind: pairs\nabout: mine\nlicence: mine\ncolumns:\n  url: address\n  caption: words\ntables:\n"
        "  - location: ./a.csv\n  - location: ./b.csv\n    columns: {caption: title}\nfilter: web_pairs\n"
    )
    text = resolve("tinygptv_tiny", "mine")
    assert set(origins(text, "url: address")) == {"sources/mine.yaml:5"}
    assert origins(text, "caption: title") == ["sources/mine.yaml:10"]


def test_a_table_given_by_path_comes_from_the_command_line(tmp_path: Path) -> None:
    table = tmp_path / "photos.tsv"
    table.write_text("a cat\thttp://example.org/cat.jpg\n")
    text = resolve("tinygptv_tiny", str(table))
    assert origins(text, f"- location: {re.escape(str(table))}") == ["--source"]
    assert origins(text, "engine: native")[0].startswith("tinygptv/definitions/source.py:")


def test_pieces_of_a_batch_and_checkpointing_are_shown_for_each_stage() -> None:
    planned = yaml.safe_load(resolve("tinygptv", "laion", "h200"))["planned"]
    assert planned["stage1"] == {
        "micro_batch_size": 64,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
    }
    assert planned["stage3"]["micro_batch_size"] == 6


def place(file: str, text: str) -> str:
    """`file:line` of the first line that holds a text."""
    lines = (CHECKOUT / file).read_text(encoding="utf-8").splitlines()
    return f"{file}:{next(number for number, line in enumerate(lines, 1) if text in line)}"
