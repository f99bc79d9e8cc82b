"""The norm of a step's gradients under every ZeRO stage, for the stage's `watch`.

Under ZeRO the optimizer computes it. Without ZeRO, DeepSpeed gives none in 32 bits, and in 16 bits one that still
contains the loss scale. It is then computed here: after the last backward pass, when gradients are reduced over all
ranks, and before the step, which clips and frees them.
"""

import torch
from deepspeed import DeepSpeedEngine

from tinygptv.errors import TrainingError
from tinygptv.train.holdings import loss_scale, scaled_too_far


def norm_before_step(engine: DeepSpeedEngine) -> float | None:
    """The norm of the whole batch's gradients before clipping, the same on every rank; None under ZeRO (see above).

    Call it after the backward pass of the last micro-batch.
    """
    if engine.zero_optimization_stage() > 0:
        return None
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    scale = loss_scale(engine).get("cur_scale", 1.0)
    return float(torch.linalg.vector_norm(torch.stack(norms))) / scale if norms else 0.0


def norm_of_step(engine: DeepSpeedEngine, before: float | None) -> float | None:
    """The norm of the step just taken, given the result of `norm_before_step`; None if fp16 skipped the step.

    Raises TrainingError if DeepSpeed does not report it, because then nothing would watch the gradients.
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
