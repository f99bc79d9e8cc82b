"""Kinds: what a definition may name because a module of that name lies in a package.

A decoder family, a connector part, an objective or a metric is one module in the package of its like, and its file
stem is the name that a definition writes. To add one is to add a file; nothing lists them a second time.
"""

import pkgutil
from functools import partial
from importlib import import_module
from types import ModuleType

from pydantic import AfterValidator

from tinygptv.errors import DefinitionError, did_you_mean


def kinds(package: str) -> list[str]:
    """The names of all modules in a package, in alphabetical order. Imports none of them, so no torch either."""
    return sorted(module.name for module in pkgutil.iter_modules(import_module(package).__path__))


def load_kind(package: str, name: str) -> ModuleType:
    """The module of a kind. Raises DefinitionError, with the nearest known name, if there is none of this name."""
    known = kinds(package)
    if name not in known:
        raise DefinitionError(f"{package.rpartition('.')[2]}: no '{name}'. {did_you_mean(name, known)}")
    return import_module(f"{package}.{name}")


def kind_in(package: str) -> AfterValidator:
    """A definition's field that names one of the kinds in a package."""
    return AfterValidator(partial(_check_kind, package))


def _check_kind(package: str, name: str) -> str:
    if name not in (known := kinds(package)):
        raise ValueError(f"no '{name}'. {did_you_mean(name, known)}")
    return name
