"""The stage's model and the DeepSpeed engine that trains it; the only place that starts DeepSpeed."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import logger as deepspeed_logger
from torch import nn

from tinygptv.definitions.recipe import Optimizer
from tinygptv.models.nf4 import map_weights
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import LORA, Handoff, empty_model, load_weights, parameters_by_name, trained_file
from tinygptv.train.allocator import LARGE_MODEL_BYTES, return_large_blocks
from tinygptv.train.assemble import DTYPES, set_up
from tinygptv.train.deepspeed import Disk, deepspeed_config
from tinygptv.train.disk import build_extension
from tinygptv.train.freezing import decays, trainable_names
from tinygptv.train.holdings import open_holdings, prepare_moments
from tinygptv.train.job import Job
from tinygptv.train.objective import Learner, load_objective
from tinygptv.train.schedule import learning_rate


def join_ranks(job: Job) -> None:
    """Join the process group; returns when all ranks have joined."""
    deepspeed_logger.setLevel(logging.WARNING)
    # Without this empty table, gloo waits minutes for a C++ compiler to build extensions of no measurable gain.
    deepspeed.ops.__compatible_ops__ = {}
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if job.hardware.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed("nccl" if job.hardware.device == "cuda" else "gloo", verbose=False)


def build_model(job: Job) -> VisionLanguageModel:
    """The stage's model: backbones, then what earlier stages trained, all frozen except what `trains` names.

    It is loaded in the precision of the hardware profile, or with its base in 4 bits, so that loading needs no more
    memory than the model. If the job has features, the parts that made them are neither read nor kept.
    """
    model, dtype = empty_model(job.model, job.stage.inputs.image_size, job.lora), DTYPES[job.hardware.precision]
    if dtype.itemsize * sum(parameter.numel() for parameter in model.parameters()) > LARGE_MODEL_BYTES:
        return_large_blocks()
    prefix = job.stage.frozen_prefix(job.model) if job.features else ()
    unread = (*prefix, *load_objective(job.stage.objective).unused)
    in_nf4 = map_weights(parameters_by_name(model)) if job.hardware.quantize_base == "nf4" else ()
    handoff = open_handoff(job, model)
    load_weights(model, job.model, handoff=handoff, dtype=dtype, seed=job.seed, unread=unread, in_nf4=in_nf4)
    set_up(model, job.model, job.stage, bool(job.hardware.gradient_checkpointing))
    if prefix:
        model.split_prefix(len(prefix))
    return model


def open_handoff(job: Job, model: nn.Module) -> Handoff | None:
    """What must come from the previous stage: all that it and earlier ones trained. Of weights from outside: what this
    stage trains, except adapters that start fresh."""
    if job.previous is None:
        return None
    names = trainable_names(job.model, parameters_by_name(model).keys(), job.inherits or job.stage.trains)
    begins_anew = job.stage.lora is not None and job.stage.lora.init == "fresh"
    required = {name for name in names if not (begins_anew and LORA.search(name))}
    return Handoff(Path(job.previous), required, job.lora)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters this stage trains, by plain name, in the model's order."""
    return {name: parameter for name, parameter in parameters_by_name(model).items() if parameter.requires_grad}


def open_engine(job: Job, model: VisionLanguageModel, swapping: Path | None = None) -> deepspeed.DeepSpeedEngine:
    """An engine before its first step. It swaps to the folder `swapping` if the profile offloads to a disk."""
    settings, disk = job.stage.optimizer, None
    if swapping:
        build_extension()
        disk = Disk(swapping, max(parameter.numel() for parameter in model.parameters()))
    adamw = torch.optim.AdamW(
        parameter_groups(model, settings),
        lr=learning_rate(job.stage.schedule, 0),
        betas=(settings.beta1, settings.beta2),
        fused=job.hardware.offload == "none",
    )
    learner = Learner(model, load_objective(job.stage.objective))
    config = deepspeed_config(job.stage, job.hardware, disk)
    if disk and job.hardware.offload == "optimizer_and_parameters":
        # The engine would do this itself, but always in bf16 on a device without fp16 arithmetic.
        deepspeed.zero.Init(module=learner, config_dict_or_path=config, remote_device="nvme")
    engine, *_ = deepspeed.initialize(model=learner, optimizer=adamw, config=config)
    prepare_moments(engine)
    if job.previous is not None and job.hardware.precision != "fp32":
        _hand_over_in_full(job, engine, trained_parameters(model))
    return engine


def parameter_groups(model: VisionLanguageModel, optimizer: Optimizer) -> list[dict[str, Any]]:
    """The trainable parameters in two groups: with weight decay and without."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in trained_parameters(model).items():
        groups[decays(name, parameter.shape)].append(parameter)
    return [
        {"params": parameters, "weight_decay": optimizer.weight_decay if decayed else 0.0}
        for decayed, parameters in groups.items()
        if parameters
    ]


def _hand_over_in_full(job: Job, engine: deepspeed.DeepSpeedEngine, parameters: dict[str, nn.Parameter]) -> None:
    """Give the optimizer the previous stage's weights in 32 bits; it was initialised from the model's 16."""
    assert job.previous is not None
    holdings = open_holdings(engine)
    for name, stored in sorted(trained_file(Path(job.previous), job.model, job.lora).tensors.items()):
        if name in parameters:
            holdings.write(parameters[name], "value", stored.read().to(engine.device, torch.float32))
