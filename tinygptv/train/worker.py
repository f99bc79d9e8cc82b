"""What each rank runs: the one training loop.

Everything a step does is a function of (job, step): which samples, which dropout, which rate. Resuming therefore needs
the parameters, the optimizer's moments and a step number, nothing else. The loss is the mean over all labelled tokens
of the global batch, however it is cut into ranks and micro-batches, so that hardware does not change what is learned.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from logging import getLogger
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from torch import Tensor, nn

from tinygptv.artifacts import Store
from tinygptv.data.batching import Batch, Loader, load_tokenizer
from tinygptv.data.drawing import order_seed
from tinygptv.errors import TrainingError
from tinygptv.locations import local_path
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import trained_file
from tinygptv.sample import IGNORE_INDEX
from tinygptv.train.checkpoint import Checkpoints, write_tensors
from tinygptv.train.engine import build_model, join_ranks, open_engine, open_handoff, trained_parameters
from tinygptv.train.holdings import forget_moments, open_holdings, whole_shape
from tinygptv.train.metrics import Metrics, Totals
from tinygptv.train.schedule import begins_round, learning_rate, total_steps
from tinygptv.train.stage import CHECKPOINTS, METRICS, TRAINED, Job

logger = getLogger(__name__)


class Batches(Protocol):
    """Where a rank's share of a step comes from; `data.batching.Loader` in life."""

    def micro_batches(self, step: int, rank: int, ranks: int, micro_batch_size: int) -> list[Batch]:
        """Pieces of at most `micro_batch_size` samples."""


def train_from_mixture(job_file: Path) -> None:
    """Train the job on the mixture it names."""
    train(job_file, mixture_batches)


def mixture_batches(job: Job, model: VisionLanguageModel) -> Loader:
    """The batches of the mixture that the job names, in the order of its stage."""
    return Loader(
        Store(job.workdir),
        job.mixture,
        job.stage.inputs,
        load_tokenizer(local_path(job.model.language_model.tokenizer)),
        num_image_tokens=model.num_image_tokens,
        global_batch_size=job.stage.global_batch_size,
        seed=order_seed(job.seed, job.stage.stage),
        first_tombstones=job.tombstones,
    )


def train(job_file: Path, batches: Callable[[Job, VisionLanguageModel], Batches]) -> None:
    """Train, from the newest good checkpoint if there is one, and leave the trained tensors beside the job file."""
    job, folder = Job.model_validate_json(job_file.read_text()), job_file.parent
    join_ranks(job)
    model = build_model(job)
    parameters = trained_parameters(model)
    trainable = sum(parameter.numel() for parameter in parameters.values())
    engine = open_engine(job, model)
    checkpoints = Checkpoints(engine, parameters, folder / CHECKPOINTS, job.lineage())
    begin, steps = checkpoints.resume(), total_steps(job.stage.schedule)
    logger.info(
        "%s: %d trainable parameters, steps %d to %d on %d ranks under ZeRO-%d",
        job.stage.stage,
        trainable,
        begin,
        steps,
        dist.get_world_size(),
        job.hardware.zero_stage,
    )
    _steps(job, engine, batches(job, model), folder, checkpoints, range(begin, steps))
    checkpoints.wait()
    _save_trained(job, engine, model, folder / TRAINED)
    dist.barrier()


def _steps(
    job: Job, engine: DeepSpeedEngine, batches: Batches, folder: Path, checkpoints: Checkpoints, steps: range
) -> None:
    schedule = job.stage.schedule
    metrics = Metrics(job, folder / METRICS, steps.start) if dist.get_rank() == 0 else None
    for step in steps:
        started = time.monotonic()
        if begins_round(schedule, step):
            forget_moments(engine)
        rate = learning_rate(schedule, step)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        totals = _step(job, engine, batches, step)
        if metrics:
            metrics.write(step, totals, rate, _grad_norm(engine), time.monotonic() - started)
        checkpoints.check()
        done = step + 1
        if done % job.stage.checkpoint_every == 0 and done < steps.stop:
            if metrics:
                metrics.sync()
            checkpoints.save(done)


def _step(job: Job, engine: DeepSpeedEngine, batches: Batches, step: int) -> Totals:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    micro_batches = batches.micro_batches(step, rank, ranks, engine.train_micro_batch_size_per_gpu())
    counts = [int((batch.labels[:, 1:] != IGNORE_INDEX).sum()) for batch in micro_batches]
    tokens = sum(int(batch.attention_mask.sum()) for batch in micro_batches)
    labels, all_tokens = _sum_over_ranks([sum(counts), tokens], engine.device)
    loss_here = torch.zeros((), device=engine.device)
    for number, (batch, count) in enumerate(zip(micro_batches, counts, strict=True)):
        # Dropout belongs to the piece of the batch, not to the rank: the same pieces on fewer ranks learn the same.
        torch.manual_seed(_seed(job.seed, step, rank * len(micro_batches) + number))
        loss, _ = engine(*_to(engine, batch))
        share = loss * (count / max(1, labels))
        # DeepSpeed averages over micro-batches and ranks; the shares are to be added up.
        engine.backward(share * (ranks * len(micro_batches)))
        loss_here += share.detach()
        if number == len(micro_batches) - 1:
            (total,) = _sum_over_ranks([loss_here.item()], engine.device)
            _check_finite(total, step, batch, job)
        engine.step()
    return Totals(total, int(all_tokens))


def _sum_over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def _seed(*numbers: int) -> int:
    return functools.reduce(lambda seed, number: (seed * 1_000_003 + number) % 2**63, numbers)


def _to(engine: DeepSpeedEngine, batch: Batch) -> tuple[Tensor, ...]:
    dtype = next(engine.module.parameters()).dtype
    texts = (batch.input_ids, batch.attention_mask, batch.labels)
    return batch.pixel_values.to(engine.device, dtype), *(tensor.to(engine.device) for tensor in texts)


def _grad_norm(engine: DeepSpeedEngine) -> float | None:
    norm = engine.get_global_grad_norm()
    return None if norm is None else float(norm)


def _check_finite(loss: float, step: int, batch: Batch, job: Job) -> None:
    """All ranks see the same sum, so all of them stop here together, before the step is taken."""
    if not math.isfinite(loss):
        keys = ", ".join(batch.keys[:8])
        raise TrainingError(
            f"{job.stage.stage}, step {step + 1}: the loss is {loss}; the last good checkpoint is kept. Samples here: "
            f"{keys or 'unnamed'}. Lower peak_lr, set clip_norm, or look at these samples"
        )


def _save_trained(job: Job, engine: DeepSpeedEngine, model: nn.Module, path: Path) -> None:
    """Write all that was trained so far, by this stage and before it, in 32 bits, tensor by tensor."""
    parameters = trained_parameters(model)
    # All of it, also what this recipe's stages do not train: a published checkpoint may hold a Q-Former.
    handoff = open_handoff(job, model)
    carried = trained_file(handoff.path, job.model, job.lora).tensors if handoff else {}
    carried = {name: stored for name, stored in carried.items() if name not in parameters}
    shapes = {name: whole_shape(parameter) for name, parameter in parameters.items()}
    shapes |= {name: tuple(stored.shape) for name, stored in carried.items()}

    def tensors() -> Iterator[Tensor]:
        holdings = open_holdings(engine)
        for parameter in parameters.values():
            yield holdings.read(parameter, "value").cpu()
        for stored in carried.values():
            yield stored.read()

    if dist.get_rank() == 0:
        partial = path.with_suffix(".partial")
        write_tensors(partial, list(shapes.items()), tensors())
        partial.rename(path)
    else:
        for _ in tensors():
            pass
