"""Kinds: names in a definition that refer to modules of a package.

Each decoder family, connector part, objective or metric is one module in its package, and definitions refer to it by
the file stem. Adding a kind means adding a file; there is no other list to edit.
"""

import pkgutil
from importlib import import_module
from types import ModuleType

from tinygptv.errors import DefinitionError, did_you_mean


def kinds(package: str) -> list[str]:
    """The names of all modules in a package, sorted. Does not import them, and so not torch."""
    return sorted(module.name for module in pkgutil.iter_modules(import_module(package).__path__))


def load_kind(package: str, name: str) -> ModuleType:
    """Import the module of a kind. Raises DefinitionError, suggesting the closest name, if there is none."""
    known = kinds(package)
    if name not in known:
        raise DefinitionError(f"{package.rpartition('.')[2]}: no '{name}'. {did_you_mean(name, known)}")
    return import_module(f"{package}.{name}")
