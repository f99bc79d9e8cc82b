"""Weights as they were published: every layout gives the same model, every tensor is accounted for."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.weights import layouts
from tinygptv import catalog
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Lora
from tinygptv.errors import HandoffError
from tinygptv.models.kinds import connector_part_kind
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import Handoff, LoadReport, empty_model, load_weights, open_weights, parameters_by_name

LORA = Lora(rank=4, alpha=8.0, dropout=0.0, init="inherit")


@pytest.fixture
def published(tmp_path: Path, random_model: VisionLanguageModel, definition: Model) -> Model:
    return layouts.write_published(tmp_path / "published", random_model, definition)


@pytest.fixture
def random_model(definition: Model) -> VisionLanguageModel:
    """Random in every parameter, adapters included; a bias for keys, which EVA has not, is zero."""
    torch.manual_seed(3)
    model = VisionLanguageModel(definition, 48, LORA)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_()
            if name.endswith("self_attn.qkv.bias"):
                parameter.view(3, -1)[1] = 0
    return model


def load(definition: Model, handoff: Handoff | None = None, lora: Lora | None = None) -> tuple[dict, LoadReport]:
    model = empty_model(definition, 48, lora)
    report = load_weights(model, definition, handoff=handoff)
    return parameters_by_name(model), report


def assert_same(found: dict[str, Tensor], expected: VisionLanguageModel, names: object) -> None:
    wanted = parameters_by_name(expected)
    for name in names:
        assert torch.equal(found[name], wanted[name]), name


def reasons(report: LoadReport) -> Counter[str]:
    return Counter(report.left_out.values())


def test_the_published_files_fill_everything_they_should(published: Model, random_model: VisionLanguageModel) -> None:
    found, report = load(published)
    assert_same(found, random_model, report.loaded)
    assert {name.rsplit(".", 2)[-2] for name in report.begins_anew} == {
        "1",
        "2",
        *("qk"[i] + "_layernorm" for i in (0, 1)),
        "attention_norm",
    }
    unused = len(layouts.eva(random_model)) - len(layouts.eva(random_model, 0))
    assert reasons(report) == {
        "a head that BLIP-2 does not use": 4,
        "a block beyond the 2 in use": unused,
        "the language model BLIP-2 was trained with": 2,
        "a buffer, computed anew": 1,
    }
    assert "BLIP-2 as LAVIS names it" in report.lines()[0]


def test_keys_get_a_bias_of_zero(published: Model) -> None:
    found, _ = load(published)
    assert not found["vision_encoder.model.encoder.layers.0.self_attn.qkv.bias"].view(3, -1)[1].any()


@pytest.mark.parametrize("layout", ["stock", "fused", "msft"])
def test_phi_is_the_same_in_all_its_layouts(
    tmp_path: Path, random_model: VisionLanguageModel, definition: Model, layout: str
) -> None:
    found, report = load(layouts.write_published(tmp_path / layout, random_model, definition, layout))
    assert_same(found, random_model, report.loaded)
    assert any(".query_key_value." in name for name in report.loaded)


def test_buffers_that_old_files_keep_are_left_out(published: Model) -> None:
    path = Path(published.language_model.weights) / "model.safetensors"
    save_file(load_file(path) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, path)
    _, report = load(published)
    name = ("phi-2", "model.layers.0.self_attn.rotary_emb.inv_freq")
    assert report.left_out[name] == "a buffer, computed anew"


def test_a_blip2_with_a_language_model_and_a_text_side_inside(
    published: Model, random_model: VisionLanguageModel
) -> None:
    torch.save({"model": layouts.blip2(random_model, whole=True)}, published.connector[0].weights)
    found, report = load(published)
    assert_same(found, random_model, report.loaded)
    assert reasons(report)["the Q-Former's text side"] == 3
    assert reasons(report)["the vision encoder, which is read from its own file"] == 1


def test_a_blip2_of_hugging_face_gives_encoder_and_qformer(
    tmp_path: Path, published: Model, random_model: VisionLanguageModel
) -> None:
    save_file(layouts.hugging_face_blip2(random_model), tmp_path / "model.safetensors")
    content = published.model_dump()
    content["vision_encoder"]["weights"] = content["connector"][0]["weights"] = str(tmp_path / "model.safetensors")
    found, report = load(Model.model_validate(content))
    assert_same(found, random_model, report.loaded)
    assert {name for _, name in report.left_out} == {"language_projection.weight", "language_model.shared.weight"}


def test_an_unknown_tensor_is_named(published: Model, random_model: VisionLanguageModel) -> None:
    torch.save(layouts.eva(random_model) | {"rel_pos_bias.table": torch.ones(3)}, published.vision_encoder.weights)
    with pytest.raises(HandoffError, match=r"eva_vit_g\.pth: .* 1 left over \(rel_pos_bias\.table\)"):
        load(published)


def test_an_encoder_of_fewer_blocks_is_refused(published: Model, random_model: VisionLanguageModel) -> None:
    tensors = {n: t for n, t in layouts.eva(random_model).items() if not n.startswith(("blocks.1.", "blocks.2."))}
    torch.save(tensors, published.vision_encoder.weights)
    with pytest.raises(HandoffError, match=r"missing \(vision_encoder\.model\.encoder\.layers\.1\."):
        load(published)


def test_minigpt4s_projection_goes_into_the_linear_that_names_it(tmp_path: Path, published: Model) -> None:
    content = published.model_dump()
    width = content["connector"][1]["width"]
    tensors = {"llama_proj.weight": torch.randn(width, 32), "llama_proj.bias": torch.randn(width)}
    torch.save({"model": tensors}, tmp_path / "pretrained_minigpt4_7b.pth")
    content["connector"][1]["weights"] = str(tmp_path / "pretrained_minigpt4_7b.pth")
    found, report = load(Model.model_validate(content))
    assert torch.equal(found["connector.1.weight"], tensors["llama_proj.weight"])
    assert torch.equal(found["connector.1.bias"], tensors["llama_proj.bias"])
    assert {name for name in report.begins_anew if name.startswith("connector.")} == {
        "connector.2.weight",
        "connector.2.bias",
    }


# ---- checkpoints of the published code, of every generation


def stage_file(path: Path, tensors: dict[str, Tensor], **more: object) -> Path:
    """As the published code saves it, optimizer and all."""
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-5, "params": [0]}]}
    torch.save({"model": tensors, "optimizer": optimizer, "config": {"run": {"lr": 1e-5}}, "epoch": 1, **more}, path)
    return path


def reference_tensors(model: VisionLanguageModel, spelling: str | None) -> dict[str, Tensor]:
    """Projections and norms, and adapters in a `spelling` of theirs (None: no adapters)."""
    projections = {"connector.1": "llama_proj", "connector.2": "llama_proj2"}
    theirs = {"Qformer.bert.embeddings.position_ids": torch.arange(512)[None]}
    for name, tensor in parameters_by_name(model).items():
        adapter = ".lora_" in name
        if name.rpartition(".")[0] in projections:
            theirs[f"{projections[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}"] = tensor
        elif name.startswith("language_model.") and (
            name.endswith("norm.weight") or (adapter and spelling is not None)
        ):
            prefix = "llama_model." if spelling is None else "llama_model.base_model.model."
            new = name.replace("language_model.", prefix, 1).replace(".attention_norm.", ".post_layernorm.")
            theirs[new.replace(".weight", f"{spelling}.weight") if adapter else new] = tensor
    return layouts.copied(theirs)


@pytest.mark.parametrize("spelling", [None, "", ".default"])
def test_stages_of_every_generation_are_read(
    tmp_path: Path, published: Model, random_model: VisionLanguageModel, spelling: str | None
) -> None:
    theirs = reference_tensors(random_model, spelling)
    path = stage_file(tmp_path / "TinyGPT-V_for_Stage.pth", theirs)
    lora = None if spelling is None else LORA
    found, report = load(published, Handoff(path), lora)
    trained = {name for name, where in report.loaded.items() if "published code" in where}
    assert len(trained) == len(theirs) - 1
    assert_same(found, random_model, report.loaded)
    assert {name for name in report.begins_anew if not name.endswith("_layernorm.bias")} == set()


def test_a_stage_that_trained_the_qformer_brings_it(
    tmp_path: Path, published: Model, random_model: VisionLanguageModel
) -> None:
    trained = VisionLanguageModel(published, 48, LORA)
    theirs = reference_tensors(trained, "") | layouts.qformer(trained)
    path = stage_file(tmp_path / "TinyGPT-V_for_Stage4.pth", theirs)
    found, report = load(published, Handoff(path), LORA)
    assert_same(found, trained, [name for name in report.loaded if name.startswith("connector.")])
    assert torch.equal(found["connector.0.query_tokens"], trained.connector[0].query_tokens)
    assert not torch.equal(found["connector.0.query_tokens"], random_model.connector[0].query_tokens)


# ---- wrong files


def test_a_projection_for_the_13b_decoder_is_refused(tmp_path: Path) -> None:
    tensors = {"llama_proj.weight": torch.zeros(5120, 768), "llama_proj.bias": torch.zeros(5120)}
    torch.save({"model": tensors}, tmp_path / "p.pth")
    part = catalog.recipe("tinygptv").model.connector[1]
    with pytest.raises(
        HandoffError, match=r"width 5120 \(MiniGPT-4 for the 13B.*4096 wide.*pretrained_minigpt4_7b\.pth"
    ):
        connector_part_kind(part, 1).read(open_weights(tmp_path / "p.pth"))


@pytest.mark.parametrize(
    ("wanted", "found", "told"),
    [
        ("t5", "opt", r"trained with OPT \(it holds 'opt_proj.*pretrained_with: t5.*blip2_pretrained_flant5xxl\.pth"),
        ("opt", "t5", r"trained with FLAN-T5 \(it holds 't5_proj.*pretrained_with: opt"),
        ("t5", "itm_head", "of the first stage, before any language model"),
    ],
)
def test_a_blip2_trained_with_another_language_model_is_refused(
    published: Model, random_model: VisionLanguageModel, wanted: str, found: str, told: str
) -> None:
    tensors = layouts.blip2(random_model, found if found != "itm_head" else "t5")
    if found == "itm_head":
        tensors = {n: t for n, t in tensors.items() if not n.startswith("t5_")} | {"itm_head.weight": torch.ones(2, 4)}
    torch.save({"model": tensors}, published.connector[0].weights)
    content = published.model_dump()
    content["connector"][0]["pretrained_with"] = wanted
    with pytest.raises(HandoffError, match=told):
        load(Model.model_validate(content))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_size": 2048, "num_hidden_layers": 24}, r"Phi-1 or Phi-1\.5.*width 2048 \(recipe: 32\), depth 24"),
        ({"model_type": "llama"}, r"architecture llama \(recipe: phi\)"),
        ({"partial_rotary_factor": 0.4}, r"rotary_fraction 0\.4 \(recipe: 0\.5\)"),
        ({"max_position_embeddings": 128}, r"max_positions 128 \(recipe: 512\)"),
    ],
)
def test_another_decoders_folder_is_refused_before_its_tensors_are_read(
    published: Model, changes: dict[str, object], told: str
) -> None:
    folder = Path(published.language_model.weights)
    layouts.write_config(folder, published.language_model, **changes)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(HandoffError, match=f"config.json: another model.*{told}"):
        load(published)


def test_a_fitting_configuration_is_accepted(published: Model) -> None:
    folder = Path(published.language_model.weights)
    layouts.write_config(folder, published.language_model, max_position_embeddings=4096, unknown_to_us=1)
    load(published)


def test_a_configuration_that_is_no_json_is_named(published: Model) -> None:
    (Path(published.language_model.weights) / "config.json").write_text("{")
    with pytest.raises(HandoffError, match=r"config\.json: not JSON"):
        load(published)
