"""The reference of definitions: every key of every schema, with its meaning and its place."""

import pytest

from infra.key_meanings import PLAIN_KEYS
from infra.reference import CHECKOUT, DEFINITIONS, KINDS, keys, models, pages
from tinygptv.catalog import FOLDERS


def test_every_kind_of_definition_has_a_page() -> None:
    assert set(KINDS) == set(FOLDERS)
    assert {kind: CHECKOUT / folder for kind, (_, folder) in KINDS.items()} == FOLDERS
    assert set(pages()) == {"index.md", *(f"{kind}.md" for kind in KINDS)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_every_schema_is_listed_with_its_meaning(kind: str) -> None:
    schema, _ = KINDS[kind]
    page = pages()[f"{kind}.md"]
    found = list(models(schema))
    assert found
    for model in found:
        assert f"\n## {model.__name__}\n" in page
        listed = {key.name: key for key in keys(model)}
        assert set(listed) == set(model.model_fields)
        assert {name for name, key in listed.items() if not key.meaning} == set()
        assert all(f"| `{name}` |" in page for name in listed)


@pytest.mark.parametrize("kind", KINDS)
def test_the_place_of_a_key_is_where_it_is_declared(kind: str) -> None:
    for model in models(KINDS[kind][0]):
        for key in keys(model):
            path, _, line = key.place.strip("`").partition(":")
            assert (DEFINITIONS / path).read_text().splitlines()[int(line) - 1].strip().startswith(f"{key.name}:")


def test_meanings_that_schemas_leave_out_are_of_keys_that_exist() -> None:
    named = {
        name
        for schema, _ in KINDS.values()
        for model in models(schema)
        for field in model.model_fields
        for name in (field, *(f"{base.__name__}.{field}" for base in model.__mro__))
    }
    assert set(PLAIN_KEYS) <= named


def test_defaults_and_limits_are_written_as_in_a_file() -> None:
    from tinygptv.definitions.hardware import Hardware

    rows = {key.name: key for key in keys(Hardware)}
    assert rows["packing"].default == "`false`"
    assert rows["ranks"].default == "required"
    assert "≥ 1" in rows["ranks"].type
    assert rows["precision"].type == "`fp32`, `bf16`, `fp16`"
