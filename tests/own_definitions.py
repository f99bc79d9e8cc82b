"""Definitions of a test's own, as users keep theirs in the folder that $TINYGPTV_DEFINITIONS names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Definitions = Mapping[str, Mapping[str, Mapping[str, Any]]]


def write_definitions(folder: Path, definitions: Definitions) -> Path:
    """Folder of the kind → name → content, as YAML files below `folder`, which is returned."""
    for kind, named in definitions.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, content in named.items():
            (folder / kind / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder
