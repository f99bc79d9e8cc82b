"""Published and own weight files → our parameter names, strictly.

A file is recognised by its tensors' names and translated, tensor by tensor, to the names of VisionLanguageModel.
Every tensor of a file ends up in the model or matches one of the patterns of what is left out on purpose; every
parameter of the model comes from a file or is one that begins anew. Anything else is a HandoffError that names it.
Only safetensors and `torch.load(weights_only=True)` are used, so no code from a file is ever run.
"""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tinygptv.definitions.recipe import Model, Phi, QFormer
from tinygptv.errors import HandoffError
from tinygptv.locations import local_path
from tinygptv.models.lora import plain_name
from tinygptv.models.vision import POSITIONS, resize_positions
from tinygptv.models.vlm import VisionLanguageModel

logger = getLogger(__name__)

Tensors = dict[str, Tensor]

ADDED_NORMS = re.compile(
    r"language_model\.model\.layers\.\d+\.(self_attn\.[qk]_layernorm|attention_norm)\.(weight|bias)"
)
"""TinyGPT-V's own norms: a stock decoder does not have them, they begin as the identity."""
LORA = re.compile(r"\.lora_[AB]\.")


@dataclass(frozen=True)
class LoadReport:
    """Which parameters came from files, which begin anew, and which tensors of the files were left out on purpose."""

    loaded: int
    fresh: list[str]
    left_out: list[str]


def parameters_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters under their plain names, which are the same with and without adapters."""
    return {plain_name(name): parameter for name, parameter in model.named_parameters()}


def load_backbones(model: VisionLanguageModel, definition: Model) -> LoadReport:
    """Fill vision encoder, connector and language model from the files their definitions name.

    Raises HandoffError, naming file and tensor, for anything missing, left over or of another shape.
    """
    found: Tensors = {}
    left_out: list[str] = []
    for location, translate in _backbone_files(definition):
        tensors, unused = translate(read_tensors(local_path(location)))
        found |= tensors
        left_out += unused
    table = f"vision_encoder.model.{POSITIONS}"
    if table in found:
        found[table] = resize_positions(found[table], model.image_size // definition.vision_encoder.patch_size)
    parameters = parameters_by_name(model)
    anew = _begins_anew(definition)
    fresh = [name for name in parameters if name not in found and any(pattern.search(name) for pattern in anew)]
    files = ", ".join(location for location, _ in _backbone_files(definition))
    _fill(parameters, found, parameters.keys() - fresh, files)
    logger.info("weights: %d tensors loaded, %d begin anew, %d left out", len(found), len(fresh), len(left_out))
    return LoadReport(len(found), fresh, left_out)


def load_trained(model: VisionLanguageModel, path: Path, expected: Collection[str]) -> None:
    """Fill exactly the parameters in `expected`, by plain name, from what a stage left behind.

    Raises HandoffError if one is missing, one is left over, or one has another shape.
    """
    found = read_tensors(path)
    if any("llama_" in name for name in found):
        found, _ = from_reference(found, _projection_names(model))
    missing = set(expected) - found.keys()
    if missing and not any(LORA.search(name) for name in found) and all(LORA.search(name) for name in missing):
        raise HandoffError(
            f"{path} holds no LoRA weights, but the stage continues to train language_model.lora; training would begin "
            "from random adapters. Train the stage before it with lora, or write `lora: {init: fresh}` to mean it"
        )
    _fill(parameters_by_name(model), found, expected, str(path))


def save_trained(tensors: Tensors, path: Path) -> None:
    """Write tensors under their plain names as safetensors, complete or not at all."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    partial.rename(path)


def read_tensors(path: Path) -> Tensors:
    """All tensors of a safetensors file, of a folder of them, or of a `.pth` checkpoint (its `model` entry).

    Raises HandoffError if the file is damaged, is not a checkpoint, or holds anything but plain data.
    """
    if path.is_dir():
        shards = sorted(path.glob("*.safetensors"))
        if not shards:
            raise HandoffError(f"{path}: no safetensors file in this folder; point the definition at the weights")
        return {name: tensor for shard in shards for name, tensor in read_tensors(shard).items()}
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise HandoffError(
            f"{path}: cannot be read as weights ({str(error).splitlines()[0]}); it is truncated, not a checkpoint, or "
            "holds code, which is never run. Download it again or convert it to safetensors"
        ) from error
    tensors = content.get("model", content) if isinstance(content, dict) else {}
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise HandoffError(f"{path}: holds no table of tensors, neither at its top nor under 'model'")
    return tensors


def from_vision_file(tensors: Tensors, depth: int) -> tuple[Tensors, list[str]]:
    """The vision encoder's own layout, or LAVIS's `eva_vit_g.pth`: blocks beyond `depth` and the heads are unused."""
    if "cls_token" not in tensors:
        return {f"vision_encoder.model.{name}": tensor for name, tensor in tensors.items()}, []
    extra = re.compile(r"(norm|fc_norm|head)\.")
    used = {n: t for n, t in tensors.items() if not extra.match(n) and _block_number(n) < depth}
    left_out = sorted(tensors.keys() - used)
    for block in range(depth):
        attention = f"blocks.{block}.attn"
        query_bias, value_bias = used.pop(f"{attention}.q_bias"), used.pop(f"{attention}.v_bias")
        used[f"{attention}.qkv.bias"] = torch.cat([query_bias, torch.zeros_like(query_bias), value_bias])
    renamed = _rename(used, LAVIS_VISION)
    return {f"vision_encoder.model.{name}": tensor for name, tensor in renamed.items()}, left_out


