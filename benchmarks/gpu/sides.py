"""Measures one stage in this process, with our training loop or the published one.

    python -m benchmarks.gpu.sides ours|reference ORDER ANSWER

Both sides use the same samples and the same random weights. Ours is the real training loop with loader, DeepSpeed and
metrics. The reference is LAVIS's loop around the reimplemented forward pass: fp16 autocast, gradient scaler and AdamW
on the whole batch or equal parts of it; decoding its images is not timed. A side that runs out of memory ends early,
with an answer.
"""

import contextlib
import functools
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.memory import limit_memory, peak_memory, reset_peak
from benchmarks.gpu.models import as_published, random_model
from benchmarks.gpu.orders import LONGEST_STEPS, Answer, Held, Order, Planned, Step
from benchmarks.reference_loop import ReferenceLoop
from tinygptv.data.batches.batching import Batch, Loader, load_tokenizer
from tinygptv.data.batches.loading import Batches
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.store.locations import local_path
from tinygptv.train import worker
from tinygptv.train.assemble import DTYPES, set_up
from tinygptv.train.batches import mixture_batches, open_loader
from tinygptv.train.deepspeed import accumulation_steps
from tinygptv.train.engine import parameter_groups
from tinygptv.train.job import METRICS, Job, read_metrics
from tinygptv.train.planning.estimate import StageEstimator
from tinygptv.train.planning.fitting import resolve_checkpointing


def ours(order: Order, folder: Path) -> Answer:
    """Run our training loop in this process as the only rank."""
    planned, job = plan(order)
    limit_memory(job.hardware)
    job_file = folder / "job.json"
    job_file.write_text(job.model_dump_json())
    (folder / METRICS).unlink(missing_ok=True)
    with contextlib.suppress(torch.OutOfMemoryError):
        worker.train(job_file, lambda doing: None, functools.partial(_our_batches, order), _our_model)
    held = peak_memory(job.hardware)  # before anything else is allocated
    taken = [
        Step(
            seconds=row["seconds"],
            samples=job.stage.global_batch_size,
            tokens=round(row["tokens_per_second"] * row["seconds"]),
            loss=row["loss"],
        )
        for row in read_metrics(folder / METRICS)
    ]
    return _answer(order, taken, held, planned)


def reference(order: Order, folder: Path) -> Answer:
    """Run the published loop."""
    limit_memory(order.job.hardware)
    taken: list[Step] = []
    with contextlib.suppress(torch.OutOfMemoryError):
        loop = PublishedLoop(order.job, in_halves=order.job.hardware.device == "cuda")
        for number in range(order.warm_up + order.steps):
            taken.append(loop.step(order.job.mixture, number))
        for number in range(LONGEST_STEPS):
            taken.append(loop.step(order.longest, number))
    return _answer(order, taken, peak_memory(order.job.hardware), None)


def plan(order: Order) -> tuple[Planned, Job]:
    """The plan of the stage, and the job with the plan's settings."""
    estimator = StageEstimator(order.recipe, order.job.stage.stage)
    hardware = resolve_checkpointing(estimator, order.job.hardware)
    memory, (per_sample, per_token) = estimator.memory(hardware), estimator.flops(hardware)
    flops = {"flops_per_sample": per_sample, "flops_per_token": per_token}
    checkpointing = bool(hardware.gradient_checkpointing)
    planned = Planned(total=memory.total, runtime=memory.runtime, gradient_checkpointing=checkpointing, **flops)
    return planned, order.job.model_copy(update={"hardware": hardware, **flops})


@dataclass(frozen=True)
class _UsualThenLongest:
    """Batches of one mixture until step `change_at`, then those of another from its first step."""

    usual: Batches
    longest: Batches
    change_at: int

    @property
    def sources(self) -> list[str]:
        return [*self.usual.sources, *self.longest.sources]

    def micro_batches(self, step: int, rank: int, ranks: int, micro_batch_size: int) -> list[Batch]:
        if step < self.change_at:
            return self.usual.micro_batches(step, rank, ranks, micro_batch_size)
        return self.longest.micro_batches(step - self.change_at, rank, ranks, micro_batch_size)


def _our_batches(order: Order, job: Job, num_image_tokens: int, on_loss: Callable[[str], None]) -> Batches:
    longest = job.model_copy(update={"mixture": order.longest})
    usual, longest_ones = (mixture_batches(one, num_image_tokens, on_loss) for one in (job, longest))
    return _UsualThenLongest(usual, longest_ones, order.warm_up + order.steps)


