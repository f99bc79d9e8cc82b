"""Derived recipes: `base: NAME`, followed by the differences. Pure."""

from typing import Any

STAGE = "stage"
ARCHITECTURE = "architecture"


def derive(base: Any, changes: Any) -> Any:
    """Apply `changes` to `base`; both are parsed YAML.

    Mappings are merged key by key. Stages are merged by name, and new ones appended. Everything else is replaced:
    values, lists, and any part of the model that names its `architecture`, because architectures do not share keys.
    """
    if isinstance(base, dict) and isinstance(changes, dict) and ARCHITECTURE not in changes:
        return base | {key: derive(base.get(key), value) for key, value in changes.items()}
    if _are_stages(base) and _are_stages(changes):
        named = {stage[STAGE]: stage for stage in changes}
        merged = [derive(stage, named.pop(stage[STAGE], {})) for stage in base]
        return [*merged, *named.values()]
    return changes


def _are_stages(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) and STAGE in item for item in value)
