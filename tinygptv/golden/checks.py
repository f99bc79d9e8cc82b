"""The three checks of a golden case: a stage's batch with its gradients, its conversation, its generation.

The same code runs as in training and evaluation: prompts, token sequences, weight loading and the model's forward
pass. Tensors are compared where the recorded attention mask is one: values in the padding mean nothing, and its width
is a habit of the reference (the longest prompt plus the longest answer of the batch).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tinygptv.data.prompting.sequences import Sequences, Texts
from tinygptv.errors import DataError, DefinitionError, TinyGPTVError
from tinygptv.golden.case import CHECKPOINT, CONVERSATION_IO, GRADIENTS, GoldenCase
from tinygptv.models.stored import read_all
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import Handoff, empty_model, load_weights, parameters_by_name
from tinygptv.models.weights.files import open_weights
from tinygptv.models.weights.reference import reference_file
from tinygptv.sample import IGNORE_INDEX

TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-5
SMALLEST_SCALE = 1e-6
"""Gradients are compared relative to the largest of their tensor; below this one they are rounding."""


@dataclass
class Outcome:
    """One line of the report: the largest differences of one check of one case, or why it could not run.

    `differences` are absolute, `gradients` relative; `labels`, `attention_mask` and `token_ids` count what differs.
    """

    case: str
    check: str
    differences: dict[str, float] = field(default_factory=dict)
    worst_gradient: str | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every difference is within its tolerance."""
        return self.error is None and all(
            value <= (LOSS_TOLERANCE if name == "loss" else TOLERANCE) for name, value in self.differences.items()
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values; null is an infinite difference."""
        shown = {name: value if math.isfinite(value) else None for name, value in self.differences.items()}
        others = {"worst_gradient": self.worst_gradient, "error": self.error}
        return {"case": self.case, "check": self.check, "ok": self.ok} | shown | {k: v for k, v in others.items() if v}


def check_folder(folder: Path) -> Iterator[Outcome]:
    """Every check of every case in a stage's or a family's folder, or in the families' folders it holds.

    Raises DefinitionError if there is no case at all; what is wrong with one is in its outcome.
    """
    for stage in _stages(folder):
        yield from check_case(GoldenCase(stage))


def check_case(case: GoldenCase) -> Iterator[Outcome]:
    """The stage, its conversation and its generation, as far as they were recorded."""
    loaded: list[VisionLanguageModel] = []

    def model() -> VisionLanguageModel:
        if not loaded:
            loaded.append(load_case(case))
        return loaded[0]

    checks: list[tuple[str, Callable[[Outcome], None]]] = [
        ("stage", lambda outcome: check_stage(case, model(), outcome))
    ]
    if (case.folder / CONVERSATION_IO).exists() or _describes(case, "conversation"):
        checks.append(("conversation", lambda outcome: check_conversation(case, model(), outcome)))
    if _describes(case, "generate"):
        checks.append(("generation", lambda outcome: check_generation(case, model(), outcome)))
    for name, check in checks:
        outcome = Outcome(str(case), name)
        try:
            check(outcome)
        except (TinyGPTVError, RuntimeError) as error:  # the latter is torch's, of tensors that do not fit together
            outcome.error = f"{type(error).__name__}: {error}"
        yield outcome


def load_case(case: GoldenCase) -> VisionLanguageModel:
    """The case's model with its weights, in eval mode; what it trained requires gradients, nothing else does.

    Raises DataError or HandoffError for files that are absent, damaged or of another model.
    """
    definition, path = case.model, case.folder / CHECKPOINT
    found = reference_file(open_weights(path), definition).tensors
    ours = {theirs: name for name, stored in found.items() for theirs in stored.names}
    if absent := sorted(set(case.description.trainable) - ours.keys()):
        raise DataError(f"{path}: holds no '{absent[0]}', which case.json counts among the trained tensors")
    trained = {ours[name] for name in case.description.trainable}
    model = empty_model(definition, case.description.image_size, case.lora)
    load_weights(model, definition, handoff=Handoff(path, trained))
    for name, parameter in parameters_by_name(model).items():
        parameter.requires_grad_(name in trained)
    return model.eval()


def check_stage(case: GoldenCase, model: VisionLanguageModel, outcome: Outcome) -> None:
    """Vision, projections, inputs, logits, loss, and the gradient of every trained tensor."""
    image = case.io["image"]
    with torch.no_grad():
        outcome.differences["vision_embeds"] = _largest(model.vision_encoder(image), case.io["vision_embeds"])
        outcome.differences["image_embeds"] = _largest(model.image_embeds(image), case.io["image_embeds"])
    texts = Sequences(case.tokenizer, case.inputs(case.io), model.num_image_tokens).training(case.turns())
    loss = _compare_batch(model, image, texts, case.io, outcome)
    outcome.differences["loss"] = max(outcome.differences["loss"], abs(loss.item() - case.description.loss))
    model.zero_grad()
    loss.backward()
    _compare_gradients(case, model, outcome)


def check_conversation(case: GoldenCase, model: VisionLanguageModel, outcome: Outcome) -> None:
    """Inputs, logits and loss of the recorded conversation."""
    conversation, recorded = case.description.conversation, case.conversation_io
    if conversation is None:
        raise DataError(f"{case.folder / 'case.json'}: no 'conversation', though {CONVERSATION_IO} is there")
    inputs = case.inputs(recorded)
    turns = conversation.turns(inputs.template or "{}")
    texts = Sequences(case.tokenizer, inputs, model.num_image_tokens).training(turns)
    with torch.no_grad():
        _compare_batch(model, case.io["image"], texts, recorded, outcome)


def check_generation(case: GoldenCase, model: VisionLanguageModel, outcome: Outcome) -> None:
    """How many ids of the greedy answers differ, up to each answer's end."""
    generation = case.description.generate
    if generation is None:
        raise DataError(f"{case.folder / 'case.json'}: no 'generate'; there is nothing to compare with")
    asked = Sequences(case.tokenizer, case.inputs(case.io), model.num_image_tokens).prompts(generation.prompts)
    images, eos = case.io["image"][: len(generation.prompts)], generation.eos_token_id
    written = model.generate(images, asked.input_ids, asked.attention_mask, generation.max_new_tokens, [[eos]]).tolist()
    pairs = [
        (_until(eos, found), _until(eos, ids[1:])) for found, ids in zip(written, generation.token_ids, strict=True)
    ]
    outcome.differences["token_ids"] = sum(
        sum(one != other for one, other in zip(found, expected, strict=False)) + abs(len(found) - len(expected))
        for found, expected in pairs
    )


def _compare_batch(
    model: VisionLanguageModel, image: Tensor, texts: Texts, recorded: dict[str, Tensor], outcome: Outcome
) -> Tensor:
    """Our inputs, logits and loss against those recorded; returns the loss, with its graph."""
    mask = recorded["attention_mask"]
    if len(mask) != len(texts.input_ids):
        raise DataError(f"{len(mask)} samples were recorded but case.json describes {len(texts.input_ids)}")
    width = max(mask.shape[1], texts.input_ids.shape[1])

    def widened(tensor: Tensor, padding: float = 0) -> Tensor:
        rest = [0, 0] * (tensor.ndim - 2)
        return pad(tensor, (*rest, 0, width - tensor.shape[1]), value=padding)

    outcome.differences["labels"] = _count(
        widened(texts.labels, IGNORE_INDEX), widened(recorded["labels"].long(), IGNORE_INDEX)
    )
    outcome.differences["attention_mask"] = _count(widened(texts.attention_mask), widened(mask.long()))
    seen = widened(mask).bool()
    with torch.no_grad():
        embeds = model.inputs_embeds(image, texts.input_ids)
        logits = model.logits(image, texts.input_ids, texts.attention_mask)
    outcome.differences["inputs_embeds"] = _largest(widened(embeds)[seen], widened(recorded["inputs_embeds"])[seen])
    outcome.differences["logits"] = _largest(widened(logits)[seen], widened(recorded["logits"])[seen])
    loss, _ = model(image, *texts)
    outcome.differences["loss"] = _largest(loss.detach(), recorded["loss"].reshape(()))
    return loss


def _compare_gradients(case: GoldenCase, model: VisionLanguageModel, outcome: Outcome) -> None:
    """Relative to the largest gradient of each tensor. Every recorded tensor must be a parameter, and the reverse."""
    path = case.folder / GRADIENTS
    expected = read_all(reference_file(open_weights(path, finite=False), case.model).tensors)
    parameters = parameters_by_name(model)
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    silent = len(case.description.trainable_without_grad)
    if (unknown := sorted(expected.keys() - trained)) or len(trained) - len(expected) != silent:
        raise DataError(
            f"{path}: {len(expected)} gradients for {len(trained)} trained tensors, of which {silent} have none; "
            f"without a match: {', '.join(unknown or sorted(trained - expected.keys()))}"
        )
    differences = {name: _relative(parameters[name].grad, gradient) for name, gradient in expected.items()}
    outcome.worst_gradient = max(differences, key=lambda name: differences[name])
    outcome.differences["gradients"] = differences[outcome.worst_gradient]


def _largest(found: Tensor | None, expected: Tensor) -> float:
    """The largest absolute difference; infinite if there is nothing to compare, or something that is not a number."""
    if found is None or found.shape != expected.shape:
        return math.inf
    difference = (found - expected).abs().max().item()
    return difference if math.isfinite(difference) else math.inf


def _relative(found: Tensor | None, expected: Tensor) -> float:
    difference = _largest(found, expected)
    return difference / max(expected.abs().max().item(), SMALLEST_SCALE) if math.isfinite(difference) else math.inf


def _count(found: Tensor, expected: Tensor) -> int:
    return int((found != expected).sum())


def _until(end: int, ids: list[int]) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


def _describes(case: GoldenCase, key: str) -> bool:
    try:
        return getattr(case.description, key) is not None
    except DataError:
        return False


def _stages(folder: Path) -> list[Path]:
    """The folder itself if it is a stage's, else the stages in it or in the folders it holds, in order."""
    folder = folder.resolve()
    if (folder / "case.json").is_file():
        return [folder]
    found = [path for pattern in ("stage*", "*/stage*") for path in sorted(folder.glob(pattern)) if path.is_dir()]
    if not found:
        raise DefinitionError(
            f"{folder}: no stage1, stage2, … in it or one folder below; name a folder of golden cases"
        )
    return found
