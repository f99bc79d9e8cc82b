"""Where each value of a checked definition comes from: a line of a file, a default of the schema, or an option."""

from typing import Any

from pydantic import BaseModel

from tinygptv.loading.mistakes import Place
from tinygptv.loading.schema import declared
from tinygptv.loading.written import Written, written_as


def with_origins(value: Any, written: Written | None, otherwise: Place) -> Written:
    """A definition, or a part of one, with the origin of each value, defaults included.

    A value that is not in the YAML is a default of its own class, or comes from `otherwise`, the default of a field
    around it that overrides its class.
    """
    place = otherwise if written is None else written.place
    if isinstance(value, BaseModel):
        fields = {name: _field(value, name, written, place) for name in type(value).model_fields}
        return Written(fields, place)
    if isinstance(value, dict):
        return Written({key: with_origins(part, _get(written, key), place) for key, part in value.items()}, place)
    if isinstance(value, list):
        return Written([with_origins(part, _get(written, at), place) for at, part in enumerate(value)], place)
    return Written(value, place)


def _field(owner: BaseModel, name: str, written: Written | None, otherwise: Place) -> Written:
    value, child = getattr(owner, name), _get(written, name)
    if child is not None:
        return with_origins(value, child, child.place)
    field = type(owner).model_fields[name]
    is_default = not field.is_required() and value == field.get_default(call_default_factory=True)
    return with_origins(value, None, declared(type(owner), name) if is_default else otherwise)


def _get(written: Written | None, part: str | int) -> Written | None:
    return None if written is None else written.get(part)


def with_changes(before: Written, after: Any, place: Place) -> Written:
    """The plain value `after`: unchanged parts keep their origin in `before`, changed parts come from `place`."""
    old = before.content
    if isinstance(old, dict) and isinstance(after, dict):
        changed = {
            key: with_changes(old[key], part, place) if key in old else written_as(part, place)
            for key, part in after.items()
        }
        return Written(changed, before.place)
    if isinstance(old, list) and isinstance(after, list) and len(old) == len(after):
        items = [with_changes(item, part, place) for item, part in zip(old, after, strict=True)]
        return Written(items, before.place)
    return before if before.plain() == after else written_as(after, place)
