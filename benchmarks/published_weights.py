"""Random weights of any size, in the file layouts and names in which TinyGPT-V's parts were published."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tinygptv.definitions.connector_parts.linear import Linear
from tinygptv.definitions.connector_parts.qformer import QFormer
from tinygptv.definitions.decoders.phi import Phi
from tinygptv.definitions.model import Model
from tinygptv.models.decoders.phi import phi_config
from tinygptv.models.weights import ADDED_NORMS, empty_model

SHARD_BYTES = 2_500_000_000
SPREAD = 0.02

Shapes = dict[str, torch.Size]

VISION = [
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^encoder\.layers\.(\d+)\.layer_norm", r"blocks.\1.norm"),
    (r"^encoder\.layers\.(\d+)\.self_attn\.projection\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.", r"blocks.\1.attn."),
    (r"^encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
]
QFORMER = [
    (r"^model\.layernorm\.", "Qformer.bert.embeddings.LayerNorm."),
    (r"^model\.", "Qformer.bert."),
    (r"attention\.attention\.", "attention.self."),
]


def write_published(folder: Path, model: Model) -> Model:
    """Write `eva_vit_g.pth`, BLIP-2's and MiniGPT-4's files and a folder `phi-2`; returns the model that reads them.

    As in the published files, weights are 16-bit except BLIP-2's and MiniGPT-4's, and EVA has one unused block.
    """
    torch.manual_seed(0)
    empty = empty_model(model, model.vision_encoder.image_size)
    shapes = {name: parameter.shape for name, parameter in empty.named_parameters()}
    paths = {name: folder / name for name in ("eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth", "phi-2")}
    torch.save(_random(_vision(_below("vision_encoder.model.", shapes), model), torch.float16), paths["eva_vit_g.pth"])
    content = model.model_dump()
    content["vision_encoder"]["weights"] = str(paths["eva_vit_g.pth"])
    for position, part in enumerate(model.connector):
        below = _below(f"connector.{position}.", shapes)
        if isinstance(part, QFormer):
            path = paths["blip2_pretrained_flant5xxl.pth"]
            torch.save({"model": _random(_qformer(below, model), torch.float32)}, path)
            content["connector"][position]["weights"] = str(path)
        elif isinstance(part, Linear) and part.weights is not None:
            path = folder / "pretrained_minigpt4_7b.pth"
            projection = {f"llama_proj.{name}": shape for name, shape in below.items()}
            torch.save({"model": _random(projection, torch.float32)}, path)
            content["connector"][position]["weights"] = str(path)
    assert isinstance(model.language_model, Phi)
    _write_phi(paths["phi-2"], _below("language_model.", shapes), model.language_model)
    content["language_model"]["weights"] = str(paths["phi-2"])
    return Model.model_validate(content)


def _vision(shapes: Shapes, model: Model) -> Shapes:
    """EVA-CLIP with the names of LAVIS; keys have no bias."""
    width, depth = model.vision_encoder.width, model.vision_encoder.depth
    names = _renamed({name: shape for name, shape in shapes.items() if not name.startswith("post_layernorm.")}, VISION)
    for name in [name for name in names if name.endswith(".qkv.bias")]:
        del names[name]
        names |= {name.replace("qkv.bias", bias): torch.Size([width]) for bias in ("q_bias", "v_bias")}
    last = f"blocks.{depth - 1}."
    extra = {name.replace(last, f"blocks.{depth}."): shape for name, shape in names.items() if name.startswith(last)}
    return names | extra | {f"norm.{kind}": torch.Size([width]) for kind in ("weight", "bias")}


def _qformer(shapes: Shapes, model: Model) -> Shapes:
    """BLIP-2 with FLAN-T5 as saved by LAVIS, including the vision encoder's output norm."""
    width = {f"ln_vision.{kind}": torch.Size([model.vision_encoder.width]) for kind in ("weight", "bias")}
    unused = {"t5_proj.weight": torch.Size([4096, shapes["query_tokens"][-1]]), "t5_proj.bias": torch.Size([4096])}
    return _renamed(shapes, QFORMER) | width | unused


def _write_phi(folder: Path, shapes: Shapes, definition: Phi) -> None:
    """Write transformers' own layout: shards with an index, and config.json."""
    stock: Shapes = {}
    for name, shape in shapes.items():
        if ".query_key_value." in name:
            third = torch.Size([shape[0] // 3, *shape[1:]])
            stock |= {name.replace("query_key_value", f"{part}_proj"): third for part in "qkv"}
        elif not ADDED_NORMS.search(f"language_model.{name}"):
            stock[name] = shape
    folder.mkdir()
    phi_config(definition).save_pretrained(folder)
    shards: list[Shapes] = [{}]
    for name, shape in stock.items():
        if sum(other.numel() for other in shards[-1].values()) * 2 > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = shape
    files = {f"model-{n:05d}-of-{len(shards):05d}.safetensors": shard for n, shard in enumerate(shards, start=1)}
    for file, shard in files.items():
        save_file(_random(shard, torch.float16), folder / file)
    places = {name: file for file, shard in files.items() for name in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _random(shapes: Shapes, dtype: torch.dtype) -> dict[str, Tensor]:
    """Small random values, and ones for norm weights, so that activations of a deep model fit into 16 bits."""
    is_norm = re.compile(r"(norm\d?|LayerNorm|layernorm|ln_vision)\.weight$")
    return {
        name: torch.ones(shape, dtype=dtype)
        if is_norm.search(name)
        else torch.empty(shape, dtype=dtype).normal_(std=SPREAD)
        for name, shape in shapes.items()
    }


def _below(prefix: str, shapes: Shapes) -> Shapes:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _renamed(shapes: Shapes, rules: list[tuple[str, str]]) -> Shapes:
    renamed = {}
    for name, shape in shapes.items():
        published = name
        for pattern, replacement in rules:
            published = re.sub(pattern, replacement, published)
        renamed[published] = shape
    return renamed
