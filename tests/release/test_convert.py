"""`tinygptv convert`: every layout to every other; each tensor is accounted for, and outputs are complete or absent."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import PhiForCausalLM

from tests.train.small import small_recipe, write_backbones
from tinygptv.cli.main import main
from tinygptv.definitions.recipe import Recipe
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import Handoff, empty_model, load_weights, parameters_by_name, save_trained
from tinygptv.release.folder import load_release
from tinygptv.train.freezing import trainable_names


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The recipe `small`: two small stages, the second with adapters."""
    recipe = small_recipe(tmp_path)
    write_backbones(tmp_path, recipe)
    _define(recipe, tmp_path)
    monkeypatch.setenv("TINYGPTV_DEFINITIONS", str(tmp_path / "definitions"))
    return recipe


@pytest.fixture
def trained(tmp_path: Path, recipe: Recipe) -> Path:
    """The second stage's trained tensors, with random values."""
    return write_trained(tmp_path / "stage2", recipe)


def _define(recipe: Recipe, folder: Path) -> None:
    (folder / "definitions" / "recipes").mkdir(parents=True, exist_ok=True)
    (folder / "definitions" / "recipes" / "small.yaml").write_text(yaml.safe_dump(recipe.model_dump()))


def write_trained(folder: Path, recipe: Recipe) -> Path:
    stage = recipe.stage("stage2")
    parameters = parameters_by_name(empty_model(recipe.model, 48, stage.lora))
    names = sorted(trainable_names(recipe.model, parameters.keys(), stage.trains))
    generator = torch.Generator().manual_seed(0)
    folder.mkdir()
    tensors = {name: torch.randn(parameters[name].shape, generator=generator) * 0.3 for name in names}
    save_trained(tensors, folder / "trained.safetensors")
    return folder / "trained.safetensors"


def loaded(recipe: Recipe, trained: Path) -> VisionLanguageModel:
    model = empty_model(recipe.model, 48, recipe.stage("stage2").lora)
    load_weights(model, recipe.model, handoff=Handoff(trained, load_file(trained).keys()))
    return model.eval()


def convert(source: Path, target: Path, layout: str, stage: str = "stage2") -> int:
    return main(["convert", str(source), str(target), "--to", layout, "--recipe", "small", "--stage", stage])


