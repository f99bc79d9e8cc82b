"""Ours against the published implementation: same weight files, same image embeddings, logits, loss and gradients."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tinygptv.definitions.recipe import Lora, Model
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import Handoff, empty_model, load_weights, parameters_by_name
from tinygptv.models.weights.files import open_weights
from tinygptv.models.weights.published import reference_file
from tinygptv.models.weights.stored import read_all
from tinygptv.sample import IGNORE_INDEX

STAGES = ["stage1", "stage2", "stage3", "stage4"]


def model_definition(folder: Path, config: dict[str, Any], phi: dict[str, Any]) -> Model:
    vision_width, qformer_width = config["vd"], config["qh"]
    return Model.model_validate(
        {
            "vision_encoder": {
                "architecture": "eva_vit",
                "width": vision_width,
                "depth": config["vdepth"],
                "heads": config["vheads"],
                "mlp_width": int(vision_width * 4.3637),
                "patch_size": 14,
                "image_size": config["img"],
                "weights": str(folder / "backbones/eva_vit_g.pth"),
            },
            "connector": [
                {
                    "part": "qformer",
                    "queries": config["nq"],
                    "width": qformer_width,
                    "depth": config["qlayers"],
                    "heads": config["qheads"],
                    "mlp_width": 4 * qformer_width,
                    "cross_attention_every": 2,
                    "weights": str(folder / "backbones/blip2_pretrained_flant5xxl.pth"),
                },
                {"part": "linear", "width": 4096},
                {"part": "linear", "width": config["lh"]},
            ],
            "language_model": {
                "architecture": "phi",
                "width": phi["hidden_size"],
                "depth": phi["num_hidden_layers"],
                "heads": phi["num_attention_heads"],
                "mlp_width": phi["intermediate_size"],
                "vocabulary": phi["vocab_size"],
                "max_positions": phi["max_position_embeddings"],
                "rotary_fraction": phi["partial_rotary_factor"],
                "qk_norm": True,
                "attention_norm": True,
                "weights": str(folder / "backbones/phi-2"),
                "tokenizer": str(folder / "tokenizer"),
            },
        }
    )


@pytest.fixture(params=STAGES)
def golden(request: pytest.FixtureRequest, shared: Path) -> tuple[VisionLanguageModel, Path, dict[str, Any], Model]:
    folder = shared / "golden" / "tinygptv"
    stage = folder / request.param
    case = json.loads((stage / "case.json").read_text())
    lora = case["lora"] and Lora(
        rank=case["lora"]["r"], alpha=float(case["lora"]["alpha"]), dropout=0.0, init="inherit"
    )
    definition = model_definition(folder, case["config"], case["phi_config"])
    model = empty_model(definition, case["image_size"], lora)
    checkpoint = stage / "checkpoint_0.pth"
    trained = reference_file(open_weights(checkpoint), definition).tensors
    load_weights(model, definition, handoff=Handoff(checkpoint, trained.keys()))
    return model.eval(), stage, case, definition


def test_a_published_checkpoint_computes_what_it_did_where_it_was_trained(golden) -> None:
    model, stage, case, _ = golden
    io = load_file(stage / "io.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(model.vision_encoder(io["image"]), io["vision_embeds"], atol=1e-4, rtol=0)
        torch.testing.assert_close(model.image_embeds(io["image"]), io["image_embeds"], atol=1e-4, rtol=0)
        states = model.language_model.hidden_states(io["inputs_embeds"], io["attention_mask"])
        seen = io["attention_mask"].bool()
        logits = model.language_model.lm_head(states)
    torch.testing.assert_close(logits[seen], io["logits"][seen], atol=1e-4, rtol=0)
    targets = io["labels"][:, 1:]
    labelled = targets != IGNORE_INDEX
    loss = torch.nn.functional.cross_entropy(logits[:, :-1][labelled], targets[labelled])
    assert loss.item() == pytest.approx(case["loss"], abs=1e-5)


def test_the_gradient_of_every_trained_tensor_is_the_published_one(golden) -> None:
    model, stage, _, definition = golden
    model.requires_grad_(True)
    io = load_file(stage / "io.safetensors")
    expected = read_all(reference_file(open_weights(stage / "grads.safetensors"), definition).tensors)
    slots = _image_slots(io)
    embeds = io["inputs_embeds"].masked_scatter(slots[..., None], model.image_embeds(io["image"]))
    states = model.language_model.hidden_states(embeds, io["attention_mask"])
    targets = io["labels"][:, 1:]
    labelled = targets != IGNORE_INDEX
    logits = model.language_model.lm_head(states[:, :-1][labelled])
    torch.nn.functional.cross_entropy(logits, targets[labelled]).backward()
    parameters = parameters_by_name(model)
    for name, gradient in expected.items():
        scale = max(gradient.abs().max().item(), 1e-6)
        torch.testing.assert_close(parameters[name].grad, gradient, atol=1e-4 * scale, rtol=0)


def _image_slots(io: dict[str, torch.Tensor]) -> torch.Tensor:
    """Where the recorded embeddings hold the image: found by value, as the cases do not say. (B, T)."""
    distance = (io["inputs_embeds"][:, :, None] - io["image_embeds"][:, None]).abs().amax(dim=-1)
    return distance.amin(dim=2) < 1e-6
