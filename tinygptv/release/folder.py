"""The release folder: one model, whole or quantized, in files that anyone can read.

config.json         the model's definition, how it is asked, and which linear maps are int8
model.safetensors   all tensors (or numbered shards with an index), under the names of VisionLanguageModel
tokenizer/          as transformers saves it
README.md           the model card
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tinygptv.data.batches.batching import load_tokenizer
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Inputs
from tinygptv.errors import DataError
from tinygptv.models import weights
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.release.int8 import use_int8

CONFIG = "config.json"
CARD = "README.md"
TOKENIZER = "tokenizer"
_SHARD_SIZE = "4GB"


class ReleaseConfig(BaseModel):
    """`config.json`. `int8_linears` names the linear maps whose weights are int8 with one scale per output row."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: str = "tinygptv-release-1"
    model: Model
    inputs: Inputs
    int8_linears: list[str] = []


@dataclass(frozen=True)
class Release:
    """A model ready to answer, in eval mode, with what is needed to ask it.

    Its answers end at the end symbol of `inputs`, or at the first of `extra_stop_strings`.
    """

    model: VisionLanguageModel
    tokenizer: PreTrainedTokenizerFast
    inputs: Inputs
    extra_stop_strings: tuple[str, ...] = ()


def empty_model(config: ReleaseConfig) -> VisionLanguageModel:
    """The model without memory for its parameters: they are on torch's `meta` device, buffers are real."""
    model = weights.empty_model(config.model, config.inputs.image_size)
    use_int8(model, config.int8_linears)
    return model


def read_config(folder: Path) -> ReleaseConfig:
    """`config.json` of a release folder. Raises DataError if it is absent or not ours."""
    path = folder / CONFIG
    try:
        return ReleaseConfig.model_validate(json.loads(path.read_text()), strict=False)
    except FileNotFoundError:
        raise DataError(f"{path}: not there; give the folder that `tinygptv export` made") from None
    except (json.JSONDecodeError, ValidationError) as error:
        raise DataError(f"{path}: not the configuration of a release ({error}); export the model again") from error


def load_release(folder: Path, device: str = "cpu") -> Release:
    """Load a release tensor by tensor, so that there is never a second copy.

    Raises HandoffError if a tensor is missing, left over or of another shape, DataError if `config.json` is unusable.
    """
    config = read_config(folder)
    model = empty_model(config)
    weights.load_state(model, folder)
    model.requires_grad_(False)
    # Last, because parts put in after eval() would stay in training mode.
    model.to(device).eval()
    return Release(model, load_tokenizer(folder / TOKENIZER), config.inputs)


def save_weights(folder: Path, tensors: dict[str, Tensor]) -> int:
    """Write all tensors as safetensors, in shards of at most 4 GB; returns their bytes on disk."""
    for stale in folder.glob("model*.safetensors*"):
        stale.unlink()
    save_torch_state_dict(tensors, folder, max_shard_size=_SHARD_SIZE)
    return weight_bytes(folder)


def save_config(folder: Path, config: ReleaseConfig) -> None:
    """Write `config.json`."""
    content: dict[str, Any] = config.model_dump(mode="json")
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def weight_bytes(folder: Path) -> int:
    """Bytes of the folder's tensors on disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
