"""Held-out scores of each phase: what its frozen output says about scenes that no phase has seen."""

from tinygptv.bootstrap.corpus import batch_of_scenes, rng_of
from tinygptv.bootstrap.language import LanguagePretraining
from tinygptv.bootstrap.qformer import QFormerPretraining
from tinygptv.bootstrap.tower import TowerPretraining

_SCENES = 128


def tower(pretraining: TowerPretraining) -> dict[str, float]:
    """Accuracies of the linear heads per picture size: per patch, and the number of objects on the class token."""
    scenes = batch_of_scenes("heldout", 0, _SCENES)
    return {
        f"{figure}_{side}": round(value, 4)
        for side in pretraining.settings.image_sizes
        for figure, value in pretraining.measure(scenes, side).figures.items()
    }


def qformer(pretraining: QFormerPretraining) -> dict[str, float]:
    """Per picture size: accuracies of the linear probe on the query outputs, and the three objectives' losses."""
    scenes = batch_of_scenes("heldout", 0, _SCENES)
    return {
        f"{figure}_{side}": round(value, 4)
        for side in pretraining.settings.image_sizes
        for figure, value in pretraining.measure(scenes, 0, side).figures.items()
    }


def language(pretraining: LanguagePretraining) -> dict[str, float]:
    """Share of answer tokens that are right, and their loss, for scenes told in words and in vectors."""
    scenes = batch_of_scenes("heldout", 0, _SCENES)
    return {
        f"{figure}_{manner}": round(value, 4)
        for manner, in_words in (("words", True), ("vectors", False))
        for figure, value in pretraining.measure(scenes, rng_of("probe", 0), in_words).figures.items()
    }
