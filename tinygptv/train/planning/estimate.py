"""What a stage needs on a machine, before anything starts: memory by part, operations, hours.

The pass through the model is traced (see `tracing`); the optimizer's memory follows DeepSpeed's code. All memory is in
bytes of one rank, on the device it trains on. What is offloaded to the host or a disk is not counted.
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Recipe
from tinygptv.definitions.trainable import LANGUAGE_MODEL, PROJECTIONS, matcher
from tinygptv.models import nf4
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import empty_model, parameters_by_name
from tinygptv.train.assemble import DTYPES, set_up
from tinygptv.train.deepspeed import (
    BUCKET_ELEMENTS,
    OPTIMIZER_BUFFERS,
    PARAMETER_BUFFERS,
    accumulation_steps,
)
from tinygptv.train.freezing import trainable_names
from tinygptv.train.lineage import adapters
from tinygptv.train.objective import Learner, load_objective
from tinygptv.train.planning.tracing import Trace, trace
from tinygptv.train.schedule import total_steps

GIB = 2**30

PARTS = ("vision_encoder", "qformer", "projections", "language_model", "lora")

PROMPT_TOKENS = 64
"""Assumed length of an instruction in its template: the tokenizer may not exist yet, and most are shorter."""
TYPICAL_ANSWER = 64
"""Assumed tokens of an answer and its padding in an average batch, where the recipe allows more."""

RUNTIME_BYTES = {"cpu": 730_000_000, "cuda": 600_000_000}
"""Memory of a rank before it has a model: on the CPU the libraries (measured), on a GPU the context and the libraries'
workspaces (assumed)."""
ALLOCATOR_LOSS = {"cpu": 0.0, "cuda": 0.06}
"""Assumed share of a step's temporary memory that the allocator loses to rounding and gaps."""
MAX_GATHERED = 1_000_000_000
"""Parameters that ZeRO-3 keeps gathered at a time (`stage3_max_live_parameters`, DeepSpeed's default)."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the peak of a step.

    `gradients` are fresh and accumulated ones, `activations` what is kept for the backward pass, `transient` all other
    temporary memory, `runtime` what the process needs before it has a model, plus what allocators lose.
    """

    weights: int
    optimizer: int
    gradients: int
    activations: int
    transient: int
    runtime: int

    @property
    def total(self) -> int:
        """Bytes, all parts together."""
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Work:
    """Operations and tokens of one optimizer step at typical lengths, all ranks together; `hours` is of the stage.

    `hours` is None if the profile does not say how fast its device is.
    """

    forward_flops: int
    backward_flops: int
    tokens: int
    steps: int
    hours: float | None


