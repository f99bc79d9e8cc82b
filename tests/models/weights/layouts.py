"""A model of ours as others would have published it: the inverse of what is to be read, written down independently."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tinygptv.definitions.decoders.phi import Phi
from tinygptv.definitions.model import Model
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import ADDED_NORMS, LORA, parameters_by_name

Tensors = dict[str, Tensor]


def eva(model: VisionLanguageModel, blocks_more: int = 1) -> Tensors:
    """LAVIS's `eva_vit_g.pth`: q and v biases apart, blocks and heads that nobody uses; without the output norm."""
    ours = model.vision_encoder.model.state_dict()
    theirs = {
        "cls_token": ours["embeddings.class_embedding"],
        "pos_embed": ours["embeddings.position_embedding"],
        "patch_embed.proj.weight": ours["embeddings.patch_embedding.weight"],
        "patch_embed.proj.bias": ours["embeddings.patch_embedding.bias"],
        "norm.weight": torch.ones(3),
        "fc_norm.weight": torch.ones(3),
        "head.weight": torch.ones(3, 3),
        "mask_token": torch.zeros(1, 1, 3),
    }
    depth = len(model.vision_encoder.model.encoder.layers)
    for number in range(depth + blocks_more):
        layer = f"encoder.layers.{min(number, depth - 1)}"
        bias = ours[f"{layer}.self_attn.qkv.bias"]
        width = len(bias) // 3
        theirs |= {
            f"blocks.{number}.attn.q_bias": bias[:width],
            f"blocks.{number}.attn.v_bias": bias[2 * width :],
            f"blocks.{number}.attn.qkv.weight": ours[f"{layer}.self_attn.qkv.weight"],
        }
        renamed = {"attn.proj": "self_attn.projection", "norm1": "layer_norm1", "norm2": "layer_norm2"}
        for old, new in (renamed | {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}).items():
            theirs |= {f"blocks.{number}.{old}.{kind}": ours[f"{layer}.{new}.{kind}"] for kind in ("weight", "bias")}
    return copied(theirs)


def qformer(model: VisionLanguageModel) -> Tensors:
    """The Q-Former under LAVIS's names."""
    theirs = {}
    for name, tensor in model.connector[0].state_dict().items():
        new = name.replace("attention.attention.", "attention.self.").replace("model.layernorm", "embeddings.LayerNorm")
        theirs[new if name == "query_tokens" else f"Qformer.bert.{new.removeprefix('model.')}"] = tensor
    return copied(theirs)


def blip2(model: VisionLanguageModel, trained_with: str = "t5", whole: bool = False) -> Tensors:
    """LAVIS's BLIP-2: Q-Former, vision output norm and a projection; `whole` adds a language model and a text side."""
    norm = model.vision_encoder.model.post_layernorm
    theirs = qformer(model) | {
        "ln_vision.weight": norm.weight.detach(),
        "ln_vision.bias": norm.bias.detach(),
        "Qformer.bert.embeddings.position_ids": torch.arange(512)[None],
        f"{trained_with}_proj.weight": torch.ones(4, 4),
        f"{trained_with}_proj.bias": torch.ones(4),
    }
    if whole:
        theirs |= {
            f"{trained_with}_model.encoder.block.0.layer.0.weight": torch.ones(4),
            "Qformer.cls.predictions.bias": torch.ones(4),
            "Qformer.bert.embeddings.word_embeddings.weight": torch.ones(4, 4),
            "Qformer.bert.encoder.layer.0.intermediate.dense.weight": torch.ones(4, 4),
            "Qformer.bert.encoder.layer.0.output.dense.weight": torch.ones(4, 4),
            "visual_encoder.cls_token": torch.ones(1, 1, 4),
            "itm_head.weight": torch.ones(2, 4),
            "temp": torch.ones(()),
        }
    return copied(theirs)


def hugging_face_blip2(model: VisionLanguageModel) -> Tensors:
    """`Blip2ForConditionalGeneration`: all parts in one folder."""
    theirs = {f"vision_model.{name}": tensor for name, tensor in model.vision_encoder.model.state_dict().items()}
    for name, tensor in model.connector[0].state_dict().items():
        theirs[name if name == "query_tokens" else f"qformer.{name.removeprefix('model.')}"] = tensor
    others = {"language_projection.weight": torch.ones(4, 4), "language_model.shared.weight": torch.ones(4, 4)}
    return copied(theirs | others)


def phi(model: VisionLanguageModel, layout: str, definition: Phi) -> Tensors:
    """The decoder without added norms: `stock`, `fused` as in transformers 4.36, or `msft` as first published."""
    theirs: Tensors = {}
    for ours, tensor in parameters_by_name(model).items():
        name = ours.removeprefix("language_model.")
        if name == ours or ADDED_NORMS.search(ours) or LORA.search(ours):
            continue
        if ".query_key_value." not in name:
            theirs[name] = tensor
            continue
        rest = tensor.shape[1:]
        heads = tensor.view(definition.heads, 3, definition.width // definition.heads, *rest)
        if layout == "stock":
            for number, part in enumerate("qkv"):
                theirs[name.replace("query_key_value", f"{part}_proj")] = heads[:, number].reshape(-1, *rest)
        elif layout == "msft":
            theirs[name] = heads.transpose(0, 1).reshape(-1, *rest)
        else:
            theirs[name] = tensor
    return copied({_msft_name(name): tensor for name, tensor in theirs.items()} if layout == "msft" else theirs)


def _msft_name(name: str) -> str:
    names = {
        "model.embed_tokens.": "transformer.embd.wte.",
        "model.layers.": "transformer.h.",
        "self_attn.query_key_value.": "mixer.Wqkv.",
        "self_attn.dense.": "mixer.out_proj.",
        "input_layernorm.": "ln.",
        "model.final_layernorm.": "lm_head.ln.",
    }
    if name.startswith("lm_head."):
        return name.replace("lm_head.", "lm_head.linear.")
    for old, new in names.items():
        name = name.replace(old, new)
    return name


def copied(tensors: Tensors) -> Tensors:
    """Tensors that share no memory, as safetensors wants them."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def write_published(folder: Path, model: VisionLanguageModel, definition: Model, layout: str = "stock") -> Model:
    """Write all parts as published and return the definition that names them."""
    folder.mkdir(exist_ok=True)
    torch.save(eva(model), folder / "eva_vit_g.pth")
    torch.save({"model": blip2(model)}, folder / "blip2_pretrained_flant5xxl.pth")
    decoder = folder / "phi-2"
    decoder.mkdir()
    assert isinstance(definition.language_model, Phi)
    save_file(phi(model, layout, definition.language_model), decoder / "model.safetensors")
    content = definition.model_dump()
    content["vision_encoder"]["weights"] = str(folder / "eva_vit_g.pth")
    content["connector"][0] |= {"weights": str(folder / "blip2_pretrained_flant5xxl.pth"), "pretrained_with": "t5"}
    content["language_model"]["weights"] = str(decoder)
    return Model.model_validate(content)


def write_config(folder: Path, definition: Phi, **changes: object) -> None:
    """The `config.json` of a stock Phi."""
    config = {
        "model_type": "phi",
        "hidden_size": definition.width,
        "num_hidden_layers": definition.depth,
        "num_attention_heads": definition.heads,
        "intermediate_size": definition.mlp_width,
        "vocab_size": definition.vocabulary,
        "max_position_embeddings": definition.max_positions,
        "partial_rotary_factor": definition.rotary_fraction,
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
