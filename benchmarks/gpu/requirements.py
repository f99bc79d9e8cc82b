"""Which packages the benchmark needs and does not find, before anything heavy is imported."""

import importlib.metadata
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
NEEDED = (
    "accelerate",
    "cykooz-resizer",
    "deepspeed",
    "fsspec",
    "numpy",
    "peft",
    "pillow",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "safetensors",
    "simplejpeg",
    "torch",
    "transformers",
)
"""Of the project's own requirements; the others may be absent."""
WITH_ALL_OF_ITS_OWN = "deepspeed"
"""Where there is no network it is carried, and its own requirements are forgotten easily."""


def missing() -> list[str]:
    """Requirements, as pip reads them, that are not here, or not in the version that is wanted."""
    try:
        import packaging.requirements  # noqa: F401
    except ModuleNotFoundError:
        return ["packaging"]
    project = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    lacking = _lacking(project, NEEDED)
    if not any(one.startswith(WITH_ALL_OF_ITS_OWN) for one in lacking):
        lacking += _lacking(importlib.metadata.requires(WITH_ALL_OF_ITS_OWN) or [])
    return sorted(set(lacking))


def _lacking(requirements: Iterable[str], names: Iterable[str] | None = None) -> list[str]:
    """Those among `requirements`, of `names` alone if there are any, that are not met."""
    from packaging.requirements import Requirement

    wanted = [one for one in map(Requirement, requirements) if names is None or one.name in names]
    asked = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [str(one) for one in asked if not _is_met(one)]


def _is_met(requirement: "Requirement") -> bool:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)
