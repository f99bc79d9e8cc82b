"""Looks up schemas: which class describes a mapping, and where a field is declared."""

import ast
import inspect
import types
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from tinygptv.loading.mistakes import FieldPath, Place
from tinygptv.loading.written import Written
from tinygptv.store.locations import shown


def model_at(annotation: Any, node: Written | None, path: FieldPath) -> type[BaseModel] | None:
    """The class of the mapping at `path` below a value of type `annotation`; None if it is ambiguous.

    `node` is the value in the YAML: of a union, the member counts whose literal fields agree with it.
    """
    models = [model for model in _models(annotation) if _agrees(model, node)]
    if len(models) > 1 or (not path and not models):
        return None
    if not path:
        return models[0]
    child = None if node is None else node.get(path[0])
    if models:
        field = models[0].model_fields.get(str(path[0]))
        return None if field is None else model_at(field.annotation, child, path[1:])
    items = next((get_args(one)[-1] for one in _members(annotation) if get_origin(one) in (list, dict)), None)
    return None if items is None else model_at(items, child, path[1:])


def _members(annotation: Any) -> list[Any]:
    """The types that a union stands for, unions in it included; any other type alone."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for option in get_args(annotation) for member in _members(option)]
    return [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [one for one in _members(annotation) if isinstance(one, type) and issubclass(one, BaseModel)]


def _agrees(option: type[BaseModel], node: Written | None) -> bool:
    """Whether a member of a union can describe a value, judged by its required literal fields."""
    if node is None:
        return True
    for name, field in option.model_fields.items():
        if get_origin(field.annotation) is Literal and field.is_required():
            written = node.get(name)
            if written is not None and written.plain() not in get_args(field.annotation):
                return False
    return True


def declared(model: type[BaseModel], field: str) -> Place:
    """The line in which a class, or the one it inherits from, gives a field its default."""
    owner = next(base for base in model.__mro__ if field in inspect.get_annotations(base))
    path = inspect.getfile(owner)
    return Place(shown(Path(path)), _field_lines(path).get((owner.__qualname__, field)), note="default")


@lru_cache
def _field_lines(path: str) -> dict[tuple[str, str], int]:
    """Class and field → line, for every class at the top of a module."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return {
        (statement.name, line.target.id): line.lineno
        for statement in tree.body
        if isinstance(statement, ast.ClassDef)
        for line in statement.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }
