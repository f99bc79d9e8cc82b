"""What an engine has learned, parameter by parameter, whole and in 32 bits, under every ZeRO stage.

ZeRO partitions the optimizer's tensors by rank: stages 1 and 2 cut one flat vector without regard to parameters, stage
3 cuts each parameter, padded. Stage 0 keeps them whole. Read and written through this module, a training can be resumed
under any stage, offload and number of ranks. Reading is collective: all ranks ask for the same tensor at the same time
and hold only that one.
"""

from collections.abc import Iterator
from typing import Any, Literal, Protocol

import torch
from deepspeed import DeepSpeedEngine, zero
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn
from torch import distributed as dist

Part = Literal["value", "exp_avg", "exp_avg_sq"]
MOMENTS: tuple[Part, ...] = ("exp_avg", "exp_avg_sq")
PARTS: tuple[Part, ...] = ("value", *MOMENTS)
"""Of every trained parameter: its value, and AdamW's two moments."""

_SCALE_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


class Holdings(Protocol):
    """Trained parameters of one engine."""

    def read(self, parameter: nn.Parameter, part: Part) -> Tensor:
        """A float32 copy of the whole tensor, the same on every rank; moments must exist (`prepare_moments`)."""

    def write(self, parameter: nn.Parameter, part: Part, whole: Tensor) -> None:
        """Set a whole tensor, which every rank passes in; a value is also written to the model in its precision."""


def open_holdings(engine: DeepSpeedEngine) -> Holdings:
    """The holdings of an engine, before or after its first step."""
    stage = engine.zero_optimization_stage()
    return _Whole(engine) if stage == 0 else _Partitioned() if stage == 3 else _Fragmented()


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape of the whole parameter, also where ZeRO-3 keeps only a partition."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def prepare_moments(engine: DeepSpeedEngine) -> None:
    """Create the optimizer state of a fresh engine, as AdamW would in its first step.

    Under ZeRO-1 and -2 this must happen before that step: DeepSpeed looks for moments after stepping the first
    parameter group, and never finds those of the others. Without ZeRO and in 16 bits, DeepSpeed has already taken a
    step with zero gradients, which only decays the weights; that is undone.
    """
    state = engine.basic_optimizer.state
    for parameter, copy in _copies(engine):
        copy.data.copy_(parameter)
    forget_moments(engine)
    for flat in _optimized(engine):
        if not state[flat]:
            state[flat] = {"step": torch.zeros((), device=flat.device)}
            state[flat] |= {moment: torch.zeros_like(flat.data) for moment in MOMENTS}
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def forget_moments(engine: DeepSpeedEngine) -> None:
    """Reset the optimizer's state, as starting the run again by hand would."""
    for flat in _optimized(engine):
        for moment in engine.basic_optimizer.state[flat].values():
            moment.zero_()


def steps_taken(engine: DeepSpeedEngine) -> int:
    """AdamW's own step count, without steps skipped for an overflow."""
    return next((int(state["step"]) for state in engine.basic_optimizer.state.values()), 0)


def set_steps_taken(engine: DeepSpeedEngine, steps: int) -> None:
    """Set the step count that AdamW uses for bias correction."""
    for state in engine.basic_optimizer.state.values():
        state["step"].fill_(steps)


def loss_scale(engine: DeepSpeedEngine) -> dict[str, Any]:
    """The state of the fp16 loss scaler; empty for other precisions."""
    scaler = _scaler(engine)
    return {field: getattr(scaler, field) for field in _SCALE_FIELDS if hasattr(scaler, field)} if scaler else {}


def set_loss_scale(engine: DeepSpeedEngine, scale: dict[str, Any]) -> None:
    """Restore the state of another engine's loss scaler; no effect unless both train in fp16."""
    scaler = _scaler(engine)
    for field, value in scale.items():
        if scaler is not None and hasattr(scaler, field):
            setattr(scaler, field, value)


