"""The norm of a step's gradients, however DeepSpeed keeps them; what a stage's `watch` sees of them.

Under ZeRO the optimizer computes it. Without ZeRO there is none in 32 bits, and in 16 it has the loss scale in it. So
there it is computed here, between the last backward pass, after which the gradients are those of all ranks, and the
step, which clips them and lets them go.
"""

import torch
from deepspeed import DeepSpeedEngine

from tinygptv.errors import TrainingError
from tinygptv.train.holdings import loss_scale, scaled_too_far


def norm_before_step(engine: DeepSpeedEngine) -> float | None:
    """Of the whole batch's gradients, before clipping, the same on every rank; None under ZeRO, which tells it later.

    To be asked for once all pieces of the batch have gone backward.
    """
    if engine.zero_optimization_stage() > 0:
        return None
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    scale = loss_scale(engine).get("cur_scale", 1.0)
    return float(torch.linalg.vector_norm(torch.stack(norms))) / scale if norms else 0.0


def norm_of_step(engine: DeepSpeedEngine, before: float | None) -> float | None:
    """The norm for a step just taken, given what `norm_before_step` said; None if fp16 left the step out.

    Raises TrainingError if DeepSpeed does not tell it: nothing would watch the gradients then.
    """
    if scaled_too_far(engine):
        return None
    norm = engine.get_global_grad_norm() if before is None else before
    if norm is None:
        raise TrainingError(
            f"DeepSpeed gives no gradient norm under ZeRO-{engine.zero_optimization_stage()}, so exploding gradients "
            "would not be seen; choose another zero_stage in the hardware profile"
        )
    return float(norm)
