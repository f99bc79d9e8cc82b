"""Weight files → a model, parameter by parameter, strictly.

The model is built without memory (`empty_model`); `load_weights` then reads each tensor, casts it and makes it the
model's own, so that the peak in memory is the model and about one tensor. Every tensor of every file and every
parameter of the model is accounted for in a LoadReport; anything unexpected is a HandoffError that names it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Lora
from tinygptv.errors import HandoffError
from tinygptv.models.kinds import connector_part_kind, decoder_kind, vision_encoder_kind
from tinygptv.models.lora import plain_name
from tinygptv.models.nf4 import use_nf4
from tinygptv.models.stored import Table
from tinygptv.models.translation import OWN_LAYOUT, Translation
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights.adapter import is_adapter, merge_adapter, read_adapter
from tinygptv.models.weights.anew import LORA, initial, rules
from tinygptv.models.weights.configs import check_config
from tinygptv.models.weights.files import open_weights
from tinygptv.models.weights.reference import is_reference, reference_file
from tinygptv.models.weights.strength import refuse_other_strength
from tinygptv.store.locations import local_path

logger = getLogger(__name__)


@dataclass(frozen=True)
class Handoff:
    """What earlier stages trained: a file or folder, the parameters that must be in it, and their adapters.

    It may hold more, as long as the model has a place for it, such as a trained Q-Former. With `merge`, adapters of
    PEFT are added to the maps of a model that has none of its own.
    """

    path: Path
    required: Collection[str] = ()
    lora: Lora | None = None
    merge: bool = False


@dataclass(frozen=True)
class LoadReport:
    """Every parameter is in `loaded` (→ where from) or in `begins_anew` (→ how); every tensor of a file was used or is
    in `left_out` ((file, its name) → why)."""

    loaded: dict[str, str]
    begins_anew: dict[str, str]
    left_out: dict[tuple[str, str], str]

    def lines(self) -> list[str]:
        """One line each for what was loaded, what begins anew and what was left out."""
        lines = [f"{len(self.loaded)} parameters loaded: {_counted(self.loaded.values())}"]
        if self.begins_anew:
            lines.append(f"{len(self.begins_anew)} begin anew: {_counted(self.begins_anew.values())}")
        if self.left_out:
            reasons = (f"{reason} ({file})" for (file, _), reason in self.left_out.items())
            lines.append(f"{len(self.left_out)} tensors left out: {_counted(reasons)}")
        return lines


def empty_model(definition: Model, image_size: int, lora: Lora | None = None) -> VisionLanguageModel:
    """The model without memory for its parameters: they are on torch's `meta` device, buffers are real."""
    with init_empty_weights(include_buffers=False):
        return VisionLanguageModel(definition, image_size, lora)


