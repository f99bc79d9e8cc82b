"""A recipe of two small stages with random frozen parts, and drawn pictures to train it on."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from tinygptv import catalog
from tinygptv.catalog import ResolvedRun
from tinygptv.data.mixtures.mixing import mix
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.recipe import Recipe
from tinygptv.definitions.source import PairsSource
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import ADDED_NORMS
from tinygptv.store.artifacts import Manifest, Outcome, Store

COLOURS = ("red", "green", "blue", "white")


def write_tokenizer(folder: Path) -> int:
    """A byte tokenizer whose id 0 is <|endoftext|>; returns its number of tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({"<|endoftext|>": 0} | {symbol: i + 1 for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(alphabet) + 1


def small_recipe(folder: Path, width: int = 32, depth: int = 2) -> Recipe:
    """`tinygptv_tiny` at a smaller size, its frozen parts below `folder`, its first two stages, eight steps each, both
    on pairs alone."""
    content = catalog.recipe("tinygptv_tiny").model_dump()
    sizes = {"width": width, "depth": depth, "heads": 4, "mlp_width": 4 * width}
    model = content["model"]
    model["vision_encoder"] |= sizes | {"weights": str(folder / "vision_encoder.safetensors")}
    model["connector"][0] |= sizes | {"queries": 4, "weights": str(folder / "qformer.safetensors")}
    model["connector"][2]["width"] = width
    model["language_model"] |= sizes | {
        "vocabulary": 320,
        "weights": str(folder / "language_model.safetensors"),
        "tokenizer": str(folder / "tokenizer"),
    }
    content["stages"] = content["stages"][:2]
    for stage in content["stages"]:
        stage |= {field: content["stages"][0][field] for field in ("mixture", "inputs")}
        stage["global_batch_size"], stage["checkpoint_every"] = 8, 3
        stage["schedule"] |= {"warmup_steps": 2, "steps": 8}
    content["benchmarks"] = []
    return Recipe.model_validate(content)


def write_backbones(folder: Path, recipe: Recipe) -> None:
    """Random frozen parts in the files that `recipe` names, in the stock layout."""
    torch.manual_seed(0)
    write_tokenizer(folder / "tokenizer")
    model = VisionLanguageModel(recipe.model, recipe.model.vision_encoder.image_size)
    language = {f"language_model.{name}": tensor for name, tensor in model.language_model.state_dict().items()}
    stock = {n.removeprefix("language_model."): t for n, t in language.items() if not ADDED_NORMS.search(n)}
    save_file(model.vision_encoder.model.state_dict(), folder / "vision_encoder.safetensors")
    save_file(model.connector[0].state_dict(), folder / "qformer.safetensors")
    save_file(stock, folder / "language_model.safetensors")


def write_pairs(store: Store, count: int = 24) -> Manifest:
    """Plain pictures of one colour with its name as the caption, laid out as the filter leaves them."""

    def build(folder: Path) -> Outcome:
        rows, content = [], b""
        for number in range(count):
            stream = io.BytesIO()
            shade = np.zeros((48, 48, 3), np.uint8) + np.array([number % 3 == c for c in range(3)], np.uint8) * 200
            Image.fromarray(shade).save(stream, "PNG")
            data = stream.getvalue()
            caption = f"a {COLOURS[number % 3]} picture number {number}"
            row = {"key": f"{number:05d}", "caption": caption, "shard": "00000.tar"}
            rows.append(row | {"offset": len(content), "length": len(data)})
            content += data
        (folder / "00000.tar").write_bytes(content)
        pq.write_table(pa.Table.from_pylist(rows), folder / "sidecar.parquet")
        return Outcome(rows_in=count, rows_out=count)

    return store.make("filtered/colours@0", "test", {}, [], build)


def small_run(recipe: Recipe, hardware: Hardware) -> ResolvedRun:
    """What `catalog.resolve_run` would give, for a recipe that is in no file."""
    source = PairsSource.model_construct()
    mixtures = {stage.mixture: catalog.mixture(stage.mixture) for stage in recipe.stages}
    return ResolvedRun(
        "small", recipe, "test", hardware, "colours", source, FilterChain.model_construct(), mixtures, {}, {}
    )


def mix_with_words(store: Store, folder: Path) -> Manifest:
    """Steps of eight pictures, and as many of four instructions in words alone; definitions below `folder`."""
    records = [
        {
            "instruction": "x",
            "instances": [{"instruction_with_input": f"say {word}", "constraints": "", "output": word}],
        }
        for word in COLOURS
    ]
    (folder / "words.json").write_text(json.dumps(records))
    words = {
        "kind": "annotations",
        "about": "made up",
        "licence": "none",
        "format": "unnatural_instruction",
        "files": {"annotations": str(folder / "words.json")},
        "images": str(folder),
    }
    components = [
        {"source": "$source", "task": "caption_only", "weight": 1.0, "batch_size": 8},
        {"source": "words", "task": "conversation", "weight": 1.0, "batch_size": 4},
    ]
    blend = {"about": "made up", "draw": "per_step", "components": components}
    for name, definition in {"sources/words": words, "mixtures/with_words": blend}.items():
        path = folder / "definitions" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(definition))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(catalog.OWN_DEFINITIONS, str(folder / "definitions"))
        return mix(store, "with_words", write_pairs(store))


def mix_pairs(store: Store) -> Manifest:
    """The pictures above as the mixture of the first two stages."""
    return mix(store, "tiny_pairs", write_pairs(store))
