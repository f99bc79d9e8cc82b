"""Locations in definitions → paths that can be opened."""

import os
from collections.abc import Callable
from pathlib import Path

from tinygptv.errors import DataError, DefinitionError

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parent


def shown(path: Path) -> str:
    """A path as messages name it: below the checkout if it lies there, else as it is."""
    return str(path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path)


def resolve(location: str, corpus: Callable[[], Path] | None = None) -> str:
    """Resolve `location` to an absolute path or a URL.

    `embedded:shapes/x` is looked up in the corpus folder that `corpus` returns (drawn on first use),
    `embedded:backbones/x` in this package, `data:x` below $TINYGPTV_DATA, a relative path below the working directory.
    Raises DefinitionError if that is impossible; existence is not checked.
    """
    prefix, colon, rest = location.partition(":")
    if prefix == "embedded" and colon:
        if rest.startswith("backbones/"):
            return str(PACKAGE / rest)
        if corpus is None:
            raise DefinitionError(f"{location}: the embedded corpus is not available here")
        return str(corpus() / rest.removeprefix("shapes/"))
    if prefix == "data" and colon:
        root = os.environ.get("TINYGPTV_DATA")
        if not root:
            raise DefinitionError(
                f"{location}: the environment variable TINYGPTV_DATA is not set; "
                "point it at the folder that holds your datasets and weights"
            )
        return str(Path(root).absolute() / rest)
    if "://" in location:
        return location
    return str(Path(location).absolute())


def local_path(location: str, corpus: Callable[[], Path] | None = None) -> Path:
    """As `resolve`, for an existing local file or folder. Raises DataError if there is none."""
    resolved = resolve(location, corpus)
    path = Path(resolved)
    if "://" in resolved or not path.exists():
        raise DataError(f"{location}: nothing at {resolved}; put the file there or change the definition")
    return path
