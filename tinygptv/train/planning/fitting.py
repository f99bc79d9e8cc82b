"""Whether a stage fits a machine, and if not, which setting would make it fit."""

from collections.abc import Iterator
from typing import Any

from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.recipe import Stage
from tinygptv.definitions.trainable import DECODER
from tinygptv.errors import DefinitionError
from tinygptv.train.planning.estimate import GIB, StageEstimator, limit

MAX_RANKS = 64
HEADROOM = 0.1
"""Share of the memory that stays free where there is a choice, because part of a plan for a GPU is assumed."""


def resolve_checkpointing(estimator: StageEstimator, hardware: Hardware) -> Hardware:
    """The profile of this stage, with `gradient_checkpointing` decided.

    Activations are kept if a step then leaves HEADROOM of the memory free; otherwise, and where the profile does not
    say how much memory there is, they are recomputed.
    """
    if hardware.gradient_checkpointing != "if_needed":
        return hardware
    keeping = hardware.model_copy(update={"gradient_checkpointing": False})
    allowed = limit(hardware)
    fits = allowed is not None and estimator.memory(keeping).total <= (1 - HEADROOM) * allowed
    return keeping if fits else hardware.model_copy(update={"gradient_checkpointing": True})


def refuse_unfit(estimator: StageEstimator, hardware: Hardware, hardware_name: str) -> None:
    """Raise DefinitionError if a step of the stage needs more memory than the profile has; it names a remedy."""
    if (allowed := limit(hardware)) is None or (needed := estimator.memory(hardware).total) <= allowed:
        return
    raise DefinitionError(
        f"infra/hardware/{hardware_name}.yaml: {estimator.stage.stage} needs {_gib(needed)} per rank and there are "
        f"{_gib(allowed)}: {_gib(needed - allowed)} too few. {_remedy(estimator, hardware)}"
    )


def _remedy(estimator: StageEstimator, hardware: Hardware) -> str:
    """The first setting with which the stage would fit, or the memory it needs with all of them."""
    last: tuple[str, Hardware] | None = None
    for setting, changed in _settings(hardware, estimator.stage):
        if _fits(estimator, changed):
            return f"It would fit with {setting} ({_gib(estimator.memory(changed).total)})"
        last = setting, changed
    if last is None:
        return "No setting is left that would save memory; take a larger machine"
    return f"No setting makes it fit; the least is {_gib(estimator.memory(last[1]).total)} per rank, with {last[0]}"


def _fits(estimator: StageEstimator, hardware: Hardware) -> bool:
    """Whether a step fits. What is resident between steps is checked first, because that needs no tracing."""
    allowed = limit(hardware)
    return allowed is None or (estimator.resident(hardware) <= allowed and estimator.memory(hardware).total <= allowed)


def _settings(hardware: Hardware, stage: Stage) -> Iterator[tuple[str, Hardware]]:
    """Settings to try, cheapest first; each is combined with the earlier ones that keep the same machine."""

    def change(**fields: Any) -> tuple[str, Hardware]:
        changed.update(fields)
        settings = ", ".join(f"{name}: {str(value).lower()}" for name, value in changed.items())
        return settings, hardware.model_copy(update=changed)

    changed: dict[str, Any] = {}
    whole = hardware.quantize_base == "none"  # only then can ZeRO-3 cut it
    size = min(hardware.micro_batch_size, stage.global_batch_size // hardware.world_size)
    while size > 1:
        size //= 2
        yield change(micro_batch_size=size)
    if not hardware.gradient_checkpointing:
        changed.clear()
        yield change(gradient_checkpointing=True)
        yield change(micro_batch_size=1)
    if hardware.device == "cuda":
        ranks = hardware.ranks * 2
        while whole and ranks * hardware.nodes <= MAX_RANKS and stage.global_batch_size % (ranks * hardware.nodes) == 0:
            yield change(zero_stage=3, ranks=ranks)
            ranks *= 2
        changed.pop("ranks", None)
        yield change(zero_stage=max(2, hardware.zero_stage), offload="optimizer")
        if whole and DECODER not in stage.trains:
            yield change(zero_stage=2, offload_folder=None, quantize_base="nf4")
            del changed["quantize_base"], changed["offload_folder"]
        if whole:
            yield change(zero_stage=3, offload="optimizer_and_parameters")
    elif hardware.ranks > 1:
        yield change(ranks=1)
    if hardware.device == "cpu" and hardware.offload_folder:
        yield change(offload="optimizer_and_parameters")
    if hardware.precision == "fp32":
        yield change(precision="bf16")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
