"""Estimates of a recipe's stages: one record per stage, and a table for people."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from tinygptv.definitions.hardware import Hardware
from tinygptv.train.planning.estimate import GIB, PROMPT_TOKENS, TYPICAL_ANSWER, StageEstimator, limit

Record = dict[str, Any]

_WIDTH = 12


def record(estimator: StageEstimator, hardware: Hardware) -> Record:
    """Everything that is known about a stage in advance; bytes per rank, operations per step of all ranks."""
    memory, work, size = estimator.memory(hardware), estimator.work(hardware), estimator.micro_batch_size(hardware)
    batch, total = estimator.stage.global_batch_size, sum(estimator.parameters.values())
    return {
        "stage": estimator.stage.stage,
        "parameters": {**estimator.parameters, "total": total, "trained": estimator.trainable},
        "memory_bytes": {**asdict(memory), "total": memory.total, "limit": limit(hardware)},
        "disk_bytes": estimator.on_disk(hardware),
        "ranks": hardware.world_size,
        "micro_batch_size": size,
        "gradient_accumulation_steps": batch // hardware.world_size // size,
        "gradient_checkpointing": bool(hardware.gradient_checkpointing),
        "longest_sequence": estimator.longest,
        "tokens_per_step": work.tokens,
        "forward_tflop": round(work.forward_flops / 1e12, 4),
        "backward_tflop": round(work.backward_flops / 1e12, 4),
        "steps": work.steps,
        "hours": None if work.hours is None else round(work.hours, 4),
    }


def table(records: Sequence[Record], hardware: Hardware) -> list[str]:
    """One column per stage, and the assumptions."""

    def row(name: str, cells: Iterable[str]) -> str:
        return f"{name:<22}" + "".join(f"{cell:>{_WIDTH}}" for cell in cells)

    def rows(group: str, show: Callable[[Any], str]) -> list[str]:
        return [row(f"  {name}", (show(one[group][name]) for one in records)) for name in records[0][group]]

    def plain(name: str, key: str, form: str = "d") -> str:
        return row(name, ("unknown" if one[key] is None else f"{one[key]:{form}}" for one in records))

    disk = row("swapped to disk, GiB", (f"{one['disk_bytes'] / GIB:.3f}" for one in records))
    speed = f"{hardware.utilisation:.0%} of {hardware.tflops} TFLOP/s per rank" if hardware.tflops else "unknown"
    prompt = (
        f"{PROMPT_TOKENS} tokens of prompt where there is a template, or more where a mixture is known to hold more"
    )
    return [
        row("", (one["stage"] for one in records)),
        "parameters, millions",
        *rows("parameters", lambda count: f"{count / 1e6:.3f}"),
        "memory per rank, GiB",
        *rows("memory_bytes", lambda size: "unknown" if size is None else f"{size / GIB:.3f}"),
        *([disk] if hardware.offload_folder else []),
        f"per step, {hardware.world_size} {'rank' if hardware.world_size == 1 else 'ranks'}",
        plain("  samples at a time", "micro_batch_size"),
        plain("  times", "gradient_accumulation_steps"),
        row("  decoder runs", ("twice" if one["gradient_checkpointing"] else "once" for one in records)),
        plain("  longest sequence", "longest_sequence"),
        plain("  tokens", "tokens_per_step"),
        plain("  TFLOP forward", "forward_tflop", ".3f"),
        plain("  TFLOP backward", "backward_tflop", ".3f"),
        plain("steps", "steps"),
        plain("hours", "hours", ".2f"),
        f"Assumed: {prompt}; for memory, answers as long as the recipe allows,",
        "or the longest sequence of the mixture, if that is longer and the mixture has been checked;",
        f"for work and hours, answers of at most {TYPICAL_ANSWER} tokens; speed {speed}, until a run is measured.",
    ]
