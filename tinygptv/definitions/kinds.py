"""Kinds: names in a definition that refer to modules of a package.

Each decoder family, connector part, objective or metric is one module in its package, and definitions refer to it by
the file stem. Adding a kind means adding a file; there is no other list to edit.
"""

import pkgutil
from functools import partial
from importlib import import_module
from types import ModuleType

from pydantic import AfterValidator

from tinygptv.errors import UnknownNameError, did_you_mean


def kinds(package: str) -> list[str]:
    """The names of all modules in a package, sorted. Does not import them, and so not torch."""
    return sorted(module.name for module in pkgutil.iter_modules(import_module(package).__path__))


def load_kind(package: str, name: str) -> ModuleType:
    """The module of a kind. Raises UnknownNameError, with the nearest known name, if there is none of this name.

    Inside a validator of a schema that is a ValueError like any other: loading adds file, line and field.
    """
    known = kinds(package)
    if name not in known:
        raise UnknownNameError(f"{package.rpartition('.')[2]}: no '{name}'. {did_you_mean(name, known)}", name)
    return import_module(f"{package}.{name}")


def kind_in(package: str) -> AfterValidator:
    """A definition's field that names one of the kinds in a package."""
    return AfterValidator(partial(_check_kind, package))


def _check_kind(package: str, name: str) -> str:
    if name not in (known := kinds(package)):
        raise ValueError(f"no '{name}'. {did_you_mean(name, known)}")
    return name