def parameters_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters under their plain names, which are the same with and without adapters."""
    return {plain_name(name): parameter for name, parameter in model.named_parameters()}


def load_weights(
    model: VisionLanguageModel,
    definition: Model,
    *,
    handoff: Handoff | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    unread: tuple[str, ...] = (),
    in_nf4: Collection[str] = (),
) -> LoadReport:
    """Fill `model` from the files its definition names, then from what earlier stages trained; the rest begins anew.

    Parameters whose names begin with one of `unread` must be in the files like the others, but stay without memory.
    Those named by `in_nf4`, the weights of linear maps, are rounded to 4 bits, each as soon as it is read.
    Raises HandoffError, naming file and tensor, for anything missing, left over or of another shape.
    """
    parameters = parameters_by_name(model)
    sources = _backbones(definition)
    if handoff is not None:
        decoder = sources[-1][1].tensors
        sources.append((str(handoff.path), open_handoff(handoff, definition, parameters, decoder)))
    vision = vision_encoder_kind(definition.vision_encoder)
    for place, translation in sources:
        vision.fit(translation.tensors, model.image_size)
        check_places(translation.tensors, place, parameters)
    table, origin, left_out = _merged(sources)
    begins_anew = {
        name: how
        for name in parameters
        if name not in table
        for pattern, how in rules(definition).items()
        if pattern.search(name)
    }
    refuse_missing(parameters.keys() - begins_anew.keys(), table, dict(sources))
    read = {name: stored for name, stored in table.items() if not name.startswith(unread)}
    fill(model, read, dtype, in_nf4)
    names = {plain_name(name): name for name, _ in model.named_parameters()}
    for name in begins_anew:
        if not name.startswith(unread):
            _assign(model, names[name], initial(name, parameters, seed), dtype)
    layouts = {place: f"from {Path(place).name} ({translation.layout})" for place, translation in sources}
    loaded = {name: layouts[origin[name]] if name in read else "found, not needed and not read" for name in table}
    report = LoadReport(loaded, begins_anew, left_out)
    for line in report.lines():
        logger.info("weights: %s", line)
    return report


def load_state(model: nn.Module, path: Path) -> None:
    """Fill a whole model from its own files, parameters and buffers, in the types in which they are stored.

    Raises HandoffError if a tensor is missing, left over or of another shape.
    """
    table, wanted = open_weights(path), model.state_dict()
    check_places(table, str(path), wanted)
    refuse_missing(wanted, table, [str(path)])
    fill(model, table)


def open_handoff(
    handoff: Handoff, definition: Model, parameters: Mapping[str, Tensor], decoder: Table | None = None
) -> Translation:
    """What a stage left behind, in any known layout, under our names, not read yet.

    `decoder` holds the pretrained weights that adapters are merged into, where the handoff says so.
    Raises HandoffError if something required is missing, something does not fit the model's `parameters`, or there
    are adapters where the stage has none, or the reverse.
    """
    if handoff.merge and decoder is not None:
        translation = merge_adapter(handoff.path, definition.language_model, decoder)
    else:
        translation = trained_file(handoff.path, definition, handoff.lora)
    found = translation.tensors
    _check_adapters(handoff, found, parameters.keys())
    check_places(found, str(handoff.path), parameters)
    if missing := sorted(set(handoff.required) - found.keys()):
        raise HandoffError(
            f"{handoff.path}: {len(missing)} missing ({_some(missing)}), which the stage carries on; "
            "it was left by a stage that trained something else"
        )
    return translation


def trained_file(path: Path, definition: Model, lora: Lora | None = None) -> Translation:
    """Trained tensors: a file or folder of ours, a checkpoint of the published code, or an adapter folder of PEFT.

    Raises HandoffError if their adapters are known to have another rank or alpha than `lora`.
    """
    if is_adapter(path):
        return read_adapter(path, definition.language_model, lora)
    table = open_weights(path)
    if lora is not None and any(LORA.search(name) for name in table):
        refuse_other_strength(path, lora)
    if is_reference(table):
        return reference_file(table, definition)
    return Translation(OWN_LAYOUT, table, {})


def fill(model: nn.Module, table: Table, dtype: torch.dtype | None = None, in_nf4: Collection[str] = ()) -> None:
    """Give `model` the tensors of `table`, one after the other, as `dtype` or (None) as they are stored; those that
    `in_nf4` names in 4 bits."""
    names = {plain_name(name): name for name, _ in model.named_parameters()}
    for name, stored in table.items():
        if name in in_nf4:
            assert dtype is not None
            use_nf4(model, names[name].removesuffix(".weight"), stored.read().to(dtype))
        else:
            _assign(model, names.get(name, name), stored.read(), dtype)


def _assign(model: nn.Module, name: str, tensor: Tensor, dtype: torch.dtype | None) -> None:
    owner, _, leaf = name.rpartition(".")
    kept = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    # Always a copy: what was read may be a view of its file.
    own = torch.empty(tensor.shape, dtype=kept).copy_(tensor)
    if kept == torch.float16 and not bool(own.isfinite().all()):
        raise HandoffError(
            f"{plain_name(name)}: holds numbers up to {tensor.abs().max():.3g}, and fp16 ends at 65504; choose a "
            "hardware profile with precision: bf16 or fp32"
        )
    model.get_submodule(owner).load_state_dict({leaf: own}, strict=False, assign=True)


def _backbones(definition: Model) -> list[tuple[str, Translation]]:
    language = definition.language_model
    files = vision_encoder_kind(definition.vision_encoder).files()
    for position, part in enumerate(definition.connector):
        files += connector_part_kind(part, position).files()
    files += decoder_kind(language).files()
    check_config(local_path(language.weights), language)
    return [(location, read(open_weights(local_path(location)))) for location, read in files]


def _merged(sources: list[tuple[str, Translation]]) -> tuple[Table, dict[str, str], dict[tuple[str, str], str]]:
    """One table in which a later source replaces an earlier one, where each tensor comes from, and what is left out.

    Two parts may lie in one file; what one of them leaves out and the other uses counts as used.
    """
    table: Table = {}
    origin: dict[str, str] = {}
    left_out: dict[tuple[str, str], str] = {}
    used = {(place, name) for place, part in sources for stored in part.tensors.values() for name in stored.names}
    for place, translation in sources:
        file = Path(place).name
        reasons = translation.left_out.items()
        left_out |= {(file, name): reason for name, reason in reasons if (place, name) not in used}
        for name, stored in translation.tensors.items():
            if name in table and origin[name] != place:
                replaced = (Path(origin[name]).name, ", ".join(table[name].names))
                left_out[replaced] = f"replaced by {file}"
            table[name], origin[name] = stored, place
    return table, origin, left_out


def check_places(table: Table, place: str, parameters: Mapping[str, Tensor]) -> None:
    """Raise HandoffError unless every tensor of the file `place` has a parameter of its name and shape."""
    if extra := [" + ".join(table[name].names) for name in sorted(table.keys() - parameters.keys())]:
        raise HandoffError(
            f"{place}: does not fit the model: {len(extra)} left over ({_some(extra)}); "
            "these weights belong to another recipe"
        )
    shapes = [
        f"{name} {tuple(stored.shape)} for {tuple(parameters[name].shape)}"
        for name, stored in table.items()
        if stored.shape != parameters[name].shape
    ]
    if shapes:
        raise HandoffError(
            f"{place}: does not fit the model: {len(shapes)} of another shape ({_some(shapes)}); "
            f"these weights belong to another recipe{_rank_hint(shapes)}"
        )


def refuse_missing(expected: Collection[str], found: Collection[str], places: Collection[str]) -> None:
    """Raise HandoffError, naming the files `places`, unless all that is expected was found."""
    if missing := sorted(set(expected) - set(found)):
        raise HandoffError(
            f"{', '.join(places)}: does not fit the model: {len(missing)} missing ({_some(missing)}); "
            "these weights belong to another recipe"
        )


def _rank_hint(shapes: list[str]) -> str:
    return ", or the stage's lora.rank is another than theirs" if any(LORA.search(shape) for shape in shapes) else ""


def _check_adapters(handoff: Handoff, found: Table, names: Collection[str]) -> None:
    held = [stored for name, stored in found.items() if ".lora_A." in name]
    has_adapters = any(LORA.search(name) for name in names)
    required = any(LORA.search(name) for name in handoff.required)
    if held and not has_adapters:
        raise HandoffError(
            f"{handoff.path} holds LoRA weights of rank {held[0].shape[0]}, but the stage has no adapters, and they "
            f"would be lost. Write `lora: {{rank: {held[0].shape[0]}, …, init: inherit}}` and name language_model.lora "
            "in trains"
        )
    if held and handoff.required and not required:
        raise HandoffError(
            f"{handoff.path} holds LoRA weights of rank {held[0].shape[0]}, but the stage begins its adapters anew, "
            "and they would be lost. Write `lora: {init: inherit}` to go on with them"
        )
    if required and not held:
        raise HandoffError(
            f"{handoff.path} holds no LoRA weights, but the stage continues to train language_model.lora; training "
            "would begin from random adapters. Train the stage before it with lora, or write `lora: {init: fresh}` to "
            "mean it"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _counted(values: Iterable[str]) -> str:
    return ", ".join(f"{count} {value}" for value, count in Counter(values).items())
