"""Finds missing packages before anything heavy is imported."""

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
"""The project's requirements that the benchmark needs."""
WITH_ALL_OF_ITS_OWN = "deepspeed"
"""A package whose own requirements are checked too: it may have been installed without them, offline."""


def missing() -> list[str]:
    """Missing or outdated requirements, in pip's syntax."""
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
    """The requirements that are not met, considering only `names` if given."""
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
