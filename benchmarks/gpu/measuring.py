"""The stages one after the other, each side in a process of its own: what fails there harms nothing else.

A side whose memory does not suffice is asked again with half as many samples at a time.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.drawn_data import caption_of, draw_pictures, write_mixture
from benchmarks.gpu.orders import LONGEST_STEPS, Answer, Device, Order, Side
from tinygptv.catalog import OWN_DEFINITIONS
from tinygptv.data.mixtures.mixing import mix
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.recipe import Recipe
from tinygptv.store.artifacts import Store
from tinygptv.train.deepspeed import accumulation_steps
from tinygptv.train.job import Job
from tinygptv.train.launch.torchrun import rank_environment
from tinygptv.train.lineage import adapters

ROOT = Path(__file__).parents[2]
TOKENIZER = "embedded:backbones/shapes/tokenizer"
USUAL = {
    "stage1": (5, 8, 9, 10, 11, 13, 16, 20),
    "stage2": (5, 8, 9, 10, 11, 13, 16, 20),
    "stage3": (37, 47, 55, 61, 68, 77, 85, 108),
    "stage4": (1, 2, 9, 9, 9, 18, 51, 106),
}
"""Tokens of answers, the middles of eighths: of BLIP's web captions; of cc_sbu_align's descriptions; of the tasks of
stage 4's sets, mixed as `padding.py` does. By vocabularies as large as Phi-2's, learned from the texts themselves."""
DIFFERENT_PICTURES = 32
LEAST_SECONDS = 20
"""With less time left no side is begun."""
TAIL_LINES = 20
_GRACE_SECONDS = 10

Ask = Callable[[Side, Order], Answer | str]
"""A side's answer, or why there is none."""


@dataclass(frozen=True)
class Outcome:
    """A side of a stage at so many samples at a time; those that did not fit; and in words why there is no answer."""

    answer: Answer | None
    micro_batch_size: int
    did_not_fit: tuple[int, ...] = ()
    told: str | None = None


def prepare(
    folder: Path,
    recipe: Recipe,
    stages: Sequence[str],
    hardware: Hardware,
    warm_up: int,
    steps: int,
    pictures: int = 1024,
) -> list[Order]:
    """What either side of each stage is asked, and the data for it below `folder`."""
    os.environ[OWN_DEFINITIONS] = str(folder / "definitions")
    language_model = recipe.model.language_model.model_copy(update={"tokenizer": TOKENIZER})
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"language_model": language_model})})
    draw_pictures(folder, min(DIFFERENT_PICTURES, pictures), pictures)
    store, orders = Store(str(folder / "work")), []
    for stage in (recipe.stage(name) for name in stages):
        longest = [caption_of(stage.inputs.max_text_tokens)] * pictures
        lengths = USUAL[stage.stage]
        usual = [caption_of(lengths[number % len(lengths)]) for number in range(pictures)]
        task = "caption_only" if stage.inputs.template is None else "describe"
        mixtures = []
        for kind, captions in {"usual": usual, "longest": longest}.items():
            write_mixture(folder, f"{stage.stage}_{kind}", task, captions)
            mixtures.append(mix(store, f"{stage.stage}_{kind}", None).artifact)
        taken = {"warmup_steps": 0, "steps": warm_up + steps + LONGEST_STEPS, "rounds": 1}
        schedule = stage.schedule.model_copy(update=taken)
        never = {"schedule": schedule, "checkpoint_every": schedule.steps}
        job = Job(
            stage=stage.model_copy(update=never),
            model=recipe.model,
            lora=adapters(recipe, stage),
            seed=recipe.seed,
            hardware=hardware,
            workdir=store.workdir,
            mixture=mixtures[0],
            previous=None,
            inherits=[],
        )
        orders.append(Order(recipe=recipe, job=job, longest=mixtures[1], warm_up=warm_up, steps=steps))
    return orders


def measure(order: Order, side: Side, ask: Ask) -> Outcome:
    """A side's answer with as many samples at a time as fit: at most the profile's, or the reference's whole batch."""
    total, hardware = order.job.stage.global_batch_size, order.job.hardware
    size = total if side == "reference" else total // accumulation_steps(total, 1, hardware.micro_batch_size)
    did_not_fit: list[int] = []
    while True:
        profile = hardware.model_copy(update={"micro_batch_size": size})
        answer = ask(side, order.model_copy(update={"job": order.job.model_copy(update={"hardware": profile})}))
        if isinstance(answer, str):
            return Outcome(None, size, tuple(did_not_fit), answer)
        if answer.taken:
            return Outcome(answer, size, tuple(did_not_fit))
        did_not_fit.append(size)
        if size == 1:
            return Outcome(None, size, tuple(did_not_fit), f"does not fit in {_memory(hardware)}")
        size = total // accumulation_steps(total, 1, size // 2)


def _memory(hardware: Hardware) -> str:
    return "this machine" if hardware.memory_gib is None else f"{hardware.memory_gib:g} GB"


class Processes:
    """Asks sides in processes of their own, which see one GPU and end by `deadline` (of time.monotonic)."""

    def __init__(self, folder: Path, hardware: Hardware, deadline: float) -> None:
        self._folder, self._hardware, self._deadline = folder, hardware, deadline

    def device(self) -> Device | str:
        """What it all runs on."""
        answer, told = self._run("device", "benchmarks.gpu.device", self._hardware.device)
        return Device.model_validate_json(answer) if answer else told

    def ask(self, side: Side, order: Order) -> Answer | str:
        """See Ask."""
        name = f"{order.job.stage.stage}-{side}-{order.job.hardware.micro_batch_size}"
        (self._folder / name).mkdir(exist_ok=True)
        file = self._folder / name / "order.json"
        file.write_text(order.model_dump_json())
        answer, told = self._run(name, "benchmarks.gpu.sides", side, str(file))
        return Answer.model_validate_json(answer) if answer else told

    def _run(self, name: str, module: str, *arguments: str) -> tuple[str | None, str]:
        """What `module` wrote, or None and why it wrote nothing."""
        left = self._deadline - time.monotonic()
        if left < LEAST_SECONDS:
            return None, "not measured: the time is used up"
        answer, log = self._folder / f"{name}.answer.json", self._folder / f"{name}.log"
        with log.open("w") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments, str(answer)],
                cwd=ROOT,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            code = process.wait(timeout=left)
        except subprocess.TimeoutExpired:
            return None, f"not measured: it had not ended after {left:.0f} s"
        finally:
            _end(process)
        if code == 0:
            return answer.read_text(), ""
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        # A temporary folder takes its logs along.
        print(f"{name} failed; its last lines:", *lines[-TAIL_LINES:], sep="\n", file=sys.stderr, flush=True)
        return None, f"failed: {lines[-1] if lines else f'exit code {code}'}"

    def _environment(self) -> dict[str, str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        only_rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return rank_environment(self._hardware) | only_rank | meeting | {"PYTHONPATH": path}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The process and those it started, which have a group of their own."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
            process.wait(timeout=_GRACE_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
