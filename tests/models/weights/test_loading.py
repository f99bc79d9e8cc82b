"""Files → a model: everything is accounted for, and what does not fit is named."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Lora
from tinygptv.errors import HandoffError
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import (
    ADDED_NORMS,
    Handoff,
    LoadReport,
    empty_model,
    load_weights,
    parameters_by_name,
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


def built(
    definition: Model, lora: Lora | None = None, size: int = 48, handoff: Handoff | None = None, seed: int = 0
) -> tuple[VisionLanguageModel, LoadReport]:
    model = empty_model(definition, size, lora)
    return model, load_weights(model, definition, handoff=handoff, seed=seed)


def test_everything_is_loaded_but_the_parts_that_begin_anew(model: VisionLanguageModel, backbones: Model) -> None:
    other, report = built(backbones)
    ours = parameters_by_name(other)
    for name, parameter in parameters_by_name(model).items():
        if name not in report.begins_anew:
            assert torch.equal(ours[name], parameter)
    assert {name.split(".")[0] for name in report.begins_anew} == {"connector", "language_model"}
    assert report.loaded.keys() | report.begins_anew.keys() == ours.keys()
    assert not report.loaded.keys() & report.begins_anew.keys()


def test_the_report_tells_where_from_how_and_why(backbones: Model) -> None:
    _, report = built(backbones)
    loaded, anew = report.lines()
    assert "from vision.safetensors (our own layout)" in loaded
    assert anew == "14 begin anew: 4 projections at random, 10 norms as the identity"


def test_what_begins_anew_is_a_function_of_the_seed_alone(backbones: Model) -> None:
    first, again, other = (parameters_by_name(built(backbones, LORA, seed=seed)[0]) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["connector.1.weight"], other["connector.1.weight"])
    assert not torch.equal(first["connector.1.bias"], other["connector.1.bias"])
    for name, parameter in first.items():
        if ".lora_B." in name:
            assert not parameter.any()
        if ADDED_NORMS.search(name):
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight"))))


def test_what_begins_anew_is_spread_as_torch_and_peft_spread_it(backbones: Model) -> None:
    theirs = parameters_by_name(VisionLanguageModel(backbones, 48, LORA))
    for name, parameter in parameters_by_name(built(backbones, LORA)[0]).items():
        if name.startswith(("connector.1.", "connector.2.")) or ".lora_A." in name:
            bound = theirs[name].abs().max()
            assert 0.8 * bound < parameter.abs().max() < 1.25 * bound
            assert parameter.std().item() == pytest.approx(theirs[name].std().item(), rel=0.25)


def test_a_model_has_the_wanted_precision_at_once(backbones: Model) -> None:
    model = empty_model(backbones, 48, LORA)
    load_weights(model, backbones, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.language_model.buffers()} == {torch.float32}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_a_loaded_model_does_not_change_when_its_files_do(backbones: Model) -> None:
    model, _ = built(backbones)
    path = Path(backbones.language_model.weights)
    before = model.language_model.lm_head.weight.clone()
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        stream.write(bytes(path.stat().st_size // 2))
    assert torch.equal(model.language_model.lm_head.weight, before)


def test_a_larger_picture_gets_an_interpolated_position_table(model: VisionLanguageModel, backbones: Model) -> None:
    larger, _ = built(backbones, size=64)
    small, large = (m.vision_encoder.model.embeddings.position_embedding for m in (model, larger))
    assert large.shape[1] == 1 + 8 * 8
    assert torch.equal(large[:, 0], small[:, 0])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lm_head.bias": None}, "1 missing \\(language_model.lm_head.bias\\)"),
        ({"model.extra.weight": torch.zeros(2)}, "1 left over \\(model.extra.weight\\)"),
        (
            {"lm_head.bias": torch.zeros(7)},
            "1 of another shape \\(language_model.lm_head.bias \\(7,\\) for \\(50,\\)\\)",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    backbones: Model, changes: dict[str, torch.Tensor | None], told: str
) -> None:
    change(backbones.language_model.weights, **changes)
    with pytest.raises(HandoffError, match=told):
        built(backbones)


@pytest.mark.parametrize("part", ["vision_encoder", "language_model"])
def test_what_is_no_number_is_not_begun_with_frozen_or_not(backbones: Model, part: str) -> None:
    location = getattr(backbones, part).weights
    name = next(iter(load_file(location)))
    change(location, **{name: load_file(location)[name] * torch.nan})
    with pytest.raises(HandoffError, match=rf"{location}: '{name}' holds NaN or Inf"):
        built(backbones)


def test_trained_tensors_that_are_no_numbers_are_named_with_their_file(
    tmp_path: Path, model: VisionLanguageModel, backbones: Model
) -> None:
    handoff = trained(model, tmp_path / "trained.safetensors", "connector.1.")
    change(str(handoff.path), **{"connector.1.bias": model.connector[1].bias.detach() / 0})
    with pytest.raises(HandoffError, match=r"trained\.safetensors: 'connector\.1\.bias' holds NaN or Inf"):
        built(backbones, handoff=handoff)


def test_what_fp16_cannot_hold_is_refused_there_alone(backbones: Model) -> None:
    change(backbones.language_model.weights, **{"lm_head.bias": torch.full((50,), 1e5)})
    load_weights(empty_model(backbones, 48), backbones, dtype=torch.bfloat16)
    with pytest.raises(HandoffError, match=r"lm_head\.bias: holds numbers up to 1e\+05.*precision: bf16 or fp32"):
        load_weights(empty_model(backbones, 48), backbones, dtype=torch.float16)


def trained(model: VisionLanguageModel, path: Path, *beginnings: str) -> Handoff:
    """A stage's file with the parameters whose names begin so, all of them required."""
    chosen = {n: p for n, p in parameters_by_name(model).items() if n.startswith(beginnings)}
    save_trained(chosen, path)
    return Handoff(path, chosen.keys())


