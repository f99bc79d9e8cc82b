"""Adapters of PEFT: ours is held against PEFT's own `merge_and_unload`, for every setting that changes numbers."""

import dataclasses
import json
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PhiForCausalLM

from tinygptv.definitions.decoders.llama import Llama
from tinygptv.definitions.decoders.phi import Phi
from tinygptv.definitions.parts import Decoder
from tinygptv.definitions.recipe import Lora
from tinygptv.errors import HandoffError
from tinygptv.models.decoders.llama import llama_config
from tinygptv.models.decoders.phi import phi_config
from tinygptv.models.fused_qkv import fuse_stock
from tinygptv.models.kinds import decoder_kind
from tinygptv.models.lora import attach_lora, merge_lora, plain_name
from tinygptv.models.stored import Table, in_memory, read_all
from tinygptv.models.weights.adapter import ADAPTER, CONFIG, merge_adapter, read_adapter
from tinygptv.models.weights.adapter_config import COMPUTED, REFUSED, WITHOUT_EFFECT

SIZES: dict[str, Any] = {
    "width": 32,
    "depth": 3,
    "heads": 4,
    "mlp_width": 48,
    "vocabulary": 50,
    "max_positions": 64,
    "weights": "embedded:none",
    "tokenizer": "embedded:none",
    "qk_norm": True,
    "attention_norm": False,
}
PHI = Phi(**SIZES, architecture="phi", rotary_fraction=0.5)
LLAMA = Llama(**(SIZES | {"qk_norm": False}), architecture="llama", key_value_heads=2, rms_norm_eps=1e-6)
ATTENTION = {"phi": ["q_proj", "k_proj", "v_proj", "dense"], "llama": ["q_proj", "k_proj", "v_proj", "o_proj"]}
MLP = {"phi": ["fc1", "fc2"], "llama": ["gate_proj", "up_proj", "down_proj"]}

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank_and_alpha": {"r": 6, "lora_alpha": 17},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora_and_rslora": {"use_dora": True, "use_rslora": True, "lora_alpha": 3},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 64, r"layers\.1\..*v_proj": 5}},
    "alpha_pattern_by_whole_name": {"alpha_pattern": {r"^model\.layers\.2\.self_attn\.k_proj": 40}},
    "rank_pattern": {"rank_pattern": {"v_proj": 2, r"model\.layers\.0\.self_attn\.q_proj": 7}},
    "both_patterns_and_rslora": {"rank_pattern": {"k_proj": 9}, "alpha_pattern": {"k_proj": 1}, "use_rslora": True},
    "some_of_queries_keys_and_values": {"target_modules": ["q_proj", "v_proj"]},
    "default_targets": {"target_modules": None},
    "targets_by_expression": {"target_modules": r".*layers\.[02]\.self_attn\.(q|k)_proj"},
    "all_linear": {"target_modules": "all-linear"},
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["q_proj"]},
    "excluded_by_expression": {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*layers\.0\..*"},
    "one_layer": {"layers_to_transform": 1},
    "some_layers": {"layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "head_adapted": {"target_modules": ["q_proj", "lm_head"]},
    "head_saved": {"modules_to_save": ["lm_head"]},
    "biases": {"bias": "all"},
    "biases_of_adapted_maps": {"bias": "lora_only"},
    "biases_of_few_adapted_maps": {"bias": "lora_only", "target_modules": ["v_proj"]},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "dropout": {"lora_dropout": 0.3},
}
OFF: dict[str, Any] = {
    "init_lora_weights": "pissa_niter_4",
    "lora_bias": True,
    "megatron_config": {"a": 1},
    "trainable_token_indices": [3],
    "velora_config": {"a": 1},
    "alora_invocation_tokens": [3],
    "use_qalora": True,
    "monteclora_config": {"a": 1},
    "layer_replication": [[0, 2], [1, 3]],
    "target_parameters": ["x"],
    "use_bdlora": {"a": 1},
    "arrow_config": {"a": 1},
    "kasa_config": {"a": 1},
    "ensure_weight_tying": True,
}
"""Of every refused field, a value that PEFT would act on."""


def stock(definition: Decoder) -> nn.Module:
    torch.manual_seed(0)
    if isinstance(definition, Phi):
        model: nn.Module = PhiForCausalLM(phi_config(definition))
    else:
        model = LlamaForCausalLM(llama_config(definition))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def save_adapter(folder: Path, definition: Decoder, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """An adapter of PEFT, random in all that it trains; returns the decoder that PEFT merges it into."""
    base = stock(definition)
    usual: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION[definition.architecture]}
    config = LoraConfig(**(usual | {"task_type": "CAUSAL_LM"} | dict(settings)))
    model = get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_magnitude" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
            elif parameter.requires_grad:
                parameter.normal_(std=0.2)
    model.save_pretrained(str(folder))
    # Loaded again, so that it is PEFT's reading of the folder that counts.
    fresh = PeftModel.from_pretrained(stock(definition), str(folder))
    return dict(fresh.merge_and_unload().state_dict())


def ours(tensors: Mapping[str, Tensor], definition: Decoder) -> Table:
    """A decoder's tensors as our model names them."""
    table = {name: in_memory(name, tensor.clone()) for name, tensor in tensors.items()}
    fused = fuse_stock(table, definition.heads) if isinstance(definition, Phi) else table
    return {f"language_model.{name}": stored for name, stored in fused.items()}


def merged(folder: Path, definition: Decoder) -> dict[str, Tensor]:
    base = ours(stock(definition).state_dict(), definition)
    return read_all(base) | read_all(merge_adapter(folder, definition, base).tensors)


def assert_alike(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize("definition", [PHI, LLAMA], ids=["phi", "llama"])
@pytest.mark.parametrize("name", SETTINGS)
def test_merged_as_peft_merges(tmp_path: Path, definition: Decoder, name: str) -> None:
    expected = save_adapter(tmp_path, definition, SETTINGS[name])
    assert any(not torch.equal(expected[n], tensor) for n, tensor in stock(definition).state_dict().items())
    assert_alike(merged(tmp_path, definition), read_all(ours(expected, definition)))


@pytest.mark.parametrize("seed", range(12))
def test_settings_together_are_merged_as_peft_merges(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    definition: Decoder = PHI if chance.random() < 0.5 else LLAMA
    maps = ATTENTION[definition.architecture] + MLP[definition.architecture]
    settings = {
        "r": chance.choice([1, 3, 8]),
        "lora_alpha": chance.choice([1, 16, 32]),
        "target_modules": chance.sample(maps, chance.randint(1, len(maps))),
        "rank_pattern": {name: chance.choice([1, 2, 5]) for name in chance.sample(maps, 2)},
        "alpha_pattern": {name: chance.choice([2, 64]) for name in chance.sample(maps, 2)},
        "use_rslora": chance.random() < 0.5,
        "use_dora": chance.random() < 0.3,
        "layers_to_transform": chance.choice([None, [0], [1, 2]]),
        "bias": chance.choice(["none", "lora_only", "all"]),
    }
    expected = save_adapter(tmp_path, definition, settings)
    assert_alike(merged(tmp_path, definition), read_all(ours(expected, definition)))


def test_a_fused_decoders_adapter_is_merged_as_peft_merges(tmp_path: Path) -> None:
    """As transformers 4.36 had it, in which TinyGPT-V was trained."""
    base = decoder_kind(PHI).build().eval()
    targets = ["query_key_value", "dense"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, alpha_pattern={"query_key_value": 24})
    model = get_peft_model(base, config)
    plain = {plain_name(n): t.detach().clone() for n, t in base.named_parameters() if ".lora_" not in n}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(str(tmp_path))
    expected = dict(model.merge_and_unload().named_parameters())
    table = {f"language_model.{name}": in_memory(name, tensor) for name, tensor in plain.items()}
    found = read_all(table) | read_all(merge_adapter(tmp_path, PHI, table).tensors)
    assert_alike({n.removeprefix("language_model."): t for n, t in found.items()}, expected)


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 64}}, {"alpha_pattern": {"o_proj": 3}, "r": 6}]
)
def test_a_stage_goes_on_from_what_peft_computes(tmp_path: Path, settings: dict[str, Any]) -> None:
    expected = save_adapter(tmp_path, LLAMA, settings)
    lora = Lora(rank=settings.get("r", 4), alpha=8, dropout=0, init="inherit", targets=ATTENTION["llama"])
    model = decoder_kind(LLAMA).build().eval()
    attach_lora(model, lora)
    tensors = read_all(ours(stock(LLAMA).state_dict(), LLAMA)) | read_all(read_adapter(tmp_path, LLAMA, lora).tensors)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors.pop(f"language_model.{plain_name(name)}"))
    assert not tensors
    merge_lora(model)
    assert_alike(dict(model.named_parameters()), expected)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"use_dora": True}, r"use_dora: true is not supported by a stage's adapters.*--to merged"),
        ({"rank_pattern": {"v_proj": 2}}, r"rank_pattern gives 'model\.layers\.0\.self_attn\.v_proj' rank 2.*merged"),
        ({}, r"lora_A of queries, keys and values differ.*trained apart.*--to merged"),
        ({"target_modules": ["q_proj", "v_proj"]}, r"some of queries, keys and values.*k_proj.*--to merged"),
    ],
)
def test_what_a_stage_has_no_place_for_is_refused_with_the_way_out(
    tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    save_adapter(tmp_path, PHI, settings)
    with pytest.raises(HandoffError, match=told):
        read_adapter(tmp_path, PHI, Lora(rank=4, alpha=8, dropout=0, init="inherit"))


def test_every_field_of_the_installed_peft_is_understood() -> None:
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    groups = [COMPUTED, WITHOUT_EFFECT, set(REFUSED)]
    assert set().union(*groups) == fields, "put a new field of LoraConfig into one of the groups of adapter_config"
    assert sum(len(group) for group in groups) == len(fields)


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


@pytest.mark.parametrize("field", REFUSED)
def test_what_is_not_computed_is_refused_by_name(tmp_path: Path, field: str) -> None:
    save_adapter(tmp_path, LLAMA, {})
    change_config(tmp_path, **{field: OFF[field]})
    with pytest.raises(HandoffError, match=rf"{CONFIG}: {field}: .* is not supported: "):
        merged(tmp_path, LLAMA)


@pytest.mark.parametrize("value", ["pissa", "olora", "corda", "loftq", "lora_ga", "mica", "of tomorrow"])
def test_an_initialization_that_may_change_the_base_is_refused(tmp_path: Path, value: str) -> None:
    save_adapter(tmp_path, LLAMA, {})
    change_config(tmp_path, init_lora_weights=value)
    with pytest.raises(HandoffError, match=r"init_lora_weights: '.*path_initial_model_for_weight_conversion"):
        merged(tmp_path, LLAMA)


def test_a_field_of_tomorrow_is_refused_unless_it_is_off(tmp_path: Path) -> None:
    expected = save_adapter(tmp_path, LLAMA, {})
    change_config(tmp_path, use_xlora=False, new_config=None)
    assert_alike(merged(tmp_path, LLAMA), read_all(ours(expected, LLAMA)))
    change_config(tmp_path, use_xlora=True)
    with pytest.raises(HandoffError, match=r"use_xlora: True is not supported: the installed PEFT does not know"):
        merged(tmp_path, LLAMA)


def test_adapters_of_another_kind_are_refused(tmp_path: Path) -> None:
    config = AdaLoraConfig(target_modules=["q_proj"], total_step=10)
    get_peft_model(stock(LLAMA), config).save_pretrained(str(tmp_path))
    with pytest.raises(HandoffError, match="peft_type: ADALORA adapters are not supported"):
        merged(tmp_path, LLAMA)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layers_to_transform": [0]}, r"'model\.layers\.1\..*is nothing that adapter_config\.json adapts"),
        ({"target_modules": "all-linear"}, r"adapts 'model\.layers\.0\.mlp\..*A, B is missing"),
        ({"use_dora": True}, r"use_dora: true.*magnitude is missing"),
        ({"r": 8}, r"has rank 4, and adapter_config\.json says 8"),
        ({"target_modules": ["nowhere"]}, "PEFT does not accept it for this decoder"),
        ({"target_modules": ["embed_tokens"]}, "'model.embed_tokens', which is no linear map"),
    ],
)
def test_a_configuration_that_does_not_belong_to_the_tensors_is_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    save_adapter(tmp_path, LLAMA, {})
    change_config(tmp_path, **changes)
    with pytest.raises(HandoffError, match=told):
        merged(tmp_path, LLAMA)


