"""The `config.json` beside a language model's weights against the recipe, before any tensor is read."""

import json
from pathlib import Path
from typing import Any

from tinygptv.definitions.model import LanguageModel, Llama, Phi
from tinygptv.errors import HandoffError

_ARCHITECTURES = {"phi": "phi", "phi-msft": "phi", "llama": "llama"}
_KNOWN = {("phi", 2048, 24): "Phi-1 or Phi-1.5", ("phi", 2560, 32): "Phi-2", ("llama", 4096, 32): "a Llama of 7B"}


def check_config(folder: Path, definition: LanguageModel) -> None:
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
    found, wanted = described(config), _wanted(definition)
    differing = [
        f"{field} {found[field]} (recipe: {wanted[field]})" for field in wanted if _differs(field, found, wanted)
    ]
    if differing:
        kind = _KNOWN.get((str(found["architecture"]), found["width"], found["depth"]))
        raise HandoffError(
            f"{path}: another model{f', {kind},' if kind else ''} than the recipe's language_model: "
            f"{', '.join(differing)}. Point language_model.weights at the right folder, or choose the recipe for it"
        )


def _differs(field: str, found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    if found[field] is None:
        return False
    if field == "max_positions":
        return bool(found[field] < wanted[field])
    return bool(found[field] != wanted[field])


def described(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration in the recipe's words; None where it is silent. Microsoft's first files have other names."""
    rope = config.get("rope_parameters") or {}
    width = config.get("hidden_size", config.get("n_embd"))
    heads = config.get("num_attention_heads", config.get("n_head"))
    fraction = config.get("partial_rotary_factor", rope.get("partial_rotary_factor"))
    if fraction is None and "rotary_dim" in config and width and heads:
        fraction = config["rotary_dim"] * heads / width
    model_type = config.get("model_type")
    return {
        "architecture": _ARCHITECTURES.get(str(model_type), model_type),
        "width": width,
        "depth": config.get("num_hidden_layers", config.get("n_layer")),
        "heads": heads,
        "mlp_width": config.get("intermediate_size", config.get("n_inner")),
        "vocabulary": config.get("vocab_size"),
        "max_positions": config.get("max_position_embeddings", config.get("n_positions")),
        "rotary_fraction": fraction,
        "key_value_heads": config.get("num_key_value_heads"),
        "rope_theta": config.get("rope_theta", rope.get("rope_theta")),
        "rms_norm_eps": config.get("rms_norm_eps"),
    }


def _wanted(definition: LanguageModel) -> dict[str, Any]:
    fields = ("architecture", "width", "depth", "heads", "mlp_width", "vocabulary", "max_positions")
    wanted = {field: getattr(definition, field) for field in fields}
    match definition:
        case Phi():
            wanted["rotary_fraction"] = definition.rotary_fraction
        case Llama():
            wanted |= {f: getattr(definition, f) for f in ("key_value_heads", "rope_theta", "rms_norm_eps")}
    return wanted