class StageEstimator:
    """Estimates of one stage for any hardware. Traces are cached."""

    def __init__(self, recipe: Recipe, stage_name: str, longest_sequence: int = 0) -> None:
        """`longest_sequence`: tokens of the longest sequence in the stage's mixture, if known (see
        `data.batches.usable`)."""
        self.stage = recipe.stage(stage_name)
        self._model, self._lora = recipe.model, adapters(recipe, self.stage)
        self._traces: dict[tuple[Any, ...], Trace] = {}
        self._objective = load_objective(self.stage.objective)
        model = self._empty()
        unused = self._objective.unused
        parameters = {n: p for n, p in parameters_by_name(model).items() if not n.startswith(unused)}
        sizes = {name: parameter.numel() for name, parameter in parameters.items()}
        self._maps = nf4.map_weights(parameters)
        self.parameters = dict.fromkeys(PARTS, 0)
        for name, size in sizes.items():
            self.parameters[_part(self._model, name)] += size
        trained = [sizes[name] for name in trainable_names(self._model, sizes.keys(), self.stage.trains)]
        self.trainable = sum(trained)
        self.image_tokens = model.num_image_tokens
        self._prefix = self.stage.frozen_prefix(self._model)
        self._prefix_size = sum(size for name, size in sizes.items() if name.startswith(self._prefix))
        self._largest, self._largest_trained = max(sizes.values()), max(trained)
        self.longest = max(longest_sequence, self.tokens(self.stage.inputs.max_text_tokens))
        """Tokens of the longest sequence that the plan allows for."""

    def tokens(self, answer: int) -> int:
        """Length of a sequence with one image and an answer of `answer` tokens."""
        return 1 + (PROMPT_TOKENS if self.stage.inputs.template else 0) + self.image_tokens + answer

    def memory(self, hardware: Hardware) -> Memory:
        """The peak of a step whose sequences are all as long as the recipe allows, or as the longest one."""
        answer = self.stage.inputs.max_text_tokens
        passed = self._trace(hardware, answer, self.longest - self.tokens(answer))
        size, share = DTYPES[hardware.precision].itemsize, self._optimizer_share(hardware)
        accumulated = 0
        if self._pieces(hardware) > 1:
            accumulated = self.trainable * size // (hardware.world_size if hardware.zero_stage >= 2 else 1)
        bucket = BUCKET_ELEMENTS * size if hardware.device == "cuda" and hardware.zero_stage else 0
        fresh = max(passed.gradients, bucket)
        activations = min(passed.kept, passed.peak - passed.gradients)
        # A 4-bit map is dequantized for its product.
        restored = size * max(self._maps.values()) if hardware.quantize_base == "nf4" else 0
        highest = accumulated + passed.peak - passed.gradients + fresh + restored
        # The optimizer flattens its share of the gradients and copies it in 32 bits; activations are freed by then.
        stepping = int(self.trainable * share * (2 * size + 4))
        transient = max(highest, stepping) - accumulated - fresh - activations
        return Memory(
            weights=self._weights(hardware),
            optimizer=self._optimizer(hardware),
            gradients=accumulated + fresh,
            activations=activations,
            transient=transient,
            runtime=RUNTIME_BYTES[hardware.device] + int(ALLOCATOR_LOSS[hardware.device] * max(highest, stepping)),
        )

    def on_disk(self, hardware: Hardware) -> int:
        """Bytes that all ranks of one machine swap to the profile's `offload_folder`, at most.

        That is value, two moments and gradient of every trained parameter, in 32 bits; and, if parameters are
        offloaded, all of them in the model's precision. Tensors of less than a MiB stay in memory.
        """
        if hardware.offload_folder is None:
            return 0
        parameters = self._everything(hardware) * DTYPES[hardware.precision].itemsize
        offloaded = parameters if hardware.offload == "optimizer_and_parameters" else 0
        return (self.trainable * 4 * OPTIMIZER_BUFFERS + offloaded) // hardware.nodes

    def locked(self, hardware: Hardware) -> int:
        """Bytes of a rank's pinned host memory, through which it swaps."""
        if hardware.offload_folder is None:
            return 0
        trained, size = self._largest_trained, DTYPES[hardware.precision].itemsize
        # In addition to the parameter buffers there is one for an updated parameter.
        offloaded = PARAMETER_BUFFERS * self._largest + trained if hardware.offload == "optimizer_and_parameters" else 0
        return (trained * 4 * OPTIMIZER_BUFFERS + offloaded * size) // hardware.world_size

    def resident(self, hardware: Hardware) -> int:
        """Bytes that a rank holds between steps; needs no tracing."""
        return self._weights(hardware) + self._optimizer(hardware) + RUNTIME_BYTES[hardware.device]

    def work(self, hardware: Hardware) -> Work:
        """Operations of one optimizer step, and how long the stage takes at the profile's speed."""
        answer = min(self.stage.inputs.max_text_tokens, TYPICAL_ANSWER)
        passed, passes = self._trace(hardware, answer), self._pieces(hardware) * hardware.world_size
        steps, hours = total_steps(self.stage.schedule), None
        if hardware.tflops is not None:
            speed = hardware.tflops * 1e12 * hardware.utilisation * hardware.world_size
            hours = (passed.forward_flops + passed.backward_flops) * passes * steps / speed / 3600
        return Work(
            forward_flops=passed.forward_flops * passes,
            backward_flops=passed.backward_flops * passes,
            tokens=self.tokens(answer) * self.stage.global_batch_size,
            steps=steps,
            hours=hours,
        )

    def flops(self, hardware: Hardware) -> tuple[float, float]:
        """Operations per sample plus per token, forward and backward, without recomputation.

        An image costs the same however short its text is, so a cost per token alone would not do. The line is fitted
        through batches of typical and of the longest answers; attention, which is quadratic, is close to it.
        """
        uncut = hardware.model_copy(update={"gradient_checkpointing": False})
        longest, samples = self.stage.inputs.max_text_tokens, self.micro_batch_size(hardware)
        typical = min(TYPICAL_ANSWER, longest // 2)
        most, less = (
            (passed.forward_flops + passed.backward_flops) / samples
            for passed in (self._trace(uncut, longest), self._trace(uncut, typical))
        )
        per_token = (most - less) / (longest - typical)
        return most - per_token * self.tokens(longest), per_token

    def micro_batch_size(self, hardware: Hardware) -> int:
        """Samples that a rank actually takes at a time: equal pieces of its share."""
        return self.stage.global_batch_size // hardware.world_size // self._pieces(hardware)

    def _pieces(self, hardware: Hardware) -> int:
        return accumulation_steps(self.stage.global_batch_size, hardware.world_size, hardware.micro_batch_size)

    def _everything(self, hardware: Hardware) -> int:
        """Parameters of the model that all ranks together hold."""
        return sum(self.parameters.values()) - (self._prefix_size if hardware.features == "cached" else 0)

    def _weights(self, hardware: Hardware) -> int:
        everything, size = self._everything(hardware), DTYPES[hardware.precision].itemsize
        if hardware.zero_stage < 3:
            rounded = sum(self._maps.values()) if hardware.quantize_base == "nf4" else 0
            return (everything - rounded) * size + int(rounded * nf4.BYTES_PER_WEIGHT)
        offloaded = hardware.offload == "optimizer_and_parameters" and _leaves_the_device(hardware)
        held = 0 if offloaded else everything // hardware.world_size
        gathered = PARAMETER_BUFFERS * self._largest if hardware.offload_folder else MAX_GATHERED
        return min(everything, held + gathered) * size

    def _optimizer_share(self, hardware: Hardware) -> float:
        """The part of the optimizer's state that this rank's device holds."""
        if hardware.offload != "none" and _leaves_the_device(hardware):
            return 0.0
        return 1 / hardware.world_size if hardware.zero_stage else 1.0

    def _optimizer(self, hardware: Hardware) -> int:
        """Two moments in 32 bits, and a 32-bit copy of the weights under ZeRO or with 16-bit weights. On the CPU also
        the buffers through which they, and offloaded parameters, are swapped to a disk."""
        alone = hardware.zero_stage == 0 and hardware.precision == "fp32"
        held = int(self.trainable * self._optimizer_share(hardware) * (8 if alone else 12))
        return held + (self.locked(hardware) if hardware.device == "cpu" else 0)

    def _empty(self) -> VisionLanguageModel:
        return empty_model(self._model, self.stage.inputs.image_size, self._lora)

    def _trace(self, hardware: Hardware, answer: int, longer: int = 0) -> Trace:
        """A step with answers of `answer` tokens and prompts `longer` tokens longer than assumed."""
        samples = self.micro_batch_size(hardware)
        checkpointing = bool(hardware.gradient_checkpointing)
        key = (samples, answer, longer, checkpointing, hardware.precision, hardware.features)
        if key not in self._traces:
            model = set_up(self._empty(), self._model, self.stage, checkpointing)
            side = self.stage.inputs.image_size
            image: tuple[int, ...] = (3, side, side)
            if hardware.features == "cached":
                model.split_prefix(len(self._prefix))
                image = self._model.features_shape(side, len(self._prefix))
            tokens = self.tokens(answer) + longer
            texts = self._objective.example_texts(samples, tokens, answer, self.image_tokens)
            learner = Learner(model, self._objective)
            self._traces[key] = trace(learner, DTYPES[hardware.precision], (samples, *image), texts)
        return self._traces[key]


def limit(hardware: Hardware) -> int | None:
    """Bytes that one rank may use; None if a GPU profile does not say."""
    if hardware.device == "cuda":
        return None if hardware.memory_gib is None else int(hardware.memory_gib * GIB)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(hardware.memory_gib * GIB if hardware.memory_gib else machine) // hardware.ranks


def _leaves_the_device(hardware: Hardware) -> bool:
    """Whether offloading frees memory: on the CPU, the host's memory is the device's."""
    return hardware.device == "cuda" or hardware.offload_folder is not None


def _part(model: Model, name: str) -> str:
    """Which row of the table a parameter belongs to."""
    if name.startswith("connector."):
        return "projections" if matcher(model, PROJECTIONS).fullmatch(name) else "qformer"
    return "lora" if LANGUAGE_MODEL["language_model.lora"].fullmatch(name) else name.partition(".")[0]
