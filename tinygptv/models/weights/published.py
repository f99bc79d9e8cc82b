"""Layouts in which weights were published → the names of VisionLanguageModel.

A file is recognised by its tensors' names. Every tensor of it is either translated or left out for a reason said here;
a name that no rule knows is passed on as it is, and the loader refuses it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tinygptv.definitions.model import LanguageModel, Linear, Model, Phi, QFormer
from tinygptv.errors import HandoffError
from tinygptv.models.weights.fusing import fuse_heads, interleave_heads, split_heads
from tinygptv.models.weights.stored import Table, derived

Rules = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Translation:
    """A file's tensors under our names; `left_out` says why the others of the file are not among them."""

    layout: str
    tensors: Table
    left_out: dict[str, str]


LAVIS_VISION = [
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
]
LAVIS_TEXT = [
    (r"^Qformer\.bert\.embeddings\.(word|position)_", r"embeddings.\1_"),
    (r"^Qformer\.cls\.predictions\.transform\.dense\.", "itg_head.dense."),
    (r"^Qformer\.cls\.predictions\.transform\.LayerNorm\.", "itg_head.norm."),
    (r"^Qformer\.cls\.predictions\.(decoder\.)?", "itg_head.words."),
    (r"^(vision|text)_proj\.", r"\1_projection."),
    (r"^temp$", "temperature"),
]
LAVIS_QFORMER = [
    (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "model.layernorm."),
    (r"^Qformer\.bert\.encoder\.", "model.encoder."),
    (r"attention\.self\.", "attention.attention."),
]
MSFT_PHI = [
    (r"^transformer\.embd\.wte\.", "model.embed_tokens."),
    (r"^transformer\.h\.", "model.layers."),
    (r"\.mixer\.Wqkv\.", ".self_attn.query_key_value."),
    (r"\.mixer\.out_proj\.", ".self_attn.dense."),
    (r"\.ln\.", ".input_layernorm."),
    (r"^lm_head\.input_layernorm\.", "model.final_layernorm."),
    (r"^lm_head\.linear\.", "lm_head."),
]
REFERENCE_LANGUAGE = [
    (r"^llama_model\.(base_model\.model\.)?", "language_model."),
    (r"\.post_layernorm\.", ".attention_norm."),
    (r"\.base_layer\.", "."),
    (r"\.default\.", "."),
]
REFERENCE_PROJECTIONS = ("llama_proj", "llama_proj2")
"""The published code's names for the linear parts of the connector, in order."""

_OUTPUT_NORM = "vision_encoder.model.post_layernorm."
_COMPUTED = (r"(.*\.)?(position_ids|inv_freq)$|.*\.mixer\.rotary_emb\.", "a buffer, computed anew")
_UNUSED_VISION = (r"(norm|fc_norm|head)\.|mask_token$", "a head that BLIP-2 does not use")
_UNUSED_BESIDE_TEXT = [
    (r"(t5|opt)_(proj|model)\.|language_(projection|model)\.", "the language model BLIP-2 was trained with"),
    (r"Qformer\.cls\.predictions\.decoder\.bias$", "another name of a tensor that is read"),
    (r"visual_encoder\.", "the vision encoder, which is read from its own file"),
    (r"vision_model\.(?!post_layernorm\.)", "the vision encoder, which is read from its own file"),
]
_UNUSED_QFORMER = [
    (r"(t5|opt)_(proj|model)\.|language_(projection|model)\.", "the language model BLIP-2 was trained with"),
    (r"Qformer\.cls\.|(vision_proj|text_proj|itm_head)\.|temp$", "a head of BLIP-2's first stage"),
    (r"Qformer\.bert\.embeddings\.(word|position)_embeddings", "the Q-Former's text side"),
    (r"Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\.", "the Q-Former's text side"),
    (r"visual_encoder\.", "the vision encoder, which is read from its own file"),
    (r"vision_model\.(?!post_layernorm\.)", "the vision encoder, which is read from its own file"),
]


