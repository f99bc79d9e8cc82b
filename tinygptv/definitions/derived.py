"""A recipe that is another one with changes: `base: NAME`, then only what differs. Pure."""

from typing import Any

STAGE = "stage"
ARCHITECTURE = "architecture"


def derive(base: Any, changes: Any) -> Any:
    """`changes` over `base`, both as YAML gives them.

    Mappings are merged key by key, and stages by their name, new ones at the end. All else takes the place of what was
    there: values, lists, and a part of the model that names its `architecture`, because the keys of one architecture
    mean nothing to another.
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
