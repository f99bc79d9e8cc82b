"""LoRA weights act as strongly as they were trained to, wherever they come from."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Lora
from tinygptv.errors import HandoffError
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import LORA as LORA_NAMES
from tinygptv.models.weights import parameters_by_name, trained_file
from tinygptv.models.weights.reference import save_reference
from tinygptv.models.weights.strength import metadata

LORA = Lora(rank=4, alpha=8.0, dropout=0.0, init="inherit")
STRONGER = LORA.model_copy(update={"alpha": 32.0})
TOLD = r"adapters were trained with alpha 8\.0 \(recipe: 32\.0\), says {}.*Write theirs under `lora`"


@pytest.fixture
def tensors(definition: Model) -> dict[str, torch.Tensor]:
    names = parameters_by_name(VisionLanguageModel(definition, 48, LORA))
    return {name: tensor.detach().clone() for name, tensor in names.items() if LORA_NAMES.search(name)}


def test_a_file_that_records_another_alpha_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], definition: Model
) -> None:
    file = tmp_path / "trained.safetensors"
    save_file(tensors, file, metadata(LORA))
    for place in (file, tmp_path):
        assert trained_file(place, definition, LORA).tensors.keys() == tensors.keys()
        with pytest.raises(HandoffError, match=TOLD.format(r"trained\.safetensors")):
            trained_file(place, definition, STRONGER)


def test_another_rank_is_named_before_the_shapes_are(
    tmp_path: Path, tensors: dict[str, torch.Tensor], definition: Model
) -> None:
    save_file(tensors, tmp_path / "trained.safetensors", metadata(LORA))
    with pytest.raises(HandoffError, match=r"trained with rank 4 \(recipe: 8\)"):
        trained_file(tmp_path, definition, LORA.model_copy(update={"rank": 8}))


def test_a_file_without_a_record_is_known_by_the_job_beside_it(
    tmp_path: Path, tensors: dict[str, torch.Tensor], definition: Model
) -> None:
    save_file(tensors, tmp_path / "trained.safetensors")
    (tmp_path / "job.json").write_text(json.dumps({"lora": LORA.model_dump()}))
    for place in (tmp_path / "trained.safetensors", tmp_path):
        assert trained_file(place, definition, LORA)
        with pytest.raises(HandoffError, match=TOLD.format(r"job\.json")):
            trained_file(place, definition, STRONGER)


@pytest.mark.parametrize("beside", [None, "{", "[]", '{"lora": null}'])
def test_what_nobody_recorded_is_taken_at_the_recipes_word(
    tmp_path: Path, tensors: dict[str, torch.Tensor], definition: Model, beside: str | None
) -> None:
    save_file(tensors, tmp_path / "trained.safetensors")
    if beside:
        (tmp_path / "job.json").write_text(beside)
    assert trained_file(tmp_path, definition, STRONGER).tensors.keys() == tensors.keys()


def test_the_published_layout_keeps_the_record(
    tmp_path: Path, tensors: dict[str, torch.Tensor], definition: Model
) -> None:
    save_reference(tensors, tmp_path / "checkpoint.pth", definition, LORA)
    assert trained_file(tmp_path / "checkpoint.pth", definition, LORA)
    with pytest.raises(HandoffError, match=TOLD.format(r"checkpoint\.pth")):
        trained_file(tmp_path / "checkpoint.pth", definition, STRONGER)
