"""The rank and alpha that LoRA weights were trained with.

The product B A does not contain alpha, and with another one the same tensors act more or less strongly. So our files
record it in their metadata; for older files, the `job.json` in their folder does. Checkpoints of the published code may
have it in their `config`.
"""

import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from tinygptv.definitions.recipe import Lora
from tinygptv.errors import HandoffError

METADATA, JOB = "lora", "job.json"


class Recorded(NamedTuple):
    """What `file` says; None where it says nothing."""

    file: Path
    rank: int | None
    alpha: float | None


def metadata(lora: Lora | None) -> dict[str, str]:
    """What a safetensors file of tensors trained with `lora` says about them."""
    return {METADATA: json.dumps({"rank": lora.rank, "alpha": lora.alpha})} if lora else {}


def refuse_other_strength(path: Path, lora: Lora) -> None:
    """Raise HandoffError if the file or folder `path` records that its adapters have another rank or alpha than `lora`.

    For a file that records nothing, the recipe's values are assumed.
    """
    for recorded in _recorded(path):
        pairs = (("rank", recorded.rank, lora.rank), ("alpha", recorded.alpha, lora.alpha))
        differing = [
            f"{field} {found} (recipe: {wanted})" for field, found, wanted in pairs if found not in (None, wanted)
        ]
        if differing:
            raise HandoffError(
                f"{path}: its adapters were trained with {', '.join(differing)}, says {recorded.file.name}; with the "
                "recipe's they would act with another strength. Write theirs under `lora`; or merge them with "
                "`tinygptv convert … --to merged`, and start from that folder with `lora: {init: fresh}`"
            )


def _recorded(path: Path) -> list[Recorded]:
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    found = [recorded for file in files if (recorded := _in_file(file))]
    neighbour = None if found else _in_job((path if path.is_dir() else path.parent) / JOB)
    return [*found, neighbour] if neighbour else found


def _in_file(file: Path) -> Recorded | None:
    if zipfile.is_zipfile(file):
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        config = content.get("config") if isinstance(content, dict) else None
        model = config.get("model") if isinstance(config, dict) else None
        # Its rank is in the shapes of the tensors, which are checked anyway.
        return _recording(file, {"alpha": model.get("lora_alpha")}) if isinstance(model, dict) else None
    with file.open("rb") as stream:
        if stream.read(9)[8:] != b"{":
            return None
    with safe_open(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get(METADATA)
    return _recording(file, json.loads(text)) if text else None


def _in_job(job: Path) -> Recorded | None:
    try:
        content = json.loads(job.read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    lora = content.get("lora") if isinstance(content, dict) else None
    return _recording(job, lora) if isinstance(lora, dict) else None


def _recording(file: Path, settings: dict[str, Any]) -> Recorded | None:
    rank, alpha = (settings.get(field) for field in ("rank", "alpha"))
    return None if rank is None and alpha is None else Recorded(file, rank, alpha)
