"""The paper's ablations (arXiv 2312.16862, tables 4 and 6) as switches: recipe → recipe. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from tinygptv.definitions.recipe import Recipe
from tinygptv.errors import DefinitionError, did_you_mean


def without_lora(recipe: Recipe) -> Recipe:
    """No LoRA adapters in any stage."""
    if not any(stage.lora for stage in recipe.stages):
        raise DefinitionError("no stage has lora")
    stages = [stage.model_copy(update={"lora": None}) for stage in recipe.stages]
    return _training(recipe.model_copy(update={"stages": stages}), {"language_model.lora": []})


def without_input_norm(recipe: Recipe) -> Recipe:
    """The pretrained norms before attention and feed-forward stay frozen; added and final norms still train."""
    decoder = recipe.model.language_model
    remaining: list[str] = ["language_model.final_norm"]
    if decoder.qk_norm or decoder.attention_norm:
        remaining.insert(0, "language_model.added_norms")
    changed = _training(recipe, {"language_model.norms": remaining, "language_model.input_norms": []})
    if changed == recipe:
        raise DefinitionError("no stage trains language_model.norms or language_model.input_norms")
    return changed


def without_rms_norm(recipe: Recipe) -> Recipe:
    """No RMSNorm on the attention branch."""
    return _without_added_norm(recipe, "attention_norm")


def without_qk_norm(recipe: Recipe) -> Recipe:
    """No LayerNorm on queries and keys."""
    return _without_added_norm(recipe, "qk_norm")


ABLATIONS: dict[str, Callable[[Recipe], Recipe]] = {
    "without_lora": without_lora,
    "without_input_norm": without_input_norm,
    "without_rms_norm": without_rms_norm,
    "without_qk_norm": without_qk_norm,
}


def ablate(recipe: Recipe, switches: Iterable[str]) -> Recipe:
    """Apply every switch in turn.

    Raises DefinitionError for an unknown switch, or one that removes something the recipe does not have.
    """
    for switch in switches:
        if switch not in ABLATIONS:
            raise DefinitionError(f"no switch named '{switch}'. {did_you_mean(switch, ABLATIONS)}")
        try:
            recipe = ABLATIONS[switch](recipe)
        except DefinitionError as error:
            raise DefinitionError(f"'{switch}' cannot be applied: {error}; leave it out") from None
    return recipe


def shortened(recipe: Recipe, scale: float) -> Recipe:
    """Scale the steps and warm-up of every stage by `scale`: enough for comparisons, not for a usable model."""
    if not 0 < scale <= 1:
        raise DefinitionError(f"steps scale {scale:g}: must be above 0 and at most 1, the recipe's full length")
    stages = []
    for stage in recipe.stages:
        plan = stage.schedule
        fewer = {"steps": max(1, round(scale * plan.steps)), "warmup_steps": round(scale * plan.warmup_steps)}
        stages.append(stage.model_copy(update={"schedule": plan.model_copy(update=fewer)}))
    return recipe.model_copy(update={"stages": stages})


def _without_added_norm(recipe: Recipe, norm: Literal["qk_norm", "attention_norm"]) -> Recipe:
    decoder = recipe.model.language_model
    if not getattr(decoder, norm):
        raise DefinitionError(f"model.language_model.{norm} is false")
    without = decoder.model_copy(update={norm: False})
    changed = recipe.model_copy(update={"model": recipe.model.model_copy(update={"language_model": without})})
    none_left = not without.qk_norm and not without.attention_norm
    return _training(changed, {"language_model.added_norms": []}) if none_left else changed


def _training(recipe: Recipe, replacements: Mapping[str, Sequence[str]]) -> Recipe:
    """Replace parts in the `trains` of every stage: `replacements` maps a part to the parts trained instead."""
    stages = []
    for stage in recipe.stages:
        trains = [part for named in stage.trains for part in replacements.get(named, [named])]
        if not trains:
            raise DefinitionError(f"{stage.stage} would train nothing")
        stages.append(stage.model_copy(update={"trains": trains}))
    return recipe.model_copy(update={"stages": stages})
