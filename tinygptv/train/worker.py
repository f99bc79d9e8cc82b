"""What each rank runs: the one training loop.

Everything a step does is a function of (job, step): which samples, which dropout, which rate. Resuming therefore needs
the parameters, the optimizer's moments and a step number, nothing else. The loss is the mean over all labelled tokens
of the global batch, however it is cut into ranks and micro-batches, so that hardware does not change what is learned.
"""

import functools
import json
import logging
import math
import os
import resource
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, Protocol

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import logger as deepspeed_logger
from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param
from torch import Tensor, nn

from tinygptv.artifacts import Store
from tinygptv.data.batching import Batch, Loader, load_tokenizer
from tinygptv.data.drawing import order_seed
from tinygptv.definitions.recipe import Optimizer, Schedule
from tinygptv.errors import TrainingError
from tinygptv.locations import local_path
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import (
    LORA,
    Handoff,
    empty_model,
    load_weights,
    parameters_by_name,
    save_trained,
    trained_file,
)
from tinygptv.sample import IGNORE_INDEX
from tinygptv.train import checkpoint
from tinygptv.train.assemble import DTYPES, set_up
from tinygptv.train.deepspeed import deepspeed_config
from tinygptv.train.freezing import decays, trainable_names
from tinygptv.train.schedule import begins_round, learning_rate, total_steps
from tinygptv.train.stage import CHECKPOINTS, METRICS, TRAINED, Job, read_metrics

logger = getLogger(__name__)

_PROGRESS_SECONDS = 2.0


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
    _join(job)
    model = build_model(job)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    engine = _engine(job, model)
    _hand_over_in_full(job, model)
    begin = checkpoint.resume(engine, folder / CHECKPOINTS)
    steps = total_steps(job.stage.schedule)
    logger.info(
        "%s: %d trainable parameters, steps %d to %d on %d ranks under ZeRO-%d",
        job.stage.stage,
        trainable,
        begin,
        steps,
        dist.get_world_size(),
        job.hardware.zero_stage,
    )
    _steps(job, engine, batches(job, model), folder, range(begin, steps))
    trained = _gather(job, model)
    if dist.get_rank() == 0:
        save_trained(trained, folder / TRAINED)
    dist.barrier()


def build_model(job: Job) -> VisionLanguageModel:
    """The stage's model: backbones, then what earlier stages trained, then frozen but for what `trains` names.

    It is in the precision of the hardware profile from the start, so that its peak in memory is what it will weigh.
    """
    model = empty_model(job.model, job.stage.inputs.image_size, job.lora)
    parameters = parameters_by_name(model)
    dtype = DTYPES[job.hardware.precision]
    load_weights(model, job.model, handoff=_handoff(job, parameters), dtype=dtype, seed=job.seed)
    parameters = parameters_by_name(model)
    return set_up(model, job.stage.trains, job.hardware.gradient_checkpointing)


def parameter_groups(model: VisionLanguageModel, optimizer: Optimizer) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: those weight decay pulls on, and the others."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in parameters_by_name(model).items():
        if parameter.requires_grad:
            groups[decays(name, parameter.shape)].append(parameter)
    return [
        {"params": parameters, "weight_decay": optimizer.weight_decay if decayed else 0.0}
        for decayed, parameters in groups.items()
        if parameters
    ]


@dataclass
class _Totals:
    """What the ranks of a step add up to."""

    loss: float
    tokens: int


def _join(job: Job) -> None:
    deepspeed_logger.setLevel(logging.WARNING)
    # An empty table of extensions: else gloo waits minutes for a C++ compiler, for a gain that is lost in the noise.
    deepspeed.ops.__compatible_ops__ = {}
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if job.hardware.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed("nccl" if job.hardware.device == "cuda" else "gloo", verbose=False)


def _engine(job: Job, model: VisionLanguageModel) -> deepspeed.DeepSpeedEngine:
    settings = job.stage.optimizer
    adamw = torch.optim.AdamW(
        parameter_groups(model, settings),
        lr=learning_rate(job.stage.schedule, 0),
        betas=(settings.beta1, settings.beta2),
        fused=job.hardware.offload == "none",
    )
    engine, *_ = deepspeed.initialize(model=model, optimizer=adamw, config=deepspeed_config(job.stage, job.hardware))
    return engine


def _hand_over_in_full(job: Job, model: VisionLanguageModel) -> None:
    """Give the optimizer what the stage before trained, in 32 bits: it began with the model's 16."""
    if job.previous is None or job.hardware.precision == "fp32":
        return
    parameters = parameters_by_name(model)
    for name, stored in trained_file(Path(job.previous), job.model, job.lora).tensors.items():
        if parameters[name].requires_grad:
            safe_set_full_fp32_param(parameters[name], stored.read().to(parameters[name].device, torch.float32))


