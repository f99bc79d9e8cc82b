"""The journey's inputs in miniature: two dozen pictures, a table of their addresses, and a recipe of few steps."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from tests.own_definitions import write_definitions
from tests.release.tiny import MODEL, tokenizer
from tinygptv.catalog import FOLDERS
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import ADDED_NORMS
from tinygptv.shapes.scenes import draw, scene

PICTURES = 24
DEAD_LINKS = 2
RECIPE, SOURCE, HARDWARE = "mini", "mini_pairs", "one_rank"


def write_miniature(folder: Path, steps: dict[str, int]) -> dict[str, str]:
    """Write everything below `folder`; returns the environment that recipe `mini` and source `mini_pairs` need.

    `steps`: stage → its number of steps. The caller serves `folder` and sets $TINYGPTV_BASE_URL to its address.
    """
    _write_pictures(folder)
    _write_backbones(folder / "backbones")
    definitions = write_definitions(folder / "definitions", _definitions(folder, steps))
    return {"TINYGPTV_DEFINITIONS": str(definitions), "OMP_NUM_THREADS": "1"}


def _write_pictures(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    pairs, statements = [], []
    for number in range(PICTURES):
        shown = scene("train", number)
        draw(shown, 32).save(folder / "images" / f"{number:02d}.png")
        first = shown.objects[0]
        pairs.append(
            {"url": f"__BASE_URL__/images/{number:02d}.png", "caption": f"a picture of a {first.colour} {first.kind}"}
        )
        label = number % 2
        said = f"there is a {first.colour if label else 'striped'} {first.kind}"
        statements.append({"image": f"{number:02d}.png", "caption": said, "label": label, "relation": "is"})
    pairs += [
        {"url": f"__BASE_URL__/images/gone{n}.png", "caption": "a picture that is gone"} for n in range(DEAD_LINKS)
    ]
    for name, rows in (("pairs", pairs), ("statements", statements)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_backbones(folder: Path) -> None:
    """Random weights of the frozen parts, named as in a published checkpoint."""
    torch.manual_seed(0)
    model = VisionLanguageModel(MODEL, MODEL.vision_encoder.image_size, None)
    stock = {
        name: tensor
        for name, tensor in model.language_model.state_dict().items()
        if not ADDED_NORMS.search(f"language_model.{name}")
    }
    folder.mkdir()
    save_file(model.vision_encoder.model.state_dict(), folder / "vision_encoder.safetensors")
    save_file(model.connector[0].state_dict(), folder / "qformer.safetensors")
    save_file(stock, folder / "language_model.safetensors")
    tokenizer().save_pretrained(folder / "tokenizer")


def _definitions(folder: Path, steps: dict[str, int]) -> dict[str, dict[str, dict[str, Any]]]:
    pairs = {
        "kind": "pairs",
        "about": "drawn pictures and two dead links",
        "licence": "CC0-1.0",
        "tables": [{"location": str(folder / "pairs.jsonl")}],
        "filter": "mini_pairs",
        "allow_private": True,
    }
    # With so few pictures the benchmark has to ask about those that were trained on, so nothing is decontaminated.
    keep = {"name": "caption_words", "keep": "contains(caption, ' ')", "why": "one word says too little"}
    chain = {"about": "everything that is a pair", "rules": [keep], "decontaminate": None}
    statements = {
        "kind": "annotations",
        "about": "true and false statements",
        "licence": "CC0-1.0",
        "format": "vsr",
        "files": {"annotations": str(folder / "statements.jsonl")},
        "images": str(folder / "images"),
    }
    components = [
        {"source": "$source", "task": "caption", "weight": 1.0},
        {"source": "mini_statements", "task": "statement", "weight": 1.0},
    ]
    benchmark = {
        "about": "the same statements",
        "source": "mini_statements",
        "task": "statement",
        "metric": "true_false_accuracy",
        "max_new_tokens": 2,
        "max_items": 8,
        "chance": 0.5,
    }
    return {
        "sources": {SOURCE: pairs, "mini_statements": statements},
        "filters": {"mini_pairs": chain},
        "mixtures": {"mini_mixture": {"about": "both", "draw": "per_sample", "components": components}},
        "benchmarks": {"mini_benchmark": benchmark},
        "recipes": {RECIPE: _recipe(folder / "backbones", steps)},
        "hardware": {HARDWARE: yaml.safe_load((FOLDERS["hardware"] / "cpu.yaml").read_text()) | {"ranks": 1}},
    }


def _recipe(backbones: Path, steps: dict[str, int]) -> dict[str, Any]:
    model = MODEL.model_dump()
    model["vision_encoder"]["weights"] = str(backbones / "vision_encoder.safetensors")
    model["connector"][0]["weights"] = str(backbones / "qformer.safetensors")
    model["language_model"] |= {
        "weights": str(backbones / "language_model.safetensors"),
        "tokenizer": str(backbones / "tokenizer"),
    }
    befores = ["backbones", *steps][: len(steps)]
    stages = [_stage(name, before, steps[name]) for name, before in zip(steps, befores, strict=True)]
    return {
        "about": "the shape of a recipe, too small to learn anything",
        "model": model,
        "stages": stages,
        "quantize": {"bits": 8, "skip": ["head"]},
        "benchmarks": ["mini_benchmark"],
    }


def _stage(name: str, before: str, steps: int) -> dict[str, Any]:
    return {
        "stage": name,
        "about": "a few steps",
        "starts_from": before,
        "mixture": "mini_mixture",
        "trains": ["connector.projections", "language_model.lora"],
        "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.0, "init": "fresh" if before == "backbones" else "inherit"},
        "inputs": {"image_size": 16, "max_text_tokens": 64, "template": "###H: {} ###A: ", "end_symbol": "###"},
        "global_batch_size": 4,
        "schedule": {"warmup_lr": 1e-6, "peak_lr": 1e-3, "final_lr": 1e-4, "warmup_steps": 1, "steps": steps},
        "optimizer": {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "clip_norm": 1.0},
        "checkpoint_every": 10,
    }
