import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tinygptv.definitions.recipe import Lora, Model
from tinygptv.errors import HandoffError
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import (
    ADDED_NORMS,
    fuse,
    load_backbones,
    load_trained,
    parameters_by_name,
    read_tensors,
    save_trained,
)

LORA = Lora(rank=4, alpha=8.0, dropout=0.0, init="inherit")


@pytest.fixture
def backbones(tmp_path: Path, model: VisionLanguageModel, definition: Model) -> Model:
    """The definition, its weights written out by a first model."""
    content = definition.model_dump()
    places = {name: tmp_path / f"{name}.safetensors" for name in ("vision", "qformer", "language")}
    content["vision_encoder"]["weights"] = str(places["vision"])
    content["connector"][0]["weights"] = str(places["qformer"])
    content["language_model"]["weights"] = str(places["language"])
    language = {
        n: t for n, t in model.language_model.state_dict().items() if not ADDED_NORMS.search(f"language_model.{n}")
    }
    save_file(model.vision_encoder.model.state_dict(), places["vision"])
    save_file(model.connector[0].state_dict(), places["qformer"])
    save_file(language, places["language"])
    return Model.model_validate(content)


def change(path: str, **changes: torch.Tensor | None) -> None:
    tensors = load_file(path)
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, path)


def test_everything_is_loaded_but_the_parts_that_begin_anew(model: VisionLanguageModel, backbones: Model) -> None:
    torch.manual_seed(9)
    other = VisionLanguageModel(backbones, 48)
    report = load_backbones(other, backbones)
    ours = parameters_by_name(other)
    for name, parameter in parameters_by_name(model).items():
        if name not in report.fresh:
            torch.testing.assert_close(ours[name], parameter, msg=name)
    assert {name.split(".")[0] for name in report.fresh} == {"connector", "language_model"}
    assert report.loaded + len(report.fresh) == len(ours)


def test_a_larger_picture_gets_an_interpolated_position_table(model: VisionLanguageModel, backbones: Model) -> None:
    larger = VisionLanguageModel(backbones, 64)
    load_backbones(larger, backbones)
    small, large = (m.vision_encoder.model.embeddings.position_embedding for m in (model, larger))
    assert large.shape[1] == 1 + 8 * 8
    torch.testing.assert_close(large[:, 0], small[:, 0])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lm_head.bias": None}, "1 missing \\(language_model.lm_head.bias\\)"),
        ({"model.extra.weight": torch.zeros(2)}, "1 left over \\(language_model.model.extra.weight\\)"),
        (
            {"lm_head.bias": torch.zeros(7)},
            "1 of another shape \\(language_model.lm_head.bias \\(7,\\) for \\(50,\\)\\)",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    definition: Model, backbones: Model, changes: dict[str, torch.Tensor | None], told: str
) -> None:
    change(backbones.language_model.weights, **changes)
    with pytest.raises(HandoffError, match=told):
        load_backbones(VisionLanguageModel(definition, 48), backbones)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_file({"a": torch.zeros(100)}, whole)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(whole.read_bytes()[:-50])
    with pytest.raises(HandoffError, match=r"torn\.safetensors: cannot be read as weights"):
        read_tensors(torn)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "trap.pth").write_bytes(pickle.dumps({"model": Trap()}))
    with pytest.raises(HandoffError, match="holds code, which is never run"):
        read_tensors(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(HandoffError, match="holds no table of tensors"):
        read_tensors(tmp_path / "empty.pth")


def test_trained_tensors_survive_the_round_trip(tmp_path: Path, model: VisionLanguageModel, definition: Model) -> None:
    trained = {n: p for n, p in parameters_by_name(model).items() if n.startswith("connector.1.")}
    save_trained(trained, tmp_path / "trained.safetensors")
    other = VisionLanguageModel(definition, 48, LORA)
    load_trained(other, tmp_path / "trained.safetensors", trained.keys())
    for name, parameter in trained.items():
        assert torch.equal(parameters_by_name(other)[name], parameter)


def test_a_missing_norm_is_not_lost_in_silence(tmp_path: Path, model: VisionLanguageModel) -> None:
    trained = {n: p for n, p in parameters_by_name(model).items() if n.endswith("norm.weight")}
    expected = set(trained)
    lost = trained.pop("language_model.model.layers.0.attention_norm.weight")
    assert lost is not None
    save_trained(trained, tmp_path / "trained.safetensors")
    with pytest.raises(HandoffError, match=r"1 missing \(language_model.model.layers.0.attention_norm.weight\)"):
        load_trained(model, tmp_path / "trained.safetensors", expected)


def test_adapters_that_are_not_there_are_not_begun_in_silence(tmp_path: Path, definition: Model) -> None:
    model = VisionLanguageModel(definition, 48, LORA)
    expected = {name for name in parameters_by_name(model) if name.startswith("connector.1.") or ".lora_" in name}
    save_trained(
        {n: p for n, p in parameters_by_name(model).items() if n.startswith("connector.1.")}, tmp_path / "t.safetensors"
    )
    with pytest.raises(HandoffError, match="holds no LoRA weights"):
        load_trained(model, tmp_path / "t.safetensors", expected)


def test_fusing_interleaves_the_heads() -> None:
    query, key, value = (torch.arange(4.0)[:, None] + offset for offset in (0, 10, 20))
    assert fuse(query, key, value, heads=2).flatten().tolist() == [0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23]
