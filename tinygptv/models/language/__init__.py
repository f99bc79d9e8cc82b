"""The decoder of a recipe: transformers' own model around layers of ours, one module per architecture."""

from tinygptv.definitions import model
from tinygptv.models.language.llama import LlamaLanguageModel
from tinygptv.models.language.phi import PhiLanguageModel

LanguageModel = PhiLanguageModel | LlamaLanguageModel


def build_language_model(definition: model.LanguageModel) -> LanguageModel:
    """The decoder of a definition, freshly initialised."""
    match definition:
        case model.Phi():
            return PhiLanguageModel(definition)
        case model.Llama():
            return LlamaLanguageModel(definition)
