"""What a side is asked to do, and what it answers: files between the processes of the benchmark."""

from typing import Literal

from tinygptv.definitions.base import Definition
from tinygptv.definitions.recipe import Recipe
from tinygptv.train.job import Job

Side = Literal["ours", "reference"]
SIDES: tuple[Side, ...] = ("ours", "reference")

LONGEST_STEPS = 2
"""Steps with the longest sequences at the end; the last one counts, as new sizes cost the first one something."""


class Order(Definition):
    """`warm_up` and `steps` on the job's mixture, whose lengths are usual ones, then LONGEST_STEPS on `longest`."""

    recipe: Recipe
    job: Job
    longest: str
    warm_up: int
    steps: int


class Step(Definition):
    """One optimizer step: seconds, samples, tokens without padding, mean loss (None if it is no number)."""

    seconds: float
    samples: int
    tokens: int
    loss: float | None


class Held(Definition):
    """Bytes at the highest point: in tensors, in the allocator's blocks, and what the process holds beside these.

    Without a GPU all three are one number, of the whole process.
    """

    allocated: int
    reserved: int
    beside: int

    @property
    def total(self) -> int:
        """What the device sees of the process."""
        return self.reserved + self.beside


class Planned(Definition):
    """Of `tinygptv plan`: bytes of all at the highest point, and of what is no tensor; operations of a sample and of a
    token; and whether the decoder's layers run twice."""

    total: int
    runtime: int
    gradient_checkpointing: bool
    flops_per_sample: float
    flops_per_token: float


class Answer(Definition):
    """What a side did before its memory was at an end: then `taken` is empty or `longest` is None. `first_loss` is that
    of the first step, before anything was learned."""

    device: str
    first_loss: float | None
    taken: list[Step]
    longest: Step | None
    held: Held
    planned: Planned | None = None


class Device(Definition):
    """The device's name, its memory, operations per second of a large product in bf16, measured, and by its data sheet
    (None if unknown); and torch's version."""

    name: str
    memory_gib: float | None
    measured_tflops: float
    tflops: float | None
    torch: str