def test_a_tensor_that_is_gone_is_missed(tmp_path: Path) -> None:
    save_adapter(tmp_path, LLAMA, {})
    tensors = load_file(tmp_path / ADAPTER)
    del tensors["base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"]
    save_file(tensors, tmp_path / ADAPTER)
    with pytest.raises(HandoffError, match=r"adapts 'model\.layers\.1\.self_attn\.o_proj'.*B is missing"):
        merged(tmp_path, LLAMA)


def test_weights_as_older_versions_of_peft_wrote_them_are_read(tmp_path: Path) -> None:
    expected = save_adapter(tmp_path, LLAMA, {"alpha_pattern": {"k_proj": 3}})
    torch.save(load_file(tmp_path / ADAPTER), tmp_path / "adapter_model.bin")
    (tmp_path / ADAPTER).unlink()
    assert_alike(merged(tmp_path, LLAMA), read_all(ours(expected, LLAMA)))


def test_what_is_no_number_is_named_with_its_file(tmp_path: Path) -> None:
    save_adapter(tmp_path, LLAMA, {})
    tensors = load_file(tmp_path / ADAPTER)
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"
    save_file(tensors | {name: tensors[name] / 0}, tmp_path / ADAPTER)
    with pytest.raises(HandoffError, match=rf"{ADAPTER}: '{name}' holds NaN or Inf"):
        merged(tmp_path, LLAMA)
