"""Release folders: full precision and int8 round trips, and errors for damaged folders."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.release.tiny import INPUTS, MODEL, adapted_model, write_release
from tinygptv.errors import DataError, HandoffError
from tinygptv.models.lora import merge_lora
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.release.folder import CONFIG, TOKENIZER, load_release, read_config, save_config, save_weights
from tinygptv.release.int8 import Int8Linear, linears_outside, quantize_rows, quantized_tensors


def logits(model: VisionLanguageModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    pixel_values = torch.randn(2, 3, INPUTS.image_size, INPUTS.image_size, generator=generator)
    input_ids = torch.tensor([[0, -1, -1, -1, -1, 5, 6, 7], [0, -1, -1, -1, -1, 8, 9, 10]])
    with torch.no_grad():
        return model.logits(pixel_values, input_ids, torch.ones_like(input_ids))


def quantized(source: Path, target: Path, skip: tuple[str, ...] = ("head",)) -> Path:
    config = read_config(source)
    names = linears_outside(skip, load_release(source).model)
    target.mkdir()
    save_weights(target, quantized_tensors(source, names))
    save_config(target, config.model_copy(update={"int8_linears": names}))
    (target / TOKENIZER).symlink_to(source / TOKENIZER)
    return target


def test_a_merged_and_reloaded_model_equals_the_one_with_adapters(tmp_path: Path) -> None:
    model = adapted_model()
    expected = logits(model)
    merge_lora(model.language_model)
    release = load_release(write_release(tmp_path / "release", model))
    torch.testing.assert_close(logits(release.model), expected, atol=1e-4, rtol=1e-4)
    assert not release.model.training
    assert release.inputs == INPUTS


def test_adapters_change_the_answer_so_that_merging_is_really_tested() -> None:
    model = adapted_model()
    adapted = logits(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.zeros_(parameter)
    assert (logits(model) - adapted).abs().max() > 0.01


def test_int8_weights_are_small_and_answer_almost_the_same(tmp_path: Path) -> None:
    model = adapted_model()
    merge_lora(model.language_model)
    whole = write_release(tmp_path / "whole", model)
    small = quantized(whole, tmp_path / "int8")
    stored = load_file(small / "model.safetensors")
    assert stored["language_model.model.layers.0.mlp.fc1.weight"].dtype == torch.int8
    assert stored["language_model.lm_head.weight"].dtype == torch.float32
    reloaded = load_release(small).model
    assert isinstance(reloaded.get_submodule("connector.1"), Int8Linear)
    assert all(not module.training for module in reloaded.modules())
    expected = logits(model)
    assert (logits(reloaded) - expected).norm() / expected.norm() < 0.05
    assert (small / "model.safetensors").stat().st_size < 0.7 * (whole / "model.safetensors").stat().st_size


def test_skipped_parts_keep_their_weights(tmp_path: Path) -> None:
    model = adapted_model()
    merge_lora(model.language_model)
    names = linears_outside(("head", "vision_encoder", "connector"), model)
    assert names
    assert all(name.startswith("language_model.model.") for name in names)


def test_rounding_is_at_most_half_a_step_of_each_row() -> None:
    weight = torch.randn(6, 32) * torch.logspace(-6, 2, 6)[:, None]
    weight[3] = 0
    rounded, scale = quantize_rows(weight)
    assert rounded.dtype == torch.int8
    error = (rounded.float() * scale[:, None] - weight).abs()
    assert bool((error <= 0.501 * scale[:, None]).all())


def test_a_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json: no such file"):
        load_release(tmp_path)


def test_a_foreign_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(DataError, match="not the configuration of a release"):
        load_release(tmp_path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    model = adapted_model()
    merge_lora(model.language_model)
    folder = write_release(tmp_path / "release", model)
    tensors = load_file(folder / "model.safetensors")
    del tensors["connector.1.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(HandoffError, match=r"connector\.1\.bias"):
        load_release(folder)


def test_the_configuration_survives_a_round_trip(tmp_path: Path) -> None:
    model = adapted_model()
    merge_lora(model.language_model)
    assert read_config(write_release(tmp_path / "release", model)).model == MODEL
