"""MiniGPT-4 (stages 1 and 2) and MiniGPT-v2 (stage 3) as recipes of ours, against the published implementation.

They differ from TinyGPT-V in the decoder, a Llama without added norms; in the connector, one projection behind a
Q-Former or, in MiniGPT-v2, behind neighbouring patches; and in what LoRA adapts.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tinygptv.definitions.recipe import Lora, Model
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import Handoff, empty_model, load_weights, parameters_by_name
from tinygptv.models.weights.files import open_weights
from tinygptv.models.weights.published import reference_file
from tinygptv.models.weights.stored import read_all
from tinygptv.sample import IGNORE_INDEX


def model_definition(folder: Path, case: dict[str, Any]) -> Model:
    sizes, llama = case["config"], case["llama_config"]
    blip2 = str(folder / "backbones/blip2_pretrained_flant5xxl.pth")
    qformer = {
        "part": "qformer",
        "queries": sizes["nq"],
        "width": sizes["qh"],
        "depth": sizes["qlayers"],
        "heads": sizes["qheads"],
        "mlp_width": 4 * sizes["qh"],
        "cross_attention_every": 2,
        "pretrained_with": "t5",
        "weights": blip2,
    }
    has_qformer = case["arch"] == "minigpt4"
    return Model.model_validate(
        {
            "vision_encoder": {
                "architecture": "eva_vit",
                "width": sizes["vd"],
                "depth": sizes["vdepth"],
                "heads": sizes["vheads"],
                "mlp_width": int(sizes["vd"] * 4.3637),
                "patch_size": 14,
                "image_size": sizes["img"],
                "weights": str(folder / "backbones/eva_vit_g.pth"),
                "output_norm": None if has_qformer else blip2,
            },
            "connector": [
                qformer if has_qformer else {"part": "neighbours", "count": 4},
                {"part": "linear", "width": llama["hidden_size"]},
            ],
            "language_model": {
                "architecture": "llama",
                "width": llama["hidden_size"],
                "depth": llama["num_hidden_layers"],
                "heads": llama["num_attention_heads"],
                "key_value_heads": llama["num_attention_heads"],
                "mlp_width": llama["intermediate_size"],
                "vocabulary": llama["vocab_size"],
                "max_positions": llama["max_position_embeddings"],
                "rope_theta": llama["rope_theta"],
                "rms_norm_eps": llama["rms_norm_eps"],
                "qk_norm": False,
                "attention_norm": False,
                "weights": str(folder / "backbones/llama"),
                "tokenizer": str(folder / "tokenizer"),
            },
        }
    )


def load(stage: Path) -> tuple[VisionLanguageModel, Model]:
    """The model of a recorded stage, from the weight files alone."""
    case = json.loads((stage / "case.json").read_text())
    adapters = case["lora"]
    lora = adapters and Lora(
        rank=adapters["r"], alpha=float(adapters["alpha"]), dropout=0.0, init="inherit", targets=adapters["targets"]
    )
    definition = model_definition(stage.parent, case)
    model = empty_model(definition, case["image_size"], lora)
    checkpoint = stage / "checkpoint_0.pth"
    trained = reference_file(open_weights(checkpoint), definition).tensors
    load_weights(model, definition, handoff=Handoff(checkpoint, trained.keys()))
    return model.eval(), definition


@pytest.mark.parametrize("case", ["stage1", "stage2", "stage3"])
def test_the_recorded_batch_gives_the_recorded_tensors_loss_and_gradients(shared: Path, case: str) -> None:
    stage = shared / "golden" / "minigpt" / case
    model, definition = load(stage)
    io = load_file(stage / "io.safetensors")
    features, images = model.vision_encoder(io["image"]), model.image_embeds(io["image"])
    assert images.shape[1] == model.num_image_tokens
    close(features, io["vision_embeds"])
    close(images, io["image_embeds"])
    states = model.language_model.hidden_states(with_images(io, images), io["attention_mask"])
    logits = model.language_model.lm_head(states)
    seen = io["attention_mask"].bool()
    close(logits[seen], io["logits"][seen])
    targets = io["labels"][:, 1:]
    labelled = targets != IGNORE_INDEX
    loss = torch.nn.functional.cross_entropy(logits[:, :-1][labelled], targets[labelled])
    assert loss.item() == pytest.approx(io["loss"].item(), abs=1e-5)
    loss.backward()
    parameters = parameters_by_name(model)
    expected = read_all(reference_file(open_weights(stage / "grads.safetensors"), definition).tensors)
    assert any(name.startswith("connector.1.") for name in expected)
    for name, gradient in expected.items():
        close(parameters[name].grad, gradient, scale=max(gradient.abs().max().item(), 1e-6))


def test_minigpt_v2_reads_a_conversation_as_recorded(shared: Path) -> None:
    stage = shared / "golden" / "minigpt" / "stage3"
    model, _ = load(stage)
    io = load_file(stage / "conversation_io.safetensors")
    with torch.no_grad():
        states = model.language_model.hidden_states(io["inputs_embeds"], io["attention_mask"])
        logits = model.language_model.lm_head(states)
    seen = io["attention_mask"].bool()
    close(logits[seen], io["logits"][seen])


def close(found: Tensor | None, expected: Tensor, scale: float = 1.0) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, atol=1e-4 * scale, rtol=0)


def with_images(io: dict[str, Tensor], images: Tensor) -> Tensor:
    """The recorded embeddings with ours where the image is: found by value, as the cases do not say. (B, T, D)."""
    distance = (io["inputs_embeds"][:, :, None] - io["image_embeds"][:, None]).abs().amax(dim=-1)
    return io["inputs_embeds"].masked_scatter((distance.amin(dim=2) < 1e-6)[..., None], images)
