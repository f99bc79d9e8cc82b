"""Kinds: names in a definition that refer to modules of a package.

Each decoder family, connector part, objective or metric is one module in its package, and definitions refer to it by
the file stem. Adding a kind means adding a file; there is no other list to edit.
"""

import pkgutil
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any, Union

from pydantic import AfterValidator, Field

from tinygptv.errors import UnknownNameError, did_you_mean


def kinds(package: str) -> list[str]:
    """The names of all modules in a package, sorted. Does not import them, and so not torch."""
    return sorted(module.name for module in pkgutil.iter_modules(import_module(package).__path__))


def load_kind(package: str, name: str) -> ModuleType:
    """The module of a kind. Raises UnknownNameError, with the nearest known name, if there is none of this name.

    Inside a validator of a schema that is a ValueError like any other: loading adds file, line and field.
    """
    return import_module(f"{package}.{known_kind(package, name)}")


def known_kind(package: str, name: str) -> str:
    """The name, if it is one of a kind. Raises UnknownNameError as `load_kind` does, but imports nothing."""
    if name not in (known := kinds(package)):
        raise UnknownNameError(f"no '{name}' in {package.replace('.', '/')}/. {did_you_mean(name, known)}", name)
    return name


def kind_in(package: str) -> AfterValidator:
    """A definition's field that names one of the kinds in a package."""
    return AfterValidator(partial(known_kind, package))


def kind_of(definition: object) -> str:
    """The kind of a definition: the stem of the file in which its class stands."""
    return type(definition).__module__.rpartition(".")[2]


def the_class(module: ModuleType, base: type) -> type:
    """The one class that a kind's module defines of those that extend `base`. Raises TypeError for none or several."""
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__file__}: defines {len(found)} classes that extend {base.__name__}, not one")
    return found[0]


def one_of(package: str, base: type, tag: str) -> Any:
    """The type of a field that holds any kind in `package`: subclasses of `base`, told apart by their field `tag`."""
    classes = tuple(the_class(load_kind(package, name), base) for name in kinds(package))
    return classes[0] if len(classes) == 1 else Annotated[Union[classes], Field(discriminator=tag)]  # noqa: UP007
