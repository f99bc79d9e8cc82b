"""Weights: those that ship with the package, and those that a recipe names, wherever they should lie."""

import hashlib
import json

from tinygptv import catalog
from tinygptv.definitions.recipe import BACKBONES
from tinygptv.errors import SetupError
from tinygptv.store.locations import PACKAGE, local_path


def backbones_are_complete() -> str:
    """Every shipped file has the content that its provenance records."""
    folder = PACKAGE / "backbones" / "shapes"
    provenance = folder / "provenance.json"
    if not provenance.is_file():
        raise SetupError(f"{provenance} is missing; restore it from git, or run `tinygptv bootstrap`")
    phases = json.loads(provenance.read_text()).values()
    recorded = {name: expected for phase in phases for name, expected in phase["files"].items()}
    for name, expected in recorded.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise SetupError(f"{path} is missing or damaged; restore it from git, or run `tinygptv bootstrap`")
    return f"{len(recorded)} files as recorded"


def locations(recipe: str) -> list[str]:
    """Where a recipe's weights lie: pretrained parts, tokenizer, and checkpoints from outside that stages start from.

    Raises DefinitionError if there is no such recipe.
    """
    the_recipe = catalog.recipe(recipe)
    model = the_recipe.model
    stages = {stage.stage for stage in the_recipe.stages} | {BACKBONES}
    starts = [stage.starts_from for stage in the_recipe.stages if stage.starts_from not in stages]
    return list(dict.fromkeys([*model.weight_files(), model.language_model.tokenizer, *starts]))


def weights_are_there(location: str) -> str:
    """Open what lies there, without reading the tensors. Raises DataError, DefinitionError or HandoffError."""
    from tinygptv.models.weights.files import open_weights

    path = local_path(location)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    if path.is_dir() and (path / "tokenizer.json").is_file() and not any(path.glob("*.safetensors")):
        return f"{location}: a tokenizer, {size / 2**20:,.2f} MiB"
    table = open_weights(path)
    return f"{location}: {len(table)} tensors, {size / 2**20:,.2f} MiB"
