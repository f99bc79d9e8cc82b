"""Weights out, and in again: nothing changes by a bit."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM, PhiForCausalLM

from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Lora
from tinygptv.errors import HandoffError
from tinygptv.golden.case import GoldenCase
from tinygptv.models.decoders.phi import phi_config
from tinygptv.models.fused_qkv import fuse_heads, fuse_stock, interleave_heads, split_heads, to_stock
from tinygptv.models.stored import in_memory, read_all
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import Handoff, parameters_by_name, trained_file
from tinygptv.models.weights.adapter import ADAPTER, NORMS, write_adapter
from tinygptv.models.weights.loading import open_handoff
from tinygptv.models.weights.reference import save_reference, to_reference

LORA = Lora(rank=4, alpha=8.0, dropout=0.0, init="inherit")
STAGES = [
    "tinygptv/stage1",
    "tinygptv/stage2",
    "tinygptv/stage3",
    "tinygptv/stage4",
    "minigpt/stage1",
    "minigpt/stage3",
]


@pytest.fixture
def adapted(definition: Model) -> VisionLanguageModel:
    """Random in every parameter, adapters included."""
    torch.manual_seed(4)
    model = VisionLanguageModel(definition, 48, LORA).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def trained(model: VisionLanguageModel, *, qformer: bool = False) -> dict[str, Tensor]:
    """What a stage leaves: projections, norms, adapters."""
    beginnings = ("connector.1.", "connector.2.", *(["connector.0."] if qformer else []))
    return {
        name: parameter.detach()
        for name, parameter in parameters_by_name(model).items()
        if name.startswith(beginnings)
        or ".lora_" in name
        or (name.startswith("language_model.") and name.endswith("norm.weight"))
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("stage", STAGES)
def test_a_published_checkpoint_comes_out_as_it_went_in(shared: Path, tmp_path: Path, stage: str) -> None:
    path = shared / "golden" / stage / "checkpoint_0.pth"
    model = GoldenCase(path.parent).model
    save_reference(read_all(trained_file(path, model).tensors), tmp_path / "out.pth", model)
    found, expected = (torch.load(file, weights_only=True)["model"] for file in (tmp_path / "out.pth", path))
    buffer = "Qformer.bert.embeddings.position_ids"
    if stage == "minigpt/stage3":  # has no Q-Former
        assert buffer not in found
    else:
        positions = expected.pop(buffer)
        assert torch.equal(found.pop(buffer)[:, : positions.shape[1]], positions)
    assert_same(found, expected)


@pytest.mark.parametrize("qformer", [False, True])
def test_ours_through_the_published_layout_is_ours(
    tmp_path: Path, adapted: VisionLanguageModel, definition: Model, qformer: bool
) -> None:
    tensors = trained(adapted, qformer=qformer)
    save_reference(tensors, tmp_path / "out.pth", definition)
    assert_same(read_all(trained_file(tmp_path / "out.pth", definition).tensors), tensors)


def test_without_adapters_the_published_prefix_is_the_shorter_one(
    adapted: VisionLanguageModel, definition: Model
) -> None:
    tensors = {name: tensor for name, tensor in trained(adapted).items() if ".lora_" not in name}
    names = to_reference(tensors, definition)
    assert "llama_model.model.layers.0.post_layernorm.weight" in names
    assert not any("base_model" in name for name in names)


def test_what_the_published_code_never_trains_has_no_place_in_its_checkpoint(
    adapted: VisionLanguageModel, definition: Model
) -> None:
    with pytest.raises(HandoffError, match=r"'vision_encoder\.model\.post_layernorm\.weight' has no place"):
        to_reference({"vision_encoder.model.post_layernorm.weight": torch.ones(3)}, definition)


def test_fusing_interleaves_the_heads() -> None:
    query, key, value = (torch.arange(4.0)[:, None] + offset for offset in (0, 10, 20))
    fused = fuse_heads(query, key, value, heads=2)
    assert fused.flatten().tolist() == [0, 1, 10, 11, 20, 21, 2, 3, 12, 13, 22, 23]
    assert all(torch.equal(a, b) for a, b in zip(split_heads(fused, 2), (query, key, value), strict=True))
    assert torch.equal(interleave_heads(torch.cat([query, key, value]), 2), fused)


def test_a_decoder_taken_apart_is_put_together_again(adapted: VisionLanguageModel, definition: Model) -> None:
    names = parameters_by_name(adapted.language_model)
    whole = {name: tensor.detach() for name, tensor in names.items() if ".lora_" not in name}
    stock = to_stock(whole, definition.language_model)
    apart = {name: in_memory(name, tensor) for name, tensor in stock.tensors.items()}
    again = read_all(fuse_stock(apart, definition.language_model.heads))
    assert_same(again | stock.others, whole)
    assert {name.split(".")[3] for name in stock.others} == {"attention_norm"}


def test_an_adapter_folder_fuses_back(tmp_path: Path, adapted: VisionLanguageModel, definition: Model) -> None:
    tensors = trained(adapted, qformer=True)
    write_adapter(tmp_path, tensors, definition.language_model, LORA)
    assert_same(read_all(trained_file(tmp_path, definition, LORA).tensors), tensors)
    expected = Handoff(tmp_path, tensors.keys(), LORA)
    assert open_handoff(expected, definition, parameters_by_name(adapted)).layout == "an adapter of PEFT"


def test_peft_applies_the_adapter_to_the_stock_decoder(tmp_path: Path, definition: Model) -> None:
    decoder = definition.language_model.model_copy(update={"attention_norm": False, "dropout": 0.0})
    definition = definition.model_copy(update={"language_model": decoder})
    torch.manual_seed(4)
    ours = VisionLanguageModel(definition, 48, LORA).eval()
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            parameter.normal_(std=0.3)
            if "_layernorm.bias" in name:
                parameter.zero_()
    write_adapter(tmp_path, trained(ours), decoder, LORA)
    plain = {n: t for n, t in parameters_by_name(ours.language_model).items() if ".lora_" not in n}
    untrained = {n: torch.ones_like(t) if n.endswith("norm.weight") else t for n, t in plain.items()}
    stock = PhiForCausalLM(phi_config(decoder)).eval()
    stock.load_state_dict(to_stock(untrained, decoder).tensors)
    left = stock.load_state_dict(load_file(tmp_path / NORMS), strict=False)
    assert left.unexpected_keys == []
    theirs = PeftModel.from_pretrained(stock, str(tmp_path))
    ids = torch.randint(0, 50, (2, 9))
    with torch.no_grad():
        expected = ours.language_model(ids).logits
        torch.testing.assert_close(theirs(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
        with theirs.disable_adapter():
            assert (theirs(input_ids=ids).logits - expected).abs().max() > 0.1


def test_peft_computes_with_a_converted_minigpt_v2_what_was_recorded(shared: Path, tmp_path: Path) -> None:
    case = GoldenCase(shared / "golden" / "minigpt" / "stage3")
    tensors = read_all(trained_file(case.folder / "checkpoint_0.pth", case.model).tensors)
    write_adapter(tmp_path, tensors, case.model.language_model, case.lora)
    assert_same(read_all(trained_file(tmp_path, case.model, case.lora).tensors), tensors)
    stock = LlamaForCausalLM.from_pretrained(case.folder.parent / "backbones" / "llama").eval()
    adapted, io = PeftModel.from_pretrained(stock, str(tmp_path)), load_file(case.folder / "io.safetensors")
    with torch.no_grad():
        logits = adapted(inputs_embeds=io["inputs_embeds"], attention_mask=io["attention_mask"]).logits
    seen = io["attention_mask"].bool()
    torch.testing.assert_close(logits[seen], io["logits"][seen], atol=1e-4, rtol=0)


def test_adapters_that_were_trained_apart_are_not_fused(
    tmp_path: Path, adapted: VisionLanguageModel, definition: Model
) -> None:
    write_adapter(tmp_path, trained(adapted), definition.language_model, LORA)
    tensors = load_file(tmp_path / ADAPTER)
    tensors["base_model.model.model.layers.1.self_attn.k_proj.lora_A.weight"] += 1e-3
    save_file(tensors, tmp_path / ADAPTER)
    with pytest.raises(HandoffError, match=r"lora_A of queries, keys and values differ.*trained apart.*--to merged"):
        trained_file(tmp_path, definition)


@pytest.mark.parametrize(
    ("recipe", "told"), [({"alpha": 32.0}, r"lora_alpha 8\.0 \(recipe: 32\.0\)"), ({"rank": 8}, r"r 4 \(recipe: 8\)")]
)
def test_an_adapter_of_another_strength_is_refused(
    tmp_path: Path, adapted: VisionLanguageModel, definition: Model, recipe: dict[str, object], told: str
) -> None:
    write_adapter(tmp_path, trained(adapted), definition.language_model, LORA)
    with pytest.raises(HandoffError, match=told):
        trained_file(tmp_path, definition, LORA.model_copy(update=recipe))
