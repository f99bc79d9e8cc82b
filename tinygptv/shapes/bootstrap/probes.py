"""Held-out scores of each phase, on scenes that no phase has seen."""

from tinygptv.data.prompting.boxes import read_box
from tinygptv.evaluate.metrics.referring_iou import IOU_THRESHOLD, iou
from tinygptv.shapes.bootstrap.corpus import batch_of_scenes, rng_of
from tinygptv.shapes.bootstrap.language import LanguagePretraining
from tinygptv.shapes.bootstrap.qformer import QFormerPretraining
from tinygptv.shapes.bootstrap.texts import EXAMS
from tinygptv.shapes.bootstrap.tower import TowerPretraining
from tinygptv.shapes.scenes import Scene

_SCENES = 128


def tower(pretraining: TowerPretraining) -> dict[str, float]:
    """Accuracies of the linear heads by picture size: per patch, and the number of objects from the class token."""
    scenes = batch_of_scenes("heldout", 0, _SCENES)
    return {
        f"{figure}_{side}": round(value, 4)
        for side in pretraining.settings.image_sizes
        for figure, value in pretraining.measure(scenes, side).figures.items()
    }


def qformer(pretraining: QFormerPretraining) -> dict[str, float]:
    """By picture size: accuracies of the linear probe on the query outputs, and the three objectives' losses."""
    scenes = batch_of_scenes("heldout", 0, _SCENES)
    return {
        f"{figure}_{side}": round(value, 4)
        for side in pretraining.settings.image_sizes
        for figure, value in pretraining.measure(scenes, 0, side).figures.items()
    }


def language(pretraining: LanguagePretraining) -> dict[str, float]:
    """Accuracy and loss of answer tokens with scenes given in words and as vectors, and accuracy in exams.

    Measured with TinyGPT-V's norms inserted, as the stages will use the model.
    """
    pretraining.norms.inserted = True
    scenes = batch_of_scenes("heldout", 0, _SCENES)
    return {
        f"{figure}_{form}": round(value, 4)
        for form, in_words in (("words", True), ("vectors", False))
        for figure, value in pretraining.measure(scenes, rng_of("probe", 0), in_words).figures.items()
    } | {name: round(_exam(pretraining, scenes, name), 4) for name in EXAMS}


def _exam(pretraining: LanguagePretraining, scenes: list[Scene], name: str) -> float:
    """Share of correct answers to one kind of question with scenes as vectors; boxes count from an IoU of 0.5."""
    rng = rng_of(name, 0)
    asked = [(picture, turn) for picture in scenes if (turn := EXAMS[name](picture, rng))]
    scenes, turns = [picture for picture, _ in asked], [turn for _, turn in asked]
    answers = pretraining.answers(scenes, turns, rng, longest=16 if name == "refer" else 3)
    return sum(_is_right(said, turn.answer) for said, turn in zip(answers, turns, strict=True)) / len(turns)


def _is_right(said: str, truth: str) -> bool:
    box, true_box = read_box(said), read_box(truth)
    return iou(box, true_box) >= IOU_THRESHOLD if box and true_box else said == truth