def scaled_too_far(engine: DeepSpeedEngine) -> bool:
    """Whether fp16 skipped the last step because its scaled gradients overflowed; the next loss is scaled less.

    This is how the scale is found. DeepSpeed then reports an infinite norm, which is not a problem of the training;
    DeepSpeed stops by itself when there is no lower scale.
    """
    return bool(engine.fp16_enabled() and engine.optimizer.overflow)


class _Whole:
    """ZeRO-0: every rank has everything; 16-bit parameters have 32-bit copies."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self._state = engine.basic_optimizer.state
        self._copies = {id(parameter): copy for parameter, copy in _copies(engine)}

    def read(self, parameter: nn.Parameter, part: Part) -> Tensor:
        return self._tensor(parameter, part).detach().float().clone()

    def write(self, parameter: nn.Parameter, part: Part, whole: Tensor) -> None:
        self._tensor(parameter, part).data.copy_(whole)
        if part == "value":
            parameter.data.copy_(whole)

    def _tensor(self, parameter: nn.Parameter, part: Part) -> Tensor:
        copy = self._copies.get(id(parameter), parameter)
        return copy if part == "value" else self._state[copy][part]


class _Fragmented:
    """ZeRO-1 and -2: the model is whole on every rank, the optimizer's flat vector is partitioned."""

    def read(self, parameter: nn.Parameter, part: Part) -> Tensor:
        return _read(parameter, part)

    def write(self, parameter: nn.Parameter, part: Part, whole: Tensor) -> None:
        if part == "value":
            safe_set_full_fp32_param(parameter, whole)
            parameter.data.copy_(whole)
        else:
            safe_set_full_optimizer_state(parameter, whole, part)


class _Partitioned:
    """ZeRO-3: every parameter is partitioned into equal pieces, one per rank, the last one padded."""

    def read(self, parameter: nn.Parameter, part: Part) -> Tensor:
        return _read(parameter, part)

    def write(self, parameter: Any, part: Part, whole: Tensor) -> None:
        # Gathered, because DeepSpeed asks for the size of a partition, and one that is on a disk has none.
        with zero.GatheredParameters([parameter], modifier_rank=0 if part == "value" else None):
            size = parameter.ds_tensor.numel()
            padded = nn.functional.pad(whole.flatten(), (0, size * dist.get_world_size() - whole.numel()))
            piece = padded.narrow(0, size * dist.get_rank(), size)
            if part != "value":
                safe_set_local_optimizer_state(parameter, piece, part)
                return
            safe_set_local_fp32_param(parameter, piece)
            if dist.get_rank() == 0:
                parameter.data.copy_(whole)


def _read(parameter: nn.Parameter, part: Part) -> Tensor:
    if part == "value":
        return safe_get_full_fp32_param(parameter)
    return safe_get_full_optimizer_state(parameter, part)


def _copies(engine: DeepSpeedEngine) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Under ZeRO-0, 16-bit parameters with their 32-bit copies."""
    if engine.zero_optimization_stage() == 0 and hasattr(engine.optimizer, "fp32_groups"):
        for own, copies in zip(engine.optimizer.fp16_groups, engine.optimizer.fp32_groups, strict=True):
            yield from zip(own, copies, strict=True)


def _optimized(engine: DeepSpeedEngine) -> Iterator[Tensor]:
    """The tensors that AdamW steps on. One that is on a disk is in memory, with its state, only while it is the
    current one."""
    optimizer = engine.optimizer
    match engine.zero_optimization_stage():
        case 0:
            yield from (tensor for group in engine.basic_optimizer.param_groups for tensor in group["params"])
        case 3:
            for number, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
                on_disk = optimizer._swappable_optimizer_subgroup(number)
                if on_disk:
                    optimizer._optimizer_states_and_gradient_swap_in(number)
                yield flat
                if on_disk:
                    optimizer._optimizer_states_and_gradient_swap_out(number)
        case _:
            yield from optimizer.single_partition_of_fp32_groups


def _scaler(engine: DeepSpeedEngine) -> Any:
    if not engine.fp16_enabled():
        return None
    return getattr(engine.optimizer, "loss_scaler", None) or getattr(engine.optimizer, "loss_scale_config", None)