def vision_file(table: Table, depth: int) -> Translation:
    """LAVIS's `eva_vit_g.pth`, a whole model that holds one, Hugging Face's BLIP-2, or the encoder's own layout."""
    ours = "vision_encoder.model."
    for prefix, layout in (("vision_model.", "BLIP-2 of Hugging Face"), ("visual_encoder.", "a model of LAVIS")):
        if any(name.startswith(prefix) for name in table):
            kept = {n.removeprefix(prefix): s for n, s in table.items() if n.startswith(prefix)}
            others = {name: "no part of the vision encoder" for name in table if not name.startswith(prefix)}
            inner = _lavis_vision(kept, depth)
            left_out = others | {f"{prefix}{name}": reason for name, reason in inner.left_out.items()}
            return Translation(layout, _prefixed(ours, inner.tensors), left_out)
    if "cls_token" not in table:
        return Translation("our own layout", _prefixed(ours, table), {})
    inner = _lavis_vision(table, depth)
    return Translation(inner.layout, _prefixed(ours, inner.tensors), inner.left_out)


def _lavis_vision(table: Table, depth: int) -> Translation:
    kept, left_out = _sort_out(table, [_UNUSED_VISION])
    for name in [name for name in kept if _block_number(name) >= depth]:
        del kept[name]
        left_out[name] = f"a block beyond the {depth} in use"
    for name in [name for name in kept if name.endswith(".attn.q_bias")]:
        # Keys have no bias in EVA; the library's layout has a place for one.
        parts = [kept.pop(name), kept.pop(name.replace(".q_bias", ".v_bias"))]
        kept[name.replace(".q_bias", ".qkv.bias")] = derived(_with_key_bias, parts)
    return Translation("EVA-CLIP as LAVIS names it", _rename(kept, LAVIS_VISION), left_out)


def _with_key_bias(query_bias: Tensor, value_bias: Tensor) -> Tensor:
    return torch.cat([query_bias, torch.zeros_like(query_bias), value_bias])


def output_norm_file(table: Table) -> Translation:
    """A BLIP-2 of LAVIS, of which the vision encoder's output norm alone is taken."""
    kept, left_out = _sort_out(table, [(r"(?!ln_vision\.)", "no part of the vision encoder")])
    return Translation("the output norm of a BLIP-2", _rename(kept, [(r"^ln_vision\.", _OUTPUT_NORM)]), left_out)


def qformer_file(table: Table, prefix: str, definition: QFormer, where: str) -> Translation:
    """A BLIP-2 of LAVIS or of Hugging Face, which also hold the vision encoder's output norm, or our own layout.

    Raises HandoffError if BLIP-2 was trained with another language model than the definition says.
    """
    ours = f"{prefix}."
    if any(name.startswith("Qformer.") for name in table):
        _refuse_other_blip2(table, definition, where)
        kept, left_out = _sort_out(table, [_COMPUTED, *_UNUSED_QFORMER])
        rules = [(r"^ln_vision\.", _OUTPUT_NORM), *LAVIS_QFORMER, (r"^(?=query_tokens$|model\.)", ours)]
        return Translation("BLIP-2 as LAVIS names it", _rename(kept, rules), left_out)
    if any(name.startswith("qformer.") for name in table):
        kept, left_out = _sort_out(table, _UNUSED_QFORMER)
        rules = [
            (r"^vision_model\.", "vision_encoder.model."),
            (r"^qformer\.", f"{ours}model."),
            (r"^query_tokens$", f"{ours}query_tokens"),
        ]
        return Translation("BLIP-2 of Hugging Face", _rename(kept, rules), left_out)
    return Translation("our own layout", _prefixed(ours, table), {})


def _refuse_other_blip2(table: Table, definition: QFormer, where: str) -> None:
    kinds = {
        "t5": (("t5_proj.", "t5_model."), "trained with FLAN-T5", "blip2_pretrained_flant5xxl.pth"),
        "opt": (("opt_proj.", "opt_model."), "trained with OPT", "blip2_pretrained_opt2.7b.pth"),
        "none": (("itm_head.", "Qformer.cls."), "of the first stage, before any language model", ""),
    }
    wanted = definition.pretrained_with
    if wanted is None or any(name.startswith(kinds[wanted][0]) for name in table):
        return
    for prefixes, told, _ in kinds.values():
        if found := next((name for name in table if name.startswith(prefixes)), None):
            raise HandoffError(
                f"{where}: a BLIP-2 {told} (it holds '{found}'), but the recipe says pretrained_with: {wanted}; its "
                f"queries speak to another decoder. Use {kinds[wanted][2]}"
            )