def _our_model(job: Job) -> VisionLanguageModel:
    model = random_model(job, lambda name: DTYPES[job.hardware.precision])
    reset_peak(job.hardware)
    return set_up(model, job.model, job.stage, bool(job.hardware.gradient_checkpointing))


class PublishedLoop:
    """LAVIS's loop around the published forward pass with random weights; mixed fp16 precision on a GPU."""

    def __init__(self, job: Job, in_halves: bool) -> None:
        self._job, self._device = job, job.hardware.device
        model = random_model(job, as_published if in_halves else lambda name: torch.float32)
        reset_peak(job.hardware)
        set_up(model, job.model, job.stage, gradient_checkpointing=False)
        self._tokens_per_image = model.num_image_tokens
        tokenizer = load_tokenizer(local_path(job.model.language_model.tokenizer))
        self._forward = ReferenceLoop(model, tokenizer, job.stage.inputs)
        groups = parameter_groups(model, job.stage.optimizer)
        self._optimizer = torch.optim.AdamW(groups, lr=job.stage.schedule.warmup_lr)
        self._scaler = torch.amp.GradScaler(self._device, enabled=in_halves)
        self._autocast = functools.partial(torch.autocast, self._device, torch.float16, enabled=in_halves)

    def step(self, mixture: str, number: int) -> Step:
        """Take step `number` of a mixture, in micro-batches of the profile's size."""
        tokens, pieces = self._drawn(mixture, number)
        self._wait()
        started, losses = time.perf_counter(), list[float]()
        for pixels, instructions, answers in pieces:
            with self._autocast():
                loss = self._forward(pixels, instructions, answers)
            self._scaler.scale(loss).backward()
            losses.append(loss.item())
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        self._wait()
        seconds, mean = time.perf_counter() - started, statistics.fmean(losses)
        loss_or_none = mean if math.isfinite(mean) else None
        return Step(seconds=seconds, samples=self._job.stage.global_batch_size, tokens=tokens, loss=loss_or_none)

    def _drawn(self, mixture: str, number: int) -> tuple[int, list[tuple[Tensor, list[str], list[str]]]]:
        """Number of non-padding tokens; and images, instructions and answers of each micro-batch."""
        loader, total = self._loader(mixture), self._job.stage.global_batch_size
        size = total // accumulation_steps(total, 1, self._job.hardware.micro_batch_size)
        batches = loader.micro_batches(number, 0, 1, size)
        turns = [turn for drawn in loader.drawn(number, range(total)) for turn in drawn.turns]
        texts = [turns[start : start + size] for start in range(0, total, size)]
        tokens = sum(int(batch.attention_mask.sum()) for batch in batches)
        return tokens, [
            (batch.images(self._device), [turn.instruction for turn in some], [turn.answer for turn in some])
            for batch, some in zip(batches, texts, strict=True)
        ]

    @functools.cache  # noqa: B019 - lives as long as the process
    def _loader(self, mixture: str) -> Loader:
        apart = self._job.hardware.model_copy(update={"packing": False})
        job = self._job.model_copy(update={"mixture": mixture, "hardware": apart})
        return open_loader(job, self._tokens_per_image)

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def _answer(order: Order, taken: list[Step], held: Held, planned: Planned | None) -> Answer:
    """Build the answer. Typical steps count only if all were taken; of the longest, only the last counts."""
    usual, name = order.warm_up + order.steps, platform.processor() or platform.machine()
    if order.job.hardware.device == "cuda":
        name = torch.cuda.get_device_name(0)
    return Answer(
        device=name,
        first_loss=taken[0].loss if taken else None,
        taken=taken[order.warm_up : usual] if len(taken) >= usual else [],
        longest=taken[-1] if len(taken) == usual + LONGEST_STEPS else None,
        held=held,
        planned=planned,
    )


def main() -> None:
    """Run one side and write its answer."""
    side, order, answer = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    measure = {"ours": ours, "reference": reference}[side]
    answer.write_text(measure(Order.model_validate_json(order.read_text()), order.parent).model_dump_json())
    sys.stdout.flush()
    os._exit(0)  # a normal exit would wait for a collective operation without peers


if __name__ == "__main__":
    main()
