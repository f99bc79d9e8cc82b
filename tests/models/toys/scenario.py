"""One toy kind, put beside the shipped ones as files and nothing else, goes all the way: from a recipe to an answer.

`python -m tests.models.toys.scenario PACKAGE FOLDER`, in a process of its own, because kinds are found at import.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

TOYS = Path(__file__).parent
TOY_PARTS: dict[str, dict[str, Any]] = {
    "decoders": {
        "language_model": {
            "architecture": "toy",
            "width": 32,
            "depth": 2,
            "heads": 2,
            "mlp_width": 64,
            "max_positions": 256,
            "qk_norm": False,
            "attention_norm": True,
        }
    },
    "connector_parts": {"connector": [{"part": "toy", "width": 24}, {"part": "linear", "width": 32}]},
    "vision_encoders": {
        "vision_encoder": {
            "architecture": "toy",
            "width": 16,
            "depth": 1,
            "heads": 2,
            "mlp_width": 32,
            "patch_size": 8,
            "image_size": 16,
        }
    },
}


def add(package: str) -> None:
    """Put the toy's two files where a developer would: into the packages of its kind."""
    for half in ("definitions", "models"):
        import_module(f"tinygptv.{half}.{package}").__path__.append(str(TOYS / half / package))


def recipe_with(package: str, folder: Path) -> Any:
    """A recipe of one stage around the toy, whose weights lie in `folder`."""
    from tests.release.tiny import INPUTS, LETTERS, MODEL
    from tinygptv.definitions.recipe import Recipe

    content = MODEL.model_dump()
    if package == "connector_parts":
        content["connector"][1:] = TOY_PARTS[package]["connector"]
    else:
        content |= TOY_PARTS[package]
    content["vision_encoder"]["weights"] = str(folder / "vision.safetensors")
    content["connector"][0]["weights"] = str(folder / "qformer.safetensors")
    content["language_model"] |= {
        "vocabulary": len(LETTERS),
        "weights": str(folder / "decoder"),
        "tokenizer": str(folder / "tokenizer"),
    }
    targets = ["q_proj", "o_proj"] if package == "decoders" else ["query_key_value", "dense"]
    stage = {
        "stage": "stage1",
        "about": "a toy",
        "starts_from": "backbones",
        "mixture": "none",
        "trains": ["connector.projections", "language_model.input_norms", "language_model.lora"],
        "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0, "init": "fresh", "targets": targets},
        "inputs": INPUTS.model_dump(),
        "global_batch_size": 2,
        "schedule": {"warmup_lr": 1e-6, "peak_lr": 1e-3, "final_lr": 1e-4, "warmup_steps": 1, "steps": 4},
        "optimizer": {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "clip_norm": 1.0},
        "checkpoint_every": 4,
    }
    return Recipe.model_validate(
        {
            "about": "a toy",
            "model": content,
            "stages": [stage],
            "quantize": {"bits": 8, "skip": ["head"]},
            "benchmarks": [],
        }
    )


def write_backbones(recipe: Any, folder: Path) -> None:
    """Random pretrained parts, as our own layout and the stock decoder have them."""
    import torch
    from safetensors.torch import save_file

    from tests.release.tiny import tokenizer
    from tinygptv.models.kinds import decoder_kind
    from tinygptv.models.vlm import VisionLanguageModel

    torch.manual_seed(0)
    model = VisionLanguageModel(recipe.model, 16)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    encoder = getattr(model.vision_encoder, "model", model.vision_encoder)
    save_file(encoder.state_dict(), folder / "vision.safetensors")
    save_file(model.connector[0].state_dict(), folder / "qformer.safetensors")
    (folder / "decoder").mkdir()
    stock = decoder_kind(recipe.model.language_model).to_stock(model.language_model.state_dict()).tensors
    save_file({name: tensor.contiguous() for name, tensor in stock.items()}, folder / "decoder" / "model.safetensors")
    tokenizer().save_pretrained(folder / "tokenizer")


