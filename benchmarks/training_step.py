"""Our training step compared with the published one: tokenisation, forward, backward and AdamW on the same weights.

    python benchmarks/training_step.py [tiny | middle | wide]…

Batches of eight mix short answers, boxes, captions and descriptions of drawn scenes. Every round uses a new batch, so
that no texts are cached. Images are already decoded, on both sides. Before measuring, both must give the same loss.
"""

import copy
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comparison import in_turns, report
from reference_loop import ReferenceLoop
from torch import Tensor

from tinygptv import catalog
from tinygptv.data.batches.batching import load_tokenizer
from tinygptv.data.prompting.prompts import render
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Lora
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import parameters_by_name
from tinygptv.sample import ImageReference, Sample, Turn
from tinygptv.shapes import language
from tinygptv.shapes.scenes import Scene, scene
from tinygptv.store.locations import local_path
from tinygptv.train.engine import parameter_groups
from tinygptv.train.freezing import trainable_names

RECIPE = catalog.recipe("tinygptv_tiny")
STAGE = RECIPE.stages[-1]
RATE, LOSS_TOLERANCE = 1e-5, 1e-4
NO_IMAGE_FILE = ImageReference("drawn")

Change = dict[str, Any]
SIZES: dict[str, tuple[str, int, int, Change, Change, int, Change]] = {
    "tiny": ("tinygptv_tiny", 64, 15, {}, {}, 256, {}),
    "middle": (
        "a quarter of the full widths, the real vocabulary",
        224,
        3,
        {"width": 352, "depth": 6, "mlp_width": 1536, "patch_size": 14},
        {"queries": 32, "width": 192, "mlp_width": 768},
        1024,
        {"width": 640, "depth": 8, "heads": 8, "mlp_width": 2560, "vocabulary": 51200},
    ),
    "wide": (
        "the full widths and vocabulary, two layers of each part",
        224,
        3,
        {"width": 1408, "depth": 2, "heads": 16, "mlp_width": 6144, "patch_size": 14},
        {"queries": 32, "width": 768, "depth": 2, "heads": 12, "mlp_width": 3072},
        4096,
        {"width": 2560, "depth": 2, "heads": 32, "mlp_width": 10240, "vocabulary": 51200, "rotary_fraction": 0.4},
    ),
}
"""Description, image size (px), rounds, and changes to the tiny recipe: vision, Q-Former, projection, decoder."""


def main() -> None:
    """Measure the sizes given on the command line, or tiny and middle."""
    torch.set_num_threads(1)  # several threads would spin while waiting, which counts as CPU time
    for name in sys.argv[1:] or ["tiny", "middle"]:
        measure(name)


def measure(name: str) -> None:
    """Report training samples per CPU second, ours and the peer's."""
    about, image_size, rounds, *_ = SIZES[name]
    inputs = STAGE.inputs.model_copy(update={"image_size": image_size})
    tokenizer = load_tokenizer(local_path(RECIPE.model.language_model.tokenizer))
    model = build(name)
    sequences = Sequences(tokenizer, inputs, model.num_image_tokens)
    published = ReferenceLoop(copy.deepcopy(model), copy.deepcopy(tokenizer), inputs)
    batches = [[render(*drawn, inputs) for drawn in samples(number)] for number in range(rounds + 2)]
    pixels = torch.randn(len(batches[0]), 3, image_size, image_size)

    def ours(turns: Sequence[tuple[Turn, ...]]) -> Tensor:
        loss, _ = model(pixels, *sequences.training(turns))
        return loss

    def theirs(turns: Sequence[tuple[Turn, ...]]) -> Tensor:
        return published(pixels, [one.instruction for (one,) in turns], [one.answer for (one,) in turns])

    with torch.no_grad():
        difference = abs(ours(batches[0]).item() - theirs(batches[0]).item())
    if difference > LOSS_TOLERANCE:
        raise SystemExit(f"{name}: the losses differ by {difference}, so times cannot be compared")
    mine = step(ours, torch.optim.AdamW(parameter_groups(model, STAGE.optimizer), lr=RATE, fused=True), batches[1:])
    peer = step(theirs, torch.optim.AdamW(parameter_groups(published.model, STAGE.optimizer), lr=RATE), batches[1:])
    my_seconds, peer_seconds = in_turns(mine, peer, rounds)
    report(
        f"training step, {name}",
        len(pixels) / my_seconds,
        len(pixels) / peer_seconds,
        "samples/CPU s",
        "ratio >= 1.5",
        about=about,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        batch=len(pixels),
        loss_difference=difference,
    )


def build(name: str) -> VisionLanguageModel:
    """A model of this size with random weights, non-zero adapters, and gradients for what stage 4 trains."""
    _, image_size, _, vision, qformer, projection, decoder = SIZES[name]
    content = RECIPE.model.model_dump()
    content["vision_encoder"] |= vision
    content["connector"][0] |= qformer
    content["connector"][1]["width"] = projection
    content["language_model"] |= decoder
    content["connector"][2]["width"] = content["language_model"]["width"]
    torch.manual_seed(0)
    lora = Lora(rank=64 if decoder else 16, alpha=16.0, dropout=0.0, init="fresh")
    model = VisionLanguageModel(Model.model_validate(content), image_size, lora)
    parameters = parameters_by_name(model)
    trained = trainable_names(RECIPE.model, parameters.keys(), STAGE.trains)
    for parameter_name, parameter in parameters.items():
        parameter.requires_grad_(parameter_name in trained)
        if ".lora_B." in parameter_name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.train()


def step(
    loss_of: Callable[[Sequence[tuple[Turn, ...]]], Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Sequence[tuple[Turn, ...]]],
) -> Callable[[], None]:
    """A function that takes one training step on the next batch."""
    following = iter(batches)

    def take() -> None:
        loss_of(next(following)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return take


def samples(number: int) -> list[tuple[Sample, Task]]:
    """Eight samples of different lengths, each about a different scene."""
    rng = random.Random(number)
    tasks: list[Task] = ["vqa", "vqa", "statement", "identify", "caption", "caption", "describe", "describe"]
    pictures = (scene("train", 8 * number + place) for place in range(len(tasks)))
    return [
        (Sample(f"{number}", (NO_IMAGE_FILE,), (turn(picture, task, rng),)), task)
        for picture, task in zip(pictures, tasks, strict=True)
    ]


def turn(picture: Scene, task: Task, rng: random.Random) -> Turn:
    """An instruction about an image, and the answer."""
    match task:
        case "vqa":
            question = language.count_question(picture, rng)
            return Turn(question.text, question.answer)
        case "statement":
            statement = language.attribute_statement(picture, rng, truth=True)
            return Turn(statement.text, "true")
        case "identify":
            thing = picture.objects[0]
            return Turn(language.box_text(thing.box), language.region_description(thing))
        case "describe":
            return Turn("", language.detailed_description(picture, rng))
        case _:
            return Turn("", language.caption(picture, rng))


if __name__ == "__main__":
    main()
