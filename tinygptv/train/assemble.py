"""What a stage left behind → a model that can be asked something."""

from tinygptv.artifacts import Manifest, Store
from tinygptv.definitions.recipe import Recipe
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import load_backbones, load_trained, parameters_by_name
from tinygptv.train.freezing import trainable_names
from tinygptv.train.stage import TRAINED, adapters, inherited


def load_stage_model(store: Store, recipe: Recipe, stage_name: str, manifest: Manifest) -> VisionLanguageModel:
    """The model as it was at the end of a stage, in eval mode, frozen, with its adapters still apart.

    Raises HandoffError if the artifact does not hold exactly what this stage and those before it trained.
    """
    stage = recipe.stage(stage_name)
    model = VisionLanguageModel(recipe.model, stage.inputs.image_size, adapters(recipe, stage))
    load_backbones(model, recipe.model)
    trained = trainable_names(parameters_by_name(model).keys(), [*inherited(recipe, stage), *stage.trains])
    load_trained(model, store.folder(manifest.artifact) / TRAINED, trained)
    return model.requires_grad_(False).eval()