def image_text_file(table: Table, where: str) -> Translation:
    """A Q-Former with its text side and heads, as `qformer.…`, and the vision encoder's output norm if it is there.

    Of LAVIS's first stage, of Hugging Face's retrieval model, or in our own layout. Raises HandoffError for a BLIP-2
    without the heads, as those of the second stage are.
    """
    is_lavis = any(name.startswith("Qformer.") for name in table)
    if (is_lavis or any(name.startswith("qformer.") for name in table)) and "itm_head.weight" not in table:
        raise HandoffError(
            f"{where}: a BLIP-2 without the heads that match pictures and texts; use LAVIS's blip2_pretrained.pth, or "
            "the Blip2ForImageTextRetrieval of Hugging Face"
        )
    kept, left_out = _sort_out(table, [_COMPUTED, *_UNUSED_BESIDE_TEXT])
    if is_lavis:
        rules = [(r"^ln_vision\.", _OUTPUT_NORM), *LAVIS_TEXT, *LAVIS_QFORMER, (r"^(?!vision_encoder\.)", "qformer.")]
        return Translation("BLIP-2's first stage as LAVIS names it", _rename(kept, rules), left_out)
    if any(name.startswith("qformer.") for name in table):
        rules = [
            (r"^qformer\.", "model."),
            (r"^vision_model\.", "vision_encoder.model."),
            (r"^(?!vision_encoder\.)", "qformer."),
        ]
        return Translation("BLIP-2's first stage as Hugging Face names it", _rename(kept, rules), left_out)
    return Translation("our own layout", _prefixed("qformer.", table), {})


def projection_file(table: Table, prefix: str, definition: Linear, where: str) -> Translation:
    """A projection of MiniGPT-4's. Raises HandoffError if it was made for another decoder's width."""
    kept, left_out = _sort_out(table, [_COMPUTED])
    weight = kept.get("llama_proj.weight")
    if weight is not None and weight.shape[0] != definition.width:
        known = {4096: " (MiniGPT-4 for the 7B decoder)", 5120: " (MiniGPT-4 for the 13B decoder)"}
        raise HandoffError(
            f"{where}: a projection to width {weight.shape[0]}{known.get(weight.shape[0], '')}, but the recipe's "
            f"{prefix} is {definition.width} wide{known.get(definition.width, '')}; "
            "use the file made for that width, pretrained_minigpt4_7b.pth for 4096, or change `width`"
        )
    return Translation("a projection of MiniGPT-4", _rename(kept, [(r"^llama_proj\.", f"{prefix}.")]), left_out)


def language_file(table: Table, definition: LanguageModel) -> Translation:
    """Phi in the stock layout (queries, keys and values apart), fused, or as Microsoft first published it; Llama."""
    kept, left_out = _sort_out(table, [_COMPUTED])
    layout = "the stock layout"
    if isinstance(definition, Phi):
        if any(".mixer." in name for name in kept):
            layout, kept = "Microsoft's first layout", _from_msft(kept, definition.heads)
        elif any(".query_key_value." in name for name in kept):
            layout = "the fused layout"
        else:
            kept = fuse_stock(kept, definition.heads)
    return Translation(layout, _prefixed("language_model.", kept), left_out)


def fuse_stock(table: Table, heads: int) -> Table:
    """Queries, keys and values of every layer as one map; exact. What has not all three is passed on as it is."""
    fused: Table = {}
    for name, stored in table.items():
        parts = trio(name)
        if not parts or any(part not in table for part in parts):
            fused[name] = stored
        elif name == parts[0]:
            fused[name.replace(".q_proj.", ".query_key_value.")] = derived(
                lambda query, key, value: fuse_heads(query, key, value, heads), [table[part] for part in parts]
            )
    return fused