def train_a_step(recipe: Any, folder: Path) -> None:
    """Load, freeze by name, learn once; leaves `trained.safetensors` in `folder`."""
    import torch

    from tinygptv.models.weights import empty_model, load_weights, parameters_by_name, save_trained
    from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT
    from tinygptv.train.assemble import set_up

    stage = recipe.stages[0]
    model = empty_model(recipe.model, 16, stage.lora)
    load_weights(model, recipe.model)
    set_up(model, recipe.model, stage, gradient_checkpointing=True)
    trained = {name: p for name, p in parameters_by_name(model).items() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"connector", "language_model"}
    assert not any(name.startswith("connector.0.") for name in trained)
    assert any("lora_A" in name for name in trained) and any("input_layernorm" in name for name in trained)
    input_ids = torch.randint(3, 20, (2, 12))
    input_ids[:, 1 : 1 + model.num_image_tokens] = IMAGE_SLOT
    labels = input_ids.clone()
    labels[:, :8] = IGNORE_INDEX
    optimizer = torch.optim.AdamW(trained.values(), lr=0.01)
    pixel_values = torch.randn(2, 3, 16, 16)
    losses = []
    for _ in range(3):
        loss, _ = model(pixel_values, input_ids, torch.ones_like(input_ids), labels)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[0]
    save_trained(trained, folder / "trained.safetensors")


def release_and_ask(recipe: Any, folder: Path) -> None:
    """Release what was trained, in the two layouts that a decoder takes part in; load it; ask it about a picture."""
    from PIL import Image

    from tinygptv.release.answering import answer_all
    from tinygptv.release.convert import convert
    from tinygptv.release.folder import load_release
    from tinygptv.sample import ImageReference, Sample, Turn

    convert(folder / "trained.safetensors", folder / "adapter", "peft", recipe, "stage1")
    convert(folder / "trained.safetensors", folder / "release", "merged", recipe, "stage1")
    release = load_release(folder / "release")
    assert release.model.preprocessing == recipe.model.vision_encoder.preprocessing
    compare_with_no_cache(recipe, release.model)
    Image.new("RGB", (24, 16), (200, 90, 40)).save(folder / "picture.png")
    sample = Sample("key", (ImageReference(str(folder / "picture.png")),), (Turn("what?", ""),))
    (answer,) = answer_all(release, [sample], "vqa", 6)
    assert isinstance(answer, str), answer


def compare_with_no_cache(recipe: Any, model: Any) -> None:
    """A greedy answer is that of the whole text at once, in the decoder's kind of attention."""
    import torch

    from tinygptv.models.masks import attention_mask
    from tinygptv.sample import IMAGE_SLOT

    input_ids, visible = torch.randint(3, 20, (2, 10)), torch.ones(2, 10, dtype=torch.long)
    input_ids[:, 3 : 3 + model.num_image_tokens] = IMAGE_SLOT
    visible[1, :2] = 0
    pixel_values = torch.randn(2, 3, 16, 16)
    answer = model.generate(pixel_values, input_ids, visible, 5, [])
    text, seen = torch.cat([input_ids, answer[:, :-1]], dim=1), torch.nn.functional.pad(visible, (0, 4), value=1)
    prompt = torch.nn.functional.pad(visible, (0, 4)).bool()
    mask = attention_mask(recipe.model.language_model.attention, seen, 14, prompt)
    positions = (seen.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        embeds = model.inputs_embeds(pixel_values, text)
        states = model.language_model.hidden_states(embeds, mask, text == IMAGE_SLOT, position_ids=positions)
        assert torch.equal(model.language_model.lm_head(states[:, 9:]).argmax(dim=-1), answer)


def plan(recipe: Any) -> None:
    """Estimate what the stage needs."""
    from tinygptv import catalog
    from tinygptv.train.planning.estimate import StageEstimator

    estimator = StageEstimator(recipe, "stage1")
    assert estimator.parameters["language_model"] and estimator.parameters["projections"]
    memory = estimator.memory(catalog.hardware("cpu"))
    assert memory.activations > 0 and memory.total > memory.weights


def main(package: str, folder: Path) -> None:
    """Everything, in order."""
    add(package)
    recipe = recipe_with(package, folder)
    assert "'toy'" in repr(recipe.model)
    assert type(recipe)(**recipe.model_dump()) == recipe
    write_backbones(recipe, folder)
    train_a_step(recipe, folder)
    plan(recipe)
    release_and_ask(recipe, folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
