"""Convert weights from any known layout to ours, the published code's, PEFT's or transformers'.

    tinygptv     a folder with `trained.safetensors`: the input under our names; a stage may start from it
    reference    one `.pth` file, `{"model": …}`, that the published code loads
    peft         an adapter folder for transformers' stock language model (see models/weights/adapter.py)
    merged       a release folder with merged adapters that loads by itself; its `language_model/` holds the decoder for
                 transformers' own class, with the attention norms, which that class lacks, in a separate file

Names, shapes and counts are checked against a recipe's stage. Values are never changed except by merging.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import assert_never

from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Parameter

from tinygptv.data.batches.batching import load_tokenizer
from tinygptv.definitions.parts import Decoder
from tinygptv.definitions.recipe import Recipe, Stage
from tinygptv.errors import HandoffError, StorageError
from tinygptv.models.kinds import decoder_kind
from tinygptv.models.lora import merge_lora
from tinygptv.models.stored import read_all
from tinygptv.models.translation import Translation
from tinygptv.models.weights import (
    LORA,
    Handoff,
    LoadReport,
    empty_model,
    load_weights,
    open_handoff,
    open_weights,
    parameters_by_name,
)
from tinygptv.models.weights.adapter import is_adapter, write_adapter
from tinygptv.models.weights.loading import check_places
from tinygptv.models.weights.published import pretrained_part
from tinygptv.models.weights.reference import save_reference
from tinygptv.models.weights.strength import metadata
from tinygptv.release import Layout
from tinygptv.release.folder import TOKENIZER, ReleaseConfig, save_config, save_weights
from tinygptv.store.artifacts import storage_errors
from tinygptv.store.locations import local_path
from tinygptv.train.freezing import trainable_names
from tinygptv.train.job import TRAINED
from tinygptv.train.lineage import adapters, inherited

LANGUAGE_MODEL, ATTENTION_NORMS = "language_model", "attention_norms.safetensors"


def convert(source: Path, target: Path, layout: Layout, recipe: Recipe, stage_name: str) -> LoadReport:
    """Convert `source`, a file or folder in any known layout. Afterwards `target` is either complete or absent.

    The report accounts for every tensor. Raises StorageError if `target` exists, HandoffError if `source` is neither
    the result of the stage nor a pretrained part of the recipe's model.
    """
    if target.exists():
        raise StorageError(f"{target}: already exists; choose another path, or remove it first")
    stage = recipe.stage(stage_name)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as draft:
            result = Path(draft) / target.name
            report = _write(source, result, layout, recipe, stage)
            result.rename(target)
    return report


def _write(source: Path, result: Path, layout: Layout, recipe: Recipe, stage: Stage) -> LoadReport:
    if layout == "merged":
        return _write_merged(source, result, recipe, stage)
    translation = _read(source, recipe, stage, layout)
    tensors, lora = read_all(translation.tensors), adapters(recipe, stage)
    match layout:
        case "tinygptv":
            result.mkdir()
            save_file(tensors, result / TRAINED, metadata(lora))
        case "reference":
            save_reference(tensors, result, recipe.model, lora)
        case "peft":
            if lora is None:
                raise HandoffError(
                    f"{source}: {stage.stage} has no adapters, so there is nothing for PEFT; use another layout"
                )
            result.mkdir()
            write_adapter(result, tensors, recipe.model.language_model, lora)
        case _:
            assert_never(layout)
    where = f"from {source.name} ({translation.layout})"
    left_out = {(source.name, name): reason for name, reason in translation.left_out.items()}
    return LoadReport(dict.fromkeys(tensors, where), {}, left_out)


def _read(source: Path, recipe: Recipe, stage: Stage, layout: Layout) -> Translation:
    """Read the stage's trained tensors, or a pretrained part, which can only be written in our layout."""
    definition, lora = recipe.model, adapters(recipe, stage)
    parameters = parameters_by_name(empty_model(definition, definition.vision_encoder.image_size, lora))
    part = None if is_adapter(source) else pretrained_part(open_weights(source), definition)
    if part is None:
        return open_handoff(_handoff(source, recipe, stage, parameters), definition, parameters)
    if layout != "tinygptv":
        raise HandoffError(
            f"{source}: {part.layout}, a pretrained part, which --to {layout} cannot hold; use --to tinygptv"
        )
    check_places(part.tensors, str(source), parameters)
    return part


def _handoff(source: Path, recipe: Recipe, stage: Stage, parameters: dict[str, Parameter]) -> Handoff:
    trained = trainable_names(recipe.model, parameters.keys(), [*inherited(recipe, stage), *stage.trains])
    return Handoff(source, trained, adapters(recipe, stage))


def _write_merged(source: Path, result: Path, recipe: Recipe, stage: Stage) -> LoadReport:
    model = empty_model(recipe.model, stage.inputs.image_size, adapters(recipe, stage))
    handoff = _handoff(source, recipe, stage, parameters_by_name(model))
    if is_adapter(source):
        # Merged into the linear layers as PEFT does, which allows more configurations than our own adapters.
        model = empty_model(recipe.model, stage.inputs.image_size)
        handoff = Handoff(source, {name for name in handoff.required if not LORA.search(name)}, merge=True)
    report = load_weights(model, recipe.model, handoff=handoff)
    merge_lora(model.language_model)
    result.mkdir()
    save_weights(result, _contiguous(model.state_dict()))
    save_config(result, ReleaseConfig(model=recipe.model, inputs=stage.inputs))
    load_tokenizer(local_path(recipe.model.language_model.tokenizer)).save_pretrained(result / TOKENIZER)
    _write_decoder(result / LANGUAGE_MODEL, model.language_model.state_dict(), recipe.model.language_model)
    return report


def _write_decoder(folder: Path, tensors: Mapping[str, Tensor], definition: Decoder) -> None:
    kind = decoder_kind(definition)
    stock, config = kind.to_stock(tensors), kind.stock_config()
    config.architectures = [kind.stock_class.__name__]
    folder.mkdir()
    save_weights(folder, _contiguous(stock.tensors))
    config.save_pretrained(folder)
    if stock.others:
        save_file(_contiguous(stock.others), folder / ATTENTION_NORMS)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
