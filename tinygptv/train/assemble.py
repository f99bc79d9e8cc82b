"""A model ready to be trained, and the model that a finished stage left behind."""

import torch
from torch import nn

from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Recipe, Stage
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import Handoff, empty_model, load_weights, parameters_by_name
from tinygptv.store.artifacts import Manifest, Store
from tinygptv.train.freezing import trainable_names
from tinygptv.train.job import TRAINED
from tinygptv.train.lineage import adapters, inherited
from tinygptv.train.objective import load_objective

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The precisions of a hardware profile."""


def set_up(
    model: VisionLanguageModel, definition: Model, stage: Stage, gradient_checkpointing: bool
) -> VisionLanguageModel:
    """The model in training mode, frozen but for what the stage trains, without the parts its objective does not run.

    With `gradient_checkpointing` the decoder's layers keep only their inputs and run again in the backward pass.
    """
    for part in load_objective(stage.objective).unused:
        setattr(model, part.removesuffix("."), nn.Identity())
    parameters = parameters_by_name(model)
    trained = trainable_names(definition, parameters.keys(), stage.trains)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in trained)
    if gradient_checkpointing and not isinstance(model.language_model, nn.Identity):
        model.language_model.activation_checkpointing_enable({"use_reentrant": False})
    return model.train()


def load_stage_model(
    store: Store, recipe: Recipe, stage_name: str, manifest: Manifest, dtype: torch.dtype = torch.float32
) -> VisionLanguageModel:
    """The model as it was at the end of a stage, in eval mode, frozen, with its adapters not merged.

    Raises HandoffError if the artifact does not hold what this stage and those before it trained.
    """
    stage = recipe.stage(stage_name)
    model = empty_model(recipe.model, stage.inputs.image_size, adapters(recipe, stage))
    trained = trainable_names(
        recipe.model, parameters_by_name(model).keys(), [*inherited(recipe, stage), *stage.trains]
    )
    handoff = Handoff(store.folder(manifest.artifact) / TRAINED, trained)
    load_weights(model, recipe.model, handoff=handoff, dtype=dtype)
    return model.requires_grad_(False).eval()
