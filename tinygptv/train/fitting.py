"""Whether a stage fits a machine, and if not, which setting would make it fit."""

from collections.abc import Iterator
from typing import Any

from tinygptv.definitions.hardware import Hardware
from tinygptv.errors import DefinitionError
from tinygptv.train.estimate import GIB, StageEstimator, limit

MOST_RANKS = 64


def refuse_unfit(estimator: StageEstimator, hardware: Hardware, hardware_name: str) -> None:
    """Raise DefinitionError if a step of the stage needs more memory than the profile has; it names a remedy."""
    allowed, needed = limit(hardware), estimator.memory(hardware).total
    if allowed is None or needed <= allowed:
        return
    raise DefinitionError(
        f"infra/hardware/{hardware_name}.yaml: {estimator.stage.stage} needs {_gib(needed)} per rank and there are "
        f"{_gib(allowed)}: {_gib(needed - allowed)} too few. {_remedy(estimator, hardware)}"
    )


def _remedy(estimator: StageEstimator, hardware: Hardware) -> str:
    """The first setting with which the stage would fit, or the least memory that any of them leads to."""
    smallest: tuple[int, str] | None = None
    for setting, changed in _settings(hardware, estimator.stage.global_batch_size):
        needed, allowed = estimator.memory(changed).total, limit(changed)
        if allowed is not None and needed <= allowed:
            return f"It would fit with {setting} ({_gib(needed)})"
        if smallest is None or needed < smallest[0]:
            smallest = needed, setting
    if smallest is None:
        return "No setting is left that would save memory; take a larger machine"
    return f"No setting makes it fit; the least is {_gib(smallest[0])} per rank, with {smallest[1]}"


def _settings(hardware: Hardware, global_batch_size: int) -> Iterator[tuple[str, Hardware]]:
    """What can be changed, from what costs least to what costs most; each on top of those that keep the machine."""

    def change(**fields: Any) -> tuple[str, Hardware]:
        changed.update(fields)
        told = ", ".join(f"{name}: {str(value).lower()}" for name, value in changed.items())
        return told, hardware.model_copy(update=changed)

    changed: dict[str, Any] = {}
    size = min(hardware.micro_batch_size, global_batch_size // hardware.world_size)
    while size > 1:
        size //= 2
        yield change(micro_batch_size=size)
    if not hardware.gradient_checkpointing:
        changed.clear()
        yield change(gradient_checkpointing=True)
        yield change(micro_batch_size=1)
    if hardware.device == "cuda":
        ranks = hardware.ranks * 2
        while ranks * hardware.nodes <= MOST_RANKS and global_batch_size % (ranks * hardware.nodes) == 0:
            yield change(zero_stage=3, ranks=ranks)
            ranks *= 2
        changed.pop("ranks", None)
        yield change(zero_stage=max(2, hardware.zero_stage), offload="optimizer")
        yield change(zero_stage=3, offload="optimizer_and_parameters")
    if hardware.precision == "fp32":
        yield change(precision="bf16")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
