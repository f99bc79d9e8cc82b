"""The doctor's golden checks find what is wrong, say where, and exit accordingly."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tinygptv.cli.main import main

Damage = Callable[[Path], object]
CHECKS = ("stage", "conversation", "generation")


@pytest.fixture
def family(shared: Path, tmp_path: Path) -> Path:
    """A copy of a family with its first and last stage, to be damaged."""
    copy = tmp_path / "family"
    shutil.copytree(shared / "golden" / "tinygptv", copy, ignore=shutil.ignore_patterns("stage2", "stage3"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


def report(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code and lines by case and check."""
    code = main(["doctor", "--golden", str(folder)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, {f"{line['case']} {line['check']}": line for line in lines}


def in_tensors(name: str, tensor: str, change: float = 0.01) -> Damage:
    """One number of one recorded tensor becomes another."""

    def damage(family: Path) -> None:
        tensors = load_file(family / name)
        tensors[tensor].flatten()[0] += change
        save_file(tensors, family / name)

    return damage


def without(name: str, tensor: str) -> Damage:
    """One recorded tensor is gone."""

    def damage(family: Path) -> None:
        tensors = load_file(family / name)
        del tensors[tensor]
        save_file(tensors, family / name)

    return damage


def in_checkpoint(tensor: str) -> Damage:
    """One tensor of stage 4's checkpoint is scaled."""

    def damage(family: Path) -> None:
        path = family / "stage4" / "checkpoint_0.pth"
        content = torch.load(path, weights_only=True)
        content["model"][tensor] *= 1.1
        torch.save(content, path)

    return damage


def in_case(**change: object) -> Damage:
    """Fields of stage 4's case.json are replaced, or taken out if None."""

    def damage(family: Path) -> None:
        path = family / "stage4" / "case.json"
        content = json.loads(path.read_text()) | change
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return damage


def in_config(**change: object) -> Damage:
    """Fields of the decoder's config.json are replaced."""

    def damage(family: Path) -> None:
        path = family / "backbones" / "phi-2" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return damage


def truncated(name: str) -> Damage:
    """The second half of a file is gone."""

    def damage(family: Path) -> None:
        path = family / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def removed(name: str) -> Damage:
    """A file is gone."""
    return lambda family: (family / name).unlink()


def test_an_undamaged_family_or_a_folder_of_families_passes(family: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = report(family.parent, capsys)
    assert code == 0
    assert list(told) == [
        "family/stage1 stage",
        "family/stage1 generation",
        "family/stage4 stage",
        "family/stage4 conversation",
        "family/stage4 generation",
    ]
    stage = told["family/stage4 stage"]
    assert stage["ok"] and stage["logits"] < 1e-4 and stage["loss"] < 1e-5 and stage["gradients"] < 1e-4
    assert stage["worst_gradient"].startswith(("language_model.", "connector."))


@pytest.mark.parametrize(
    ("damage", "check", "what"),
    [
        (in_checkpoint("llama_model.base_model.model.model.layers.1.post_layernorm.weight"), "stage", "logits"),
        (in_checkpoint("llama_proj2.bias"), "stage", "image_embeds"),
        (in_tensors("stage4/io.safetensors", "vision_embeds"), "stage", "vision_embeds"),
        (in_tensors("stage4/io.safetensors", "inputs_embeds"), "stage", "inputs_embeds"),
        (in_tensors("stage4/io.safetensors", "logits", float("nan")), "stage", "logits"),
        (in_tensors("stage4/io.safetensors", "loss", 1e-4), "stage", "loss"),
        (in_tensors("stage4/io.safetensors", "attention_mask", -1), "stage", "attention_mask"),
        (in_tensors("stage4/grads.safetensors", "llama_proj.bias"), "stage", "gradients"),
        (in_tensors("stage4/grads.safetensors", "llama_proj.weight", float("nan")), "stage", "gradients"),
        (in_tensors("stage4/conversation_io.safetensors", "logits"), "conversation", "logits"),
        (in_case(loss=6.5), "stage", "loss"),
        (in_case(lora={"r": 4, "alpha": 8, "targets": ["query_key_value", "dense"]}), "stage", "logits"),
        (in_case(answers=["three", "{<12><30><58><98>}"]), "stage", "labels"),
        (in_config(partial_rotary_factor=0.25), "stage", "logits"),
    ],
)
def test_a_difference_is_reported_where_it_is_and_exits_with_1(
    family: Path, damage: Damage, check: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(family)
    code, told = report(family / "stage4", capsys)
    line = told[f"family/stage4 {check}"]
    assert code == 1
    assert not line["ok"]
    assert line[what] is None or line[what] > 1e-5


def test_another_generation_exits_with_1_and_its_first_id_does_not_matter(
    family: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = family / "stage4" / "case.json"
    content = json.loads(path.read_text())
    ids = content["generate"]["token_ids"]
    ids[0][0] += 1
    path.write_text(json.dumps(content))
    assert report(family / "stage4", capsys)[1]["family/stage4 generation"]["ok"]
    ids[1][7] += 1
    path.write_text(json.dumps(content))
    code, told = report(family / "stage4", capsys)
    assert code == 1
    assert told["family/stage4 generation"]["token_ids"] == 1


def test_a_generation_is_compared_up_to_its_end(family: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = family / "stage1" / "case.json"
    content = json.loads(path.read_text())
    generate = content["generate"]
    generate["eos_token_id"] = generate["token_ids"][0][2]
    path.write_text(json.dumps(content))
    code, told = report(family / "stage1", capsys)
    assert (code, told["family/stage1 generation"]["token_ids"]) == (0, 0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (removed("stage4/checkpoint_0.pth"), "checkpoint_0.pth: there is no such file"),
        (removed("stage4/grads.safetensors"), "grads.safetensors: there is no such file"),
        (removed("stage4/conversation_io.safetensors"), "conversation_io.safetensors: there is no such file"),
        (removed("backbones/phi-2/config.json"), "backbones: 0 of"),
        (removed("tokenizer/tokenizer.json"), "tokenizer: no tokenizer.json"),
        (truncated("stage4/case.json"), "case.json: not the description of a case"),
        (truncated("stage4/io.safetensors"), "io.safetensors: truncated"),
        (truncated("stage4/checkpoint_0.pth"), "checkpoint_0.pth: truncated"),
        (truncated("backbones/eva_vit_g.pth"), "eva_vit_g.pth: truncated"),
        (truncated("backbones/phi-2/config.json"), "config.json: not JSON"),
        (truncated("tokenizer/tokenizer.json"), "tokenizer.json: not a tokenizer"),
        (in_tensors("stage4/io.safetensors", "labels", -7), "labels that are no token ids"),
        (in_config(model_type="opt"), "architecture 'opt', for which there is no recipe part"),
        (in_case(dtype="bfloat16"), "dtype: Input should be 'float32'"),
        (in_case(answers=["three"]), "2 instructions and 1 answers"),
        (in_case(answers=["four", "five"]), "the labels read 'three###'"),
        (in_case(generate=None), "follow none of the published templates"),
        (in_case(trainable=["llama_proj3.weight"]), "holds no 'llama_proj3.weight'"),
        (without("stage4/grads.safetensors", "llama_proj.bias"), "without a match: connector.1.bias"),
        (in_case(config={"vdepth": 3, "vheads": 4}), "config.qheads: Field required"),
    ],
)
def test_what_cannot_be_compared_is_named_and_exits_with_2(
    family: Path, damage: Damage, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(family)
    code, told = report(family / "stage4", capsys)
    errors = [line["error"] for line in told.values() if "error" in line]
    assert code == 2
    assert any(message in error for error in errors), errors


def test_one_damaged_case_does_not_hide_the_others(family: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (family / "stage1" / "case.json").unlink()
    code, told = report(family, capsys)
    assert code == 2
    assert [name for name, line in told.items() if line["ok"]] == [f"family/stage4 {check}" for check in CHECKS]
    assert "case.json: not there" in told["family/stage1 stage"]["error"]


def test_a_folder_without_cases_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--golden", str(tmp_path)]) == 2
    assert "no stage1, stage2" in capsys.readouterr().err