def same_tensors(first: Path, second: Path) -> bool:
    found, expected = load_file(first), load_file(second)
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("layout", ["reference", "peft", "tinygptv"])
def test_every_layout_round_trips(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    assert convert(trained, tmp_path / "there", layout) == 0
    assert convert(tmp_path / "there", tmp_path / "back", "tinygptv") == 0
    assert same_tensors(tmp_path / "back" / "trained.safetensors", trained)
    printed = capsys.readouterr().out
    assert f"{len(load_file(trained))} parameters loaded: {len(load_file(trained))} from trained.safetensors" in printed
    assert f"written to {tmp_path / 'back'}" in printed
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_stages_folder_is_accepted_like_its_file(tmp_path: Path, trained: Path) -> None:
    assert convert(trained.parent, tmp_path / "there", "tinygptv") == 0
    assert same_tensors(tmp_path / "there" / "trained.safetensors", trained)


def test_a_published_checkpoint_is_converted_directly_to_peft(tmp_path: Path, trained: Path) -> None:
    assert convert(trained, tmp_path / "published.pth", "reference") == 0
    assert convert(tmp_path / "published.pth", tmp_path / "adapter", "peft") == 0
    assert convert(tmp_path / "adapter", tmp_path / "again.pth", "reference") == 0
    first, second = (torch.load(tmp_path / name, weights_only=True)["model"] for name in ("published.pth", "again.pth"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_merged_weights_answer_as_the_adapted_model_does(tmp_path: Path, recipe: Recipe, trained: Path) -> None:
    assert convert(trained, tmp_path / "merged", "merged") == 0
    release = load_release(tmp_path / "merged")
    ids = torch.randint(1, 300, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = loaded(recipe, trained).language_model(ids).logits
        found = release.model.language_model(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    norms = load_file(tmp_path / "merged" / "language_model" / "attention_norms.safetensors")
    kept = release.model.language_model.model.layers[1].attention_norm.weight
    assert torch.equal(norms["model.layers.1.attention_norm.weight"], kept)


def test_a_decoder_without_attention_norms_loads_in_transformers(tmp_path: Path, recipe: Recipe) -> None:
    content = recipe.model_dump()
    content["model"]["language_model"]["attention_norm"] = False
    recipe = Recipe.model_validate(content)
    _define(recipe, tmp_path)
    trained = write_trained(tmp_path / "stage2", recipe)
    assert convert(trained, tmp_path / "merged", "merged") == 0
    stock, loading = PhiForCausalLM.from_pretrained(tmp_path / "merged" / "language_model", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    ids = torch.randint(1, 300, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = loaded(recipe, trained).language_model(ids).logits
        torch.testing.assert_close(stock.eval()(ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert not (tmp_path / "merged" / "language_model" / "attention_norms.safetensors").exists()


def test_a_pretrained_part_becomes_ours_and_nothing_else(
    tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    part = Path(recipe.model.language_model.weights)
    assert convert(part, tmp_path / "ours", "tinygptv") == 0
    tensors = load_file(tmp_path / "ours" / "trained.safetensors")
    assert torch.equal(tensors["language_model.lm_head.weight"], load_file(part)["lm_head.weight"])
    assert convert(part, tmp_path / "theirs.pth", "reference") == 1
    assert "a pretrained part, which --to reference cannot hold" in capsys.readouterr().err
    assert not (tmp_path / "theirs.pth").exists()


def test_an_existing_output_is_not_overwritten(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.pth").write_text("precious")
    assert convert(trained, tmp_path / "there.pth", "reference") == 1
    assert "StorageError: " in (printed := capsys.readouterr().err) and "already exists" in printed
    assert (tmp_path / "there.pth").read_text() == "precious"


def test_a_file_that_does_not_fit_leaves_nothing_behind(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(trained)
    del tensors["language_model.model.layers.0.input_layernorm.weight"]
    save_file(tensors, trained)
    before = set(tmp_path.iterdir())
    assert convert(trained, tmp_path / "there", "reference") == 1
    assert "1 missing (language_model.model.layers.0.input_layernorm.weight)" in capsys.readouterr().err
    assert set(tmp_path.iterdir()) == before


def test_adapters_need_a_stage_that_has_them(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(trained, tmp_path / "there", "tinygptv", stage="stage1") == 1
    assert "LoRA weights of rank 16, but the stage has no adapters" in capsys.readouterr().err
    plain = {name: tensor for name, tensor in load_file(trained).items() if ".lora_" not in name}
    save_file(plain, tmp_path / "plain.safetensors")
    assert convert(tmp_path / "plain.safetensors", tmp_path / "there", "peft", stage="stage1") == 1
    assert "stage1 has no adapters, so there is nothing for PEFT" in capsys.readouterr().err


def test_an_unknown_stage_is_a_wrong_parameter(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(trained, tmp_path / "there", "tinygptv", stage="stag2") == 2
    assert "Did you mean 'stage2'?" in capsys.readouterr().err


def test_a_peft_adapter_is_merged_with_the_scale_of_its_configuration(
    tmp_path: Path, recipe: Recipe, trained: Path
) -> None:
    assert convert(trained, tmp_path / "adapter", "peft") == 0
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    changed = config | {"alpha_pattern": {"dense": 4 * config["lora_alpha"]}}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(changed))
    assert convert(tmp_path / "adapter", tmp_path / "merged", "merged") == 0
    assert convert(trained, tmp_path / "usual", "merged") == 0
    found, usual = (load_release(tmp_path / name).model.language_model for name in ("merged", "usual"))
    tensors, backbone = load_file(trained), load_file(Path(recipe.model.language_model.weights))
    dense, fused = "model.layers.1.self_attn.dense", "model.layers.1.self_attn.query_key_value"
    up, down = (tensors[f"language_model.{dense}.lora_{part}.weight"] for part in "BA")
    lora = recipe.stage("stage2").lora
    assert lora is not None
    expected = backbone[f"{dense}.weight"] + 4 * lora.alpha / lora.rank * up @ down
    torch.testing.assert_close(found.get_submodule(dense).weight, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.get_submodule(fused).weight, usual.get_submodule(fused).weight)


@pytest.mark.parametrize("layout", ["tinygptv", "reference", "peft"])
def test_converted_adapters_keep_their_alpha(
    tmp_path: Path, recipe: Recipe, trained: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    assert convert(trained, tmp_path / "there", layout) == 0
    content = recipe.model_dump()
    content["stages"][1]["lora"]["alpha"] *= 4
    _define(Recipe.model_validate(content), tmp_path)
    assert convert(tmp_path / "there", tmp_path / "back", "tinygptv") == 1
    assert "alpha 16.0 (recipe: 64.0)" in capsys.readouterr().err


def test_a_stage_may_start_new_adapters_on_merged_weights(tmp_path: Path, recipe: Recipe, trained: Path) -> None:
    assert convert(trained, tmp_path / "merged", "merged") == 0
    lora = recipe.stage("stage2").lora
    model = empty_model(recipe.model, 48, lora)
    required = {name for name in load_file(trained) if ".lora_" not in name}
    load_weights(model, recipe.model, handoff=Handoff(tmp_path / "merged", required, lora))
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    parameters = parameters_by_name(model)
    assert {name for name in parameters if name not in merged} == set(load_file(trained)) - required
    assert all(torch.equal(parameters[name], tensor) for name, tensor in merged.items())