def _handoff(job: Job, parameters: dict[str, nn.Parameter]) -> Handoff | None:
    """What must come from the stage before: all that it and its forebears trained, or, for weights from outside, what
    this stage trains, but for adapters that begin anew."""
    if job.previous is None:
        return None
    names = trainable_names(parameters.keys(), job.inherits or job.stage.trains)
    begins_anew = job.stage.lora is not None and job.stage.lora.init == "fresh"
    required = {name for name in names if not (begins_anew and LORA.search(name))}
    return Handoff(Path(job.previous), required, job.lora)


def _steps(job: Job, engine: deepspeed.DeepSpeedEngine, batches: Batches, folder: Path, steps: range) -> None:
    schedule, rank = job.stage.schedule, dist.get_rank()
    metrics = _Metrics(job, folder / METRICS, steps.start) if rank == 0 else None
    for step in steps:
        started = time.monotonic()
        if begins_round(schedule, step):
            _forget_moments(engine)
        rate = learning_rate(schedule, step)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        totals = _step(job, engine, batches, step)
        if metrics:
            metrics.write(step, totals, rate, engine.get_global_grad_norm(), time.monotonic() - started)
        done = step + 1
        if done % job.stage.checkpoint_every == 0 and done < steps.stop:
            checkpoint.save(engine, folder / CHECKPOINTS, done)


def _step(job: Job, engine: deepspeed.DeepSpeedEngine, batches: Batches, step: int) -> _Totals:
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
    return _Totals(total, int(all_tokens))


def _sum_over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def _seed(*numbers: int) -> int:
    return functools.reduce(lambda seed, number: (seed * 1_000_003 + number) % 2**63, numbers)


def _to(engine: deepspeed.DeepSpeedEngine, batch: Batch) -> tuple[Tensor, ...]:
    dtype = next(engine.module.parameters()).dtype
    texts = (batch.input_ids, batch.attention_mask, batch.labels)
    return batch.pixel_values.to(engine.device, dtype), *(tensor.to(engine.device) for tensor in texts)


def _check_finite(loss: float, step: int, batch: Batch, job: Job) -> None:
    """All ranks see the same sum, so all of them stop here together, before the step is taken."""
    if not math.isfinite(loss):
        keys = ", ".join(batch.keys[:8])
        raise TrainingError(
            f"{job.stage.stage}, step {step + 1}: the loss is {loss}; the last good checkpoint is kept. Samples here: "
            f"{keys or 'unnamed'}. Lower peak_lr, set clip_norm, or look at these samples"
        )


def _forget_moments(engine: deepspeed.DeepSpeedEngine) -> None:
    """A new round begins with a new optimizer, as when a run is started by hand once more."""
    for state in engine.optimizer.state.values():
        for moment in state.values():
            moment.zero_()


def _gather(job: Job, model: VisionLanguageModel) -> dict[str, Tensor]:
    """All that was trained so far, by this stage and before it; a collective call under ZeRO-3."""
    parameters = parameters_by_name(model)
    names = trainable_names(parameters.keys(), job.stage.trains)
    if handoff := _handoff(job, parameters):
        # All of it, also what this recipe's stages do not train: a published checkpoint may hold a Q-Former.
        names |= trained_file(handoff.path, job.model).tensors.keys()
    gathered = {name: safe_get_full_fp32_param(parameters[name]) for name in sorted(names)}
    return {name: parameters[name] if full is None else full for name, full in gathered.items()}


class _Metrics:
    """metrics.jsonl, one line per step, and a progress line every few seconds."""

    def __init__(self, job: Job, path: Path, begin: int) -> None:
        self._job, self._schedule = job, job.stage.schedule
        kept = read_metrics(path)[:begin]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", buffering=1)
        self._told = 0.0

    def write(self, step: int, totals: _Totals, rate: float, grad_norm: Any, seconds: float) -> None:
        """Record what step `step`, counted from 0, did."""
        samples = self._job.stage.global_batch_size / seconds
        row = {
            "step": step + 1,
            "round": step // self._schedule.steps + 1,
            "loss": totals.loss,
            "lr": rate,
            "grad_norm": None if grad_norm is None else float(grad_norm),
            "samples_per_second": round(samples, 2),
            "tokens_per_second": round(totals.tokens / seconds, 1),
            "seconds": round(seconds, 5),
            "peak_memory_bytes": _peak_memory(self._job),
            "tombstones": self._job.tombstones,
        }
        self._file.write(json.dumps(row) + "\n")
        last = step + 1 == total_steps(self._schedule)
        if last or time.monotonic() - self._told >= _PROGRESS_SECONDS:
            self._told = time.monotonic()
            logger.info("%s", progress_line(self._job.stage.stage, self._schedule, row))


def progress_line(stage: str, schedule: Schedule, row: dict[str, Any]) -> str:
    """`stage1 120/300 loss 1.2340 lr 3.00e-03 310 samples/s`."""
    done, speed = f"{row['step']}/{total_steps(schedule)}", row["samples_per_second"]
    return f"{stage} {done} loss {row['loss']:.4f} lr {row['lr']:.2e} {speed:.0f} samples/s"


def _peak_memory(job: Job) -> int:
    if job.hardware.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