def split_stock(table: Table, heads: int) -> Table:
    """The inverse of `fuse_stock`."""
    split: Table = {}
    for name, stored in table.items():
        if ".query_key_value." not in name:
            split[name] = stored
            continue
        for number, part in enumerate("qkv"):
            take = partial(_part, number, heads)
            split[name.replace(".query_key_value.", f".{part}_proj.")] = derived(take, [stored])
    return split


def trio(name: str) -> list[str]:
    """The names of the same tensor of queries, keys and values, if `name` is one of them; else nothing."""
    parts = [re.sub(r"\.[qkv]_proj\.", f".{part}_proj.", name) for part in "qkv"]
    return parts if parts[0] != parts[1] else []


def _part(number: int, heads: int, fused: Tensor) -> Tensor:
    return split_heads(fused, heads)[number]


def _from_msft(table: Table, heads: int) -> Table:
    renamed = _rename(table, MSFT_PHI)
    for name in [name for name in renamed if ".query_key_value." in name]:
        renamed[name] = derived(lambda fused: interleave_heads(fused, heads), [renamed[name]])
    return renamed


def reference_file(table: Table, definition: Model) -> Translation:
    """What the published code saves after a stage: with or without adapters, of either adapter library; of TinyGPT-V,
    MiniGPT-4 and MiniGPT-v2; with a Q-Former if it was trained."""
    kept, left_out = _sort_out(table, [_COMPUTED])
    visual = {name: kept.pop(name) for name in list(kept) if name.startswith("visual_encoder.")}
    encoder = vision_file(visual, definition.vision_encoder.depth) if visual else Translation("", {}, {})
    rules = [(r"^ln_vision\.", _OUTPUT_NORM)]
    places = {f"connector.{position}.": part for position, part in enumerate(definition.connector)}
    linears = [place for place, part in places.items() if isinstance(part, Linear)]
    rules += [(rf"^{old}\.", new) for old, new in zip(REFERENCE_PROJECTIONS, linears, strict=False)]
    for qformer in (place for place, part in places.items() if isinstance(part, QFormer)):
        # What begins with `model.` by now came from the Q-Former: the language model still has its prefix.
        rules += [*LAVIS_QFORMER, (r"^(?=query_tokens$|model\.)", qformer)]
    tensors = _rename(kept, [*rules, *REFERENCE_LANGUAGE])
    return Translation("a checkpoint of the published code", encoder.tensors | tensors, encoder.left_out | left_out)


def pretrained_part(table: Table, definition: Model, where: str) -> Translation | None:
    """Whichever pretrained part the tensors are, as somebody published it; None if they are something else."""
    if is_reference(table):
        return None
    if any(name.startswith(("cls_token", "visual_encoder.")) for name in table):
        return vision_file(table, definition.vision_encoder.depth)
    if any(name.startswith(("Qformer.", "qformer.")) for name in table):
        for position, part in enumerate(definition.connector):
            if isinstance(part, QFormer):
                return qformer_file(table, f"connector.{position}", part, where)
    if any(name.startswith(("model.layers.", "transformer.h.")) for name in table):
        return language_file(table, definition.language_model)
    return None


def is_reference(table: Table) -> bool:
    """Whether the names are those of the published code's checkpoints."""
    return any(name.startswith(("llama_model.", "llama_proj")) for name in table)


def _sort_out(table: Table, unused: Rules) -> tuple[Table, dict[str, str]]:
    """The tensors in use, and the names of the others with the reason that `unused` gives: (pattern, reason)."""
    left_out = {name: reason for pattern, reason in unused for name in table if re.match(pattern, name)}
    return {name: stored for name, stored in table.items() if name not in left_out}, left_out


def _rename(table: Table, rules: Rules) -> Table:
    renamed = {}
    for name, stored in table.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = stored
    return renamed


def _prefixed(prefix: str, table: Table) -> Table:
    return {f"{prefix}{name}": stored for name, stored in table.items()}


def _block_number(name: str) -> int:
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else -1
