"""The decoder of a recipe: transformers' own model around layers of ours, one module per architecture."""

from tinygptv.definitions import recipe
from tinygptv.models.language.llama import LlamaLanguageModel
from tinygptv.models.language.phi import PhiLanguageModel

LanguageModel = PhiLanguageModel | LlamaLanguageModel


def build_language_model(definition: recipe.LanguageModel) -> LanguageModel:
    """The decoder of a definition, freshly initialised."""
    match definition:
        case recipe.Phi():
            return PhiLanguageModel(definition)
        case recipe.Llama():
            return LlamaLanguageModel(definition)
