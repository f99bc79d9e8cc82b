"""Orders and answers: the files exchanged between the processes of the benchmark."""

from typing import Literal

from tinygptv.definitions.base import Definition
from tinygptv.definitions.recipe import Recipe
from tinygptv.train.job import Job

Side = Literal["ours", "reference"]
SIDES: tuple[Side, ...] = ("ours", "reference")

LONGEST_STEPS = 2
"""Steps with the longest sequences at the end. Only the last one counts: the first one warms up new shapes."""


class Order(Definition):
    """`warm_up` and `steps` on the job's mixture of typical lengths, then LONGEST_STEPS on `longest`."""

    recipe: Recipe
    job: Job
    longest: str
    warm_up: int
    steps: int


class Step(Definition):
    """One optimizer step: seconds, samples, tokens without padding, mean loss (None if not finite)."""

    seconds: float
    samples: int
    tokens: int
    loss: float | None


class Held(Definition):
    """Peak memory in bytes: in tensors, reserved by the allocator, and outside the allocator.

    Without a GPU, the first two are the resident memory of the process.
    """

    allocated: int
    reserved: int
    beside: int

    @property
    def total(self) -> int:
        """Memory of the process on the device."""
        return self.reserved + self.beside


class Planned(Definition):
    """Predictions of `tinygptv plan`: peak bytes, bytes outside tensors, FLOPs, and gradient checkpointing."""

    total: int
    runtime: int
    gradient_checkpointing: bool
    flops_per_sample: float
    flops_per_token: float


class Answer(Definition):
    """What a side measured. If it ran out of memory, `taken` is empty or `longest` is None.

    `first_loss` is the loss of the first step, before any update.
    """

    device: str
    first_loss: float | None
    taken: list[Step]
    longest: Step | None
    held: Held
    planned: Planned | None = None


class Device(Definition):
    """The device: memory in GiB, bf16 TFLOP/s measured with a large product and from the data sheet (None: unknown)."""

    name: str
    memory_gib: float | None
    measured_tflops: float
    tflops: float | None
    torch: str