def from_qformer_file(tensors: Tensors, prefix: str) -> tuple[Tensors, list[str]]:
    """The Q-Former's own layout, or a BLIP-2 checkpoint of LAVIS, which also holds the vision encoder's last norm."""
    if not any(name.startswith("Qformer.") for name in tensors):
        return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}, []
    kept = {name: tensor for name, tensor in tensors.items() if not LAVIS_QFORMER_UNUSED.match(name)}
    renamed = _rename(kept, LAVIS_QFORMER)
    norms = {f"vision_encoder.model.{n}": t for n, t in renamed.items() if n.startswith("post_layernorm.")}
    qformer = {f"{prefix}.{n}": t for n, t in renamed.items() if not n.startswith("post_layernorm.")}
    return norms | qformer, sorted(tensors.keys() - kept)


def from_language_file(tensors: Tensors, definition: Phi) -> tuple[Tensors, list[str]]:
    """Phi in the stock layout (queries, keys and values apart) or the fused one."""
    fused: Tensors = {}
    for name, tensor in tensors.items():
        if ".q_proj." in name:
            query, key, value = (tensors[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv")
            fused[name.replace(".q_proj.", ".query_key_value.")] = fuse(query, key, value, definition.heads)
        elif ".k_proj." not in name and ".v_proj." not in name:
            fused[name] = tensor
    return {f"language_model.{name}": tensor for name, tensor in fused.items()}, []


def from_reference(tensors: Tensors, projections: list[str]) -> tuple[Tensors, list[str]]:
    """What the published implementation saves after a stage, with or without adapters, of either adapter library."""
    names = dict(zip(("llama_proj.", "llama_proj2."), (f"{name}." for name in projections), strict=False))
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(".position_ids")}
    rules = [(rf"^{re.escape(old)}", new) for old, new in names.items()]
    return _rename(kept, [*rules, *REFERENCE_LANGUAGE]), sorted(tensors.keys() - kept)


def fuse(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Three maps as one, ordered [heads, 3, head width]: three (D, ...) -> (3 D, ...). Exact."""
    rest = query.shape[1:]
    split = [part.view(heads, -1, *rest) for part in (query, key, value)]
    return torch.stack(split, dim=1).reshape(-1, *rest)


LAVIS_VISION = [
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
]
LAVIS_QFORMER = [
    (r"^ln_vision\.", "post_layernorm."),
    (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "model.layernorm."),
    (r"^Qformer\.bert\.encoder\.", "model.encoder."),
    (r"attention\.self\.", "attention.attention."),
]
LAVIS_QFORMER_UNUSED = re.compile(
    r"(t5|opt)_(proj|model)\."
    r"|Qformer\.cls\."
    r"|Qformer\.bert\.embeddings\.(position_ids|word_embeddings|position_embeddings)"
    r"|Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\."
)
"""The text side of BLIP-2 and the language models it was trained with."""
REFERENCE_LANGUAGE = [
    (r"^llama_model\.(base_model\.model\.)?", "language_model."),
    (r"\.post_layernorm\.", ".attention_norm."),
    (r"\.default\.", "."),
]

Translate = Callable[[Tensors], tuple[Tensors, list[str]]]


def _backbone_files(definition: Model) -> list[tuple[str, Translate]]:
    files: list[tuple[str, Translate]] = [
        (definition.vision_encoder.weights, partial(from_vision_file, depth=definition.vision_encoder.depth)),
        (definition.language_model.weights, partial(from_language_file, definition=definition.language_model)),
    ]
    for position, part in enumerate(definition.connector):
        prefix = f"connector.{position}"
        if isinstance(part, QFormer):
            files.append((part.weights, partial(from_qformer_file, prefix=prefix)))
        elif part.weights is not None:
            files.append((part.weights, partial(from_reference, projections=[prefix])))
    return files


def _begins_anew(definition: Model) -> list[re.Pattern[str]]:
    linears = [
        re.compile(rf"connector\.{position}\.")
        for position, part in enumerate(definition.connector)
        if not isinstance(part, QFormer) and part.weights is None
    ]
    return [ADDED_NORMS, LORA, *linears]


def _projection_names(model: VisionLanguageModel) -> list[str]:
    return [f"connector.{n}" for n, part in enumerate(model.connector) if isinstance(part, nn.Linear)]


def _block_number(name: str) -> int:
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else -1


def _rename(tensors: Tensors, rules: Iterable[tuple[str, str]]) -> Tensors:
    renamed = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = tensor
    return renamed


@torch.no_grad()
def _fill(parameters: dict[str, nn.Parameter], found: Tensors, expected: Collection[str], where: str) -> None:
    missing = sorted(set(expected) - found.keys())
    extra = sorted(found.keys() - set(expected))
    shapes = [
        f"{name} {tuple(found[name].shape)} for {tuple(parameters[name].shape)}"
        for name in sorted(found.keys() & parameters.keys())
        if found[name].shape != parameters[name].shape
    ]
    problems = {"missing": missing, "left over": extra, "of another shape": shapes}
    if told := [f"{len(names)} {problem} ({_some(names)})" for problem, names in problems.items() if names]:
        raise HandoffError(
            f"{where}: does not fit the model: {', '.join(told)}; these weights belong to another recipe"
        )
    for name in expected:
        parameters[name].copy_(found[name])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
