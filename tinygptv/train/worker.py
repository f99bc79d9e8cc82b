"""What each rank runs: the one training loop.

Everything a step does is a function of (job, step) and of what was left out: which samples, which dropout, which rate.
Resuming therefore needs the parameters, the optimizer's moments and a step number, nothing else. What the loss is, the
stage's objective says (see `objective`); every part of it is a mean over the global batch, however that is cut into
ranks and micro-batches, so that hardware does not change what is learned.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tinygptv.data.batches.batching import Batch
from tinygptv.data.batches.loading import Batches
from tinygptv.errors import TrainingError
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.train.checkpoint import Checkpoints
from tinygptv.train.disk import swap_folder
from tinygptv.train.engine import build_model, join_ranks, open_engine, trained_parameters
from tinygptv.train.events import read_events, record
from tinygptv.train.gradients import norm_before_step, norm_of_step
from tinygptv.train.holdings import forget_moments
from tinygptv.train.job import CHECKPOINTS, METRICS, TRAINED, Job, read_metrics
from tinygptv.train.metrics import Losses, Metrics, StepResult
from tinygptv.train.objective import Objective, load_objective, summed
from tinygptv.train.schedule import begins_round, learning_rate, total_steps
from tinygptv.train.tensors import save_trained
from tinygptv.train.watch import MEDIAN_OF, Trouble, Watcher, in_words, position, skips, steps_to_skip

logger = getLogger(__name__)

Beat = Callable[[str], None]
OpenBatches = Callable[[Job, int, Callable[[str], None]], Batches]
"""From a job, the number of tokens of an image, and what is called with a message for every lost worker."""
BuildModel = Callable[[Job], VisionLanguageModel]


def train(job_file: Path, beat: Beat, open_batches: OpenBatches | None = None, build: BuildModel = build_model) -> None:
    """Train, from the newest good checkpoint if there is one, and leave the trained tensors next to the job file.

    `open_batches` gives the batches, by default those of the stage's objective; `build` gives the model, by default
    that of the job's files. `beat` is called with what comes next, as a sign of life. Raises TrainingError if the
    stage's `watch` says so.
    """
    job, folder = Job.model_validate_json(job_file.read_text()), job_file.parent
    objective = load_objective(job.stage.objective)
    join_ranks(job)
    if job.features and dist.get_rank() == 0:
        parts = ", ".join(["vision_encoder", *(part.part for part in job.stage.frozen_connector(job.model))])
        record(folder, "features_used", artifact=job.features, instead_of=parts)
    beat("building the model")
    model = build(job)
    beat("opening the mixture")
    rank = dist.get_rank()
    lost = functools.partial(record, folder, "loader_lost", rank=rank)
    open_batches = open_batches or objective.open_batches
    batches = open_batches(job, model.num_image_tokens, lambda message: lost(told=message))
    with swap_folder(job.hardware) as swapping:
        training = _Training(job, folder, model, objective, batches, beat, swapping)
        try:
            training.run()
        finally:
            training.finish()
        beat("writing what was trained")
        save_trained(job, training.engine, model, folder / TRAINED)
        dist.barrier()


class _Training:
    """The training loop of one rank."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        model: VisionLanguageModel,
        objective: Objective,
        batches: Batches,
        beat: Beat,
        swapping: Path | None,
    ) -> None:
        self._job, self._folder, self._batches, self._beat = job, folder, batches, beat
        self._objective = objective
        self._rank, self._ranks = dist.get_rank(), dist.get_world_size()
        self._steps = total_steps(job.stage.schedule)
        parameters = trained_parameters(model)
        beat("opening the engine")
        self.engine = open_engine(job, model, swapping)
        self._checkpoints = Checkpoints(self.engine, parameters, folder / CHECKPOINTS, job.lineage(), job.stage)
        beat("reading a checkpoint")
        self._step = self._checkpoints.resume()
        events, last_steps = self._from_rank_0(lambda: (read_events(folder), recent(folder / METRICS, self._step)))
        self._skipped, self._roll_backs = skips(events), sum(event["event"] == "rolled_back" for event in events)
        self._watcher = Watcher(job.stage.watch, last_steps)
        self._metrics = Metrics(job, folder / METRICS, self._step) if self._rank == 0 else None
        logger.info(
            "%s: %d trainable parameters, steps %d to %d on %d ranks under ZeRO-%d",
            job.stage.stage,
            sum(parameter.numel() for parameter in parameters.values()),
            self._step,
            self._steps,
            self._ranks,
            job.hardware.zero_stage,
        )
        if self._rank == 0:
            logger.info("%s: %s", job.stage.stage, in_words(job.stage.watch, job.hardware.precision))

    def run(self) -> None:
        """Take the remaining steps."""
        watch, every = self._job.stage.watch, self._job.stage.checkpoint_every
        if watch.then == "roll_back" and self._step == 0:
            self._checkpoints.save(0, None)
        while self._step < self._steps:
            result, keys = self._take()
            if trouble := self._watcher.judge(result.loss, result.grad_norm, result.terms):
                self._recover(trouble, keys)
                continue
            if self._metrics:
                self._metrics.write(self._step, position(self._step, self._skipped), result)
            self._step += 1
            self._checkpoints.check()
            if self._step % every == 0 and self._step < self._steps:
                if self._metrics:
                    self._metrics.sync()
                self._checkpoints.save(self._step, self._watcher.recent_loss)

    def finish(self) -> None:
        """Wait until the last checkpoint is on disk, also after a failure."""
        try:
            self._checkpoints.wait()
        finally:
            if self._metrics:
                self._metrics.close()

    def _take(self) -> tuple[StepResult, list[str]]:
        """One optimizer step: its result over all ranks, and the keys of this rank's samples."""
        started = time.monotonic()
        rate = self._set_rate()
        self._beat(f"step {self._step + 1}: drawing its batch")
        drawn = position(self._step, self._skipped)
        micro_batches = self._batches.micro_batches(
            drawn, self._rank, self._ranks, self.engine.train_micro_batch_size_per_gpu()
        )
        self._record_replaced(micro_batches, drawn)
        owners = [self._objective.terms(batch) for batch in micro_batches]
        own_terms = [sum(len(one[part]) for one in owners) for part in self._objective.parts]
        own_tokens = sum(int(batch.attention_mask.sum()) for batch in micro_batches)
        own_samples = sum(len(batch.keys) for batch in micro_batches)
        *terms, tokens, samples = self._sum_over_ranks([*own_terms, own_tokens, own_samples])
        losses, norm = self._learn(micro_batches, owners, dict(zip(self._objective.parts, terms, strict=True)), drawn)
        dist.all_reduce(losses.sums)
        result = StepResult(
            loss=losses.total,
            losses=losses.by_source(),
            parts=losses.by_part(),
            terms=int(sum(terms)),
            tokens=int(tokens),
            samples=int(samples),
            rate=rate,
            grad_norm=norm_of_step(self.engine, norm),
            seconds=time.monotonic() - started,
        )
        return result, [key for batch in micro_batches for key in batch.keys]

    def _set_rate(self) -> float:
        """Set and return the learning rate of this step; at the start of a round, reset the optimizer's moments."""
        schedule = self._job.stage.schedule
        if begins_round(schedule, self._step):
            forget_moments(self.engine)
        rate = learning_rate(schedule, self._step)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _learn(
        self,
        micro_batches: Sequence[Batch],
        owners: Sequence[dict[str, Tensor]],
        terms: dict[str, float],
        drawn: int,
    ) -> tuple[Losses, float | None]:
        """Run all micro-batches forward and backward, then the optimizer's step.

        `owners`: of each micro-batch, what the objective's `terms` gives; `terms`: how many each part has over all
        ranks. Returns this rank's losses, and the gradient norm if it is known before the step.
        """
        engine, weights = self.engine, self._objective.parts
        losses, norm = Losses(weights, self._batches.sources, engine.device), None
        dtype = next(engine.module.parameters()).dtype
        for number, (batch, owned) in enumerate(zip(micro_batches, owners, strict=True)):
            self._beat(f"step {self._step + 1}: piece {number + 1} of {len(micro_batches)}")
            # A component with its own batch size may make fewer micro-batches than the stage is configured for.
            engine.set_gradient_accumulation_boundary(number + 1 == len(micro_batches))
            # Dropout is seeded by micro-batch, not by rank: the same micro-batches on fewer ranks learn the same.
            torch.manual_seed(_seed(self._job.seed, drawn, self._rank * len(micro_batches) + number))
            found = engine(*self._objective.inputs(batch, engine.device, dtype))
            shares = {
                part: mean * (weights[part] * len(owned[part]) / max(1, terms[part]))
                for part, (mean, _) in found.items()
            }
            # DeepSpeed averages over ranks; the shares must add up.
            engine.backward(summed(shares) * self._ranks, scale_wrt_gas=False)
            for part, share in shares.items():
                losses.add(part, share.detach(), found[part][1], owned[part], batch.sources)
            del found, shares, share
            if number + 1 == len(micro_batches):
                norm = norm_before_step(engine)
            engine.step()
        return losses, norm

    def _record_replaced(self, micro_batches: Sequence[Batch], drawn: int) -> None:
        """Record an event for every sample that was replaced."""
        for one in (one for batch in micro_batches for one in batch.replaced):
            where = {"step": self._step + 1, "batch": drawn + 1, "rank": self._rank}
            record(self._folder, "sample_replaced", **where, **asdict(one))

    def _recover(self, trouble: Trouble, keys: list[str]) -> None:
        """Roll back to the last good checkpoint and skip batches, or raise TrainingError; all ranks together."""
        watch, at = self._job.stage.watch, self._step
        by_rank: list[list[str]] = [[] for _ in range(self._ranks)]
        dist.all_gather_object(by_rank, keys)
        everyone = [key for keys in by_rank for key in keys]
        if self._rank == 0:
            record(self._folder, trouble.event, step=at + 1, told=trouble.message, keys=everyone)
        where = f"{self._job.stage.stage}, step {at + 1}: {trouble.message}"
        shown = ", ".join(everyone[:8]) or "unnamed"
        if watch.then == "halt" or self._roll_backs == watch.retries:
            tried = f" after {self._roll_backs} roll-backs" if self._roll_backs else ""
            raise TrainingError(f"{where}{tried}. The last good checkpoint is kept. Samples of the step: {shown}")
        self._step = self._checkpoints.resume()
        skipped = steps_to_skip(at, self._step, self._skipped, watch.skip_steps)
        self._skipped, self._roll_backs = sorted({*self._skipped, *skipped}), self._roll_backs + 1
        if self._rank == 0:
            record(self._folder, "rolled_back", step=at + 1, to_step=self._step, skipped=skipped)
        if self._metrics:
            self._metrics.rewind(self._step)
        self._watcher.restart(self._from_rank_0(lambda: recent(self._folder / METRICS, self._step)))

    def _from_rank_0(self, read: Callable[[], Any]) -> Any:
        """What rank 0 reads, sent to every rank, because other ranks may see files late."""
        value = [read() if self._rank == 0 else None]
        dist.broadcast_object_list(value)
        return value[0]

    def _sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64, device=self.engine.device)
        dist.all_reduce(tensor)
        return tensor.tolist()


def recent(metrics: Path, step: int) -> list[tuple[float, float | None]]:
    """Loss and gradient norm of the last steps before `step`."""
    return [(row["loss"], row["grad_norm"]) for row in read_metrics(metrics)[max(0, step - MEDIAN_OF) : step]]


def _seed(*numbers: int) -> int:
    return functools.reduce(lambda seed, number: (seed * 1_000_003 + number) % 2**63, numbers)