def test_trained_tensors_replace_those_of_the_backbones(
    tmp_path: Path, model: VisionLanguageModel, backbones: Model
) -> None:
    norm = "language_model.model.layers.0.input_layernorm.weight"
    with torch.no_grad():
        parameters_by_name(model)[norm].add_(1)
    handoff = trained(model, tmp_path / "trained.safetensors", "connector.1.", norm)
    other, report = built(backbones, LORA, handoff=handoff)
    for name in handoff.required:
        assert torch.equal(parameters_by_name(other)[name], parameters_by_name(model)[name])
    left_out = {("language.safetensors", "model.layers.0.input_layernorm.weight"): "replaced by trained.safetensors"}
    assert report.left_out == left_out
    assert report.loaded.keys() | report.begins_anew.keys() == parameters_by_name(other).keys()


def test_a_checkpoint_may_hold_more_than_the_stage_needs(
    tmp_path: Path, model: VisionLanguageModel, backbones: Model
) -> None:
    with torch.no_grad():
        model.connector[0].query_tokens.add_(1)
    handoff = trained(model, tmp_path / "trained.safetensors", "connector.")
    less = Handoff(handoff.path, {"connector.1.weight"})
    other, _ = built(backbones, handoff=less)
    assert torch.equal(other.connector[0].query_tokens, model.connector[0].query_tokens)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, model: VisionLanguageModel, backbones: Model) -> None:
    handoff = trained(model, tmp_path / "trained.safetensors", "connector.1.")
    change(str(handoff.path), **{"connector.3.weight": torch.zeros(2)})
    with pytest.raises(HandoffError, match=r"trained.safetensors: .* 1 left over \(connector.3.weight\)"):
        built(backbones, handoff=handoff)


def test_a_missing_norm_is_not_lost_in_silence(tmp_path: Path, model: VisionLanguageModel, backbones: Model) -> None:
    lost = "language_model.model.layers.0.attention_norm.weight"
    handoff = trained(model, tmp_path / "trained.safetensors", "language_model.model.layers")
    change(str(handoff.path), **{lost: None})
    with pytest.raises(HandoffError, match=r"1 missing \(language_model.model.layers.0.attention_norm.weight\)"):
        built(backbones, handoff=handoff)


def test_adapters_are_neither_begun_nor_dropped_in_silence(tmp_path: Path, backbones: Model) -> None:
    plain, adapted = built(backbones)[0], built(backbones, LORA)[0]
    names = {name for name in parameters_by_name(adapted) if name.startswith("connector.1.") or ".lora_" in name}
    without = trained(plain, tmp_path / "without.safetensors", "connector.1.")
    with_them = trained(adapted, tmp_path / "with.safetensors", *names)
    with pytest.raises(HandoffError, match=r"no LoRA weights.*write `lora: \{init: fresh\}`"):
        built(backbones, LORA, handoff=Handoff(without.path, names))
    with pytest.raises(HandoffError, match=r"LoRA weights of rank 4, but the stage has no adapters.*init: inherit"):
        built(backbones, handoff=Handoff(with_them.path, without.required))
    with pytest.raises(HandoffError, match=r"begins its adapters anew.*Write `lora: \{init: inherit\}`"):
        built(backbones, LORA, handoff=Handoff(with_them.path, without.required))


def test_adapters_of_another_rank_are_refused_with_a_hint(tmp_path: Path, backbones: Model) -> None:
    adapted = built(backbones, LORA.model_copy(update={"rank": 2}))[0]
    handoff = trained(adapted, tmp_path / "t.safetensors", *parameters_by_name(adapted))
    with pytest.raises(HandoffError, match=r"lora\.rank is another than theirs"):
        built(backbones, LORA, handoff=handoff)


def test_the_peak_is_the_model_and_about_one_tensor(tmp_path: Path, definition: Model) -> None:
    content = definition.model_dump()
    content["language_model"] |= {"width": 768, "mlp_width": 3072, "depth": 8, "vocabulary": 8000}
    content["connector"][2]["width"] = 768
    content["vision_encoder"]["weights"] = str(tmp_path / "vision.safetensors")
    content["connector"][0]["weights"] = str(tmp_path / "qformer.pth")
    content["language_model"]["weights"] = str(tmp_path / "language.pth")
    larger = Model.model_validate(content)
    parameters = {n: torch.zeros(p.shape) for n, p in parameters_by_name(empty_model(larger, 48)).items()}

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {n.removeprefix(prefix): t for n, t in parameters.items() if n.startswith(prefix)}

    save_file(part("vision_encoder.model."), tmp_path / "vision.safetensors")
    torch.save(part("connector.0."), tmp_path / "qformer.pth")
    torch.save(part("language_model."), tmp_path / "language.pth")
    (tmp_path / "model.json").write_text(larger.model_dump_json())
    code = f"""
from pathlib import Path
import torch
from tinygptv.definitions.model import Model
from tinygptv.models.weights import empty_model, load_weights
from tinygptv.release.measure import memory
definition = Model.model_validate_json(Path({str(tmp_path / "model.json")!r}).read_text())
torch.zeros(2_000_000).bfloat16()  # what the first cast costs once and for all
model = empty_model(definition, 48)
before = memory("VmRSS")
load_weights(model, definition, dtype=torch.bfloat16)
print(memory("VmHWM") - before, sum(parameter.nbytes for parameter in model.parameters()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, weight = map(int, done.stdout.split())
    assert weight > 130e6
    # The pages of a file that are kept mapped before it is opened anew, and the largest tensor.
    assert peak < weight + 70e6 + 30e6
