"""Compares the `config.json` next to a language model's weights with the recipe, before any tensor is read."""

import json
from pathlib import Path
from typing import Any

from tinygptv.definitions.kinds import kind_of, kinds, load_kind, the_class
from tinygptv.definitions.parts import Decoder
from tinygptv.errors import HandoffError

FAMILIES = "tinygptv.definitions.decoders"


def check_config(folder: Path, definition: Decoder) -> None:
    """Compare the configuration in `folder`, if there is one, with the recipe, field by field.

    Raises HandoffError that names every field that differs.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise HandoffError(f"{path}: not JSON ({error}); download the folder again") from error
    name = family_of(config)
    found: dict[str, Any] = {"architecture": name or config.get("model_type")} | definition.read_config(config)
    wanted = {"architecture": kind_of(definition)} | {field: getattr(definition, field) for field in list(found)[1:]}
    differing = [
        f"{field} {found[field]} (recipe: {wanted[field]})" for field in wanted if _differs(field, found, wanted)
    ]
    if differing:
        known = family(name).known_sizes.get((found["width"], found["depth"])) if name else None
        raise HandoffError(
            f"{path}: another model{f', {known},' if known else ''} than the recipe's language_model: "
            f"{', '.join(differing)}. Point language_model.weights at the right folder, or choose the recipe for it"
        )


def family_of(config: dict[str, Any]) -> str | None:
    """Which family a `config.json` is of; None if we have no such family."""
    return next((name for name in kinds(FAMILIES) if config.get("model_type") in family(name).config_types), None)


def family(name: str) -> type[Decoder]:
    """The description of a family. Raises DefinitionError if there is none of this name."""
    found: type[Decoder] = the_class(load_kind(FAMILIES, name), Decoder)
    return found


def _differs(field: str, found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    if found[field] is None:
        return False
    if field == "max_positions":
        return bool(found[field] < wanted[field])
    return bool(found[field] != wanted[field])
