"""The GPU benchmark in miniature, on the CPU: both sides of a tiny stage, what does not fit, what fails, the goals."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import comparison
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import measuring, requirements, sides
from benchmarks.gpu.device import peak_tflops
from benchmarks.gpu.figures import Figure, judge, table
from benchmarks.gpu.measuring import Outcome, Processes, measure, prepare
from benchmarks.gpu.memory import held_at_most
from benchmarks.gpu.models import as_published, random_model
from benchmarks.gpu.orders import Answer, Device, Held, Order, Planned, Step
from benchmarks.reference_loop import ReferenceLoop
from tinygptv import catalog
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.recipe import Recipe
from tinygptv.models.weights import parameters_by_name
from tinygptv.train.job import METRICS

ONE_RANK = Hardware(
    about="one", device="cpu", ranks=1, threads_per_rank=1, micro_batch_size=2, packing=True, precision="fp32",
    zero_stage=2, tflops=0.05,
)  # fmt: skip
HERE = Device(name="a card", memory_gib=80.0, measured_tflops=0.04, tflops=0.05, torch=torch.__version__)
GIB = 2**30


def miniature() -> Recipe:
    """The tiny recipe in batches of four."""
    recipe = catalog.recipe("tinygptv_tiny")
    return recipe.model_copy(
        update={"stages": [one.model_copy(update={"global_batch_size": 4}) for one in recipe.stages]}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="module")
def order(folder: Path) -> Order:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(catalog.OWN_DEFINITIONS, "")
        (order,) = prepare(folder, miniature(), ["stage2"], ONE_RANK, warm_up=1, steps=2, pictures=8)
    return order


@pytest.fixture(scope="module")
def processes(folder: Path) -> Processes:
    return Processes(folder, ONE_RANK, time.monotonic() + 300)


@pytest.fixture(scope="module")
def measured(order: Order, processes: Processes) -> tuple[Outcome, Outcome]:
    """Ours in a process of its own, as the only rank; the other one here."""
    return measure(order, "ours", processes.ask), measure(order, "reference", in_this_process(order))


def in_this_process(order: Order) -> measuring.Ask:
    return lambda side, asked: sides.reference(asked, Path())


def test_both_sides_begin_with_the_same_loss_on_the_same_samples(measured: tuple[Outcome, Outcome]) -> None:
    ours, peer = (outcome.answer for outcome in measured)
    assert ours is not None and peer is not None
    assert ours.first_loss == pytest.approx(peer.first_loss, abs=1e-4)
    assert [step.tokens for step in ours.taken] == pytest.approx([step.tokens for step in peer.taken], rel=1e-3)
    assert ours.longest is not None and peer.longest is not None
    assert ours.longest.tokens > max(step.tokens for step in ours.taken)


def test_each_side_takes_the_samples_at_a_time_that_are_its_own(measured: tuple[Outcome, Outcome]) -> None:
    assert [outcome.micro_batch_size for outcome in measured] == [2, 4]
    assert [len(outcome.answer.taken) for outcome in measured if outcome.answer] == [2, 2]


def test_a_stage_leaves_a_line_of_finite_numbers_for_each_figure(
    order: Order, measured: tuple[Outcome, Outcome], tmp_path: Path
) -> None:
    for one in judge(order, *measured, HERE):
        comparison.report(one.name, one.ours, one.peer, one.unit, one.goal, tmp_path, met=one.met, **one.details)
    (written,) = tmp_path.glob("*.jsonl")
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert [line["name"] for line in lines] == [
        "gpu stage2: speed",
        "gpu stage2: model-FLOP utilisation",
        "gpu stage2: peak memory",
    ]
    for line in lines:
        assert line["device"] == "a card"
        assert line["met"] in (True, False)
        assert line["ratio"] == pytest.approx(line["ours"] / line["peer"], rel=1e-2)
        assert all(math.isfinite(value) for value in line.values() if isinstance(value, float))
    speed, busy, memory = lines
    assert speed["same_loss"]
    assert speed["ours"] == pytest.approx(4 / speed["step_seconds"], rel=0.5)
    assert busy["ours"] / busy["peer"] == pytest.approx(speed["ratio"], rel=0.01)
    assert memory["planned_by_measured"] == pytest.approx(memory["planned"] / memory["ours"], rel=1e-2)


def test_the_published_loop_gives_the_same_loss_in_the_types_it_had_on_a_gpu(
    order: Order, measured: tuple[Outcome, Outcome]
) -> None:
    first = sides.PublishedLoop(order.job, in_halves=True).step(order.job.mixture, 0)
    assert measured[1].answer is not None
    assert first.loss == pytest.approx(measured[1].answer.first_loss, abs=1e-2)


def full_above(samples: int) -> Callable[..., torch.Tensor]:
    """The published forward pass on a device that cannot hold more than so many samples."""
    real = ReferenceLoop.forward

    def forward(self: ReferenceLoop, images: torch.Tensor, *texts: Any) -> torch.Tensor:
        if len(images) > samples:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(self, images, *texts)

    return forward


def test_a_side_that_does_not_fit_is_measured_with_half_as_many_samples_at_a_time(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReferenceLoop, "forward", full_above(1))
    outcome = measure(order, "reference", in_this_process(order))
    assert (outcome.micro_batch_size, outcome.did_not_fit, outcome.told) == (1, (4, 2), None)
    assert outcome.answer is not None and len(outcome.answer.taken) == 2


def test_a_side_that_does_not_fit_at_all_says_so_and_loses_nothing_else(
    order: Order, measured: tuple[Outcome, Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReferenceLoop, "forward", full_above(0))
    on_a_card = order.model_copy(
        update={"job": order.job.model_copy(update={"hardware": ONE_RANK.model_copy(update={"memory_gib": 24.0})})}
    )
    peer = measure(on_a_card, "reference", in_this_process(order))
    assert (peer.answer, peer.did_not_fit, peer.told) == (None, (4, 2, 1), "does not fit in 24 GB")
    figures = judge(on_a_card, measured[0], peer, HERE)
    assert all(one.ours is not None and one.peer is None for one in figures)
    assert figures[0].met is None
    assert "    reference: does not fit in 24 GB" in table(figures)


def test_longest_sequences_that_do_not_fit_leave_the_speed_of_usual_ones(
    order: Order, measured: tuple[Outcome, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"seconds": 0.5, "tokens_per_second": 100.0, "loss": 6.0 - step} for step in range(3)]

    def full_at_the_longest(job_file: Path, *_: Any) -> None:
        job_file.with_name(METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sides.worker, "train", full_at_the_longest)
    answer = sides.ours(order, tmp_path)
    assert (answer.first_loss, [step.loss for step in answer.taken], answer.longest) == (6.0, [5.0, 4.0], None)
    speed, _, memory = judge(order, Outcome(answer, 2), measured[1], HERE)
    assert speed.ours == pytest.approx(8.0)
    assert (memory.ours, memory.met, memory.details["longest_fit"]) == (None, False, False)


def answered(seconds: float, gib: float, first_loss: float = 10.8) -> Answer:
    """Two steps of four samples and 200 tokens; a plan of 20 GiB, and half a TFLOP for a step."""
    step = Step(seconds=seconds, samples=4, tokens=200, loss=10.0)
    held = Held(allocated=int((gib - 1) * GIB), reserved=int((gib - 0.5) * GIB), beside=GIB // 2)
    planned = Planned(
        total=20 * GIB, runtime=GIB, gradient_checkpointing=False, flops_per_sample=25e9, flops_per_token=2e9
    )
    return Answer(
        device="a card", first_loss=first_loss, taken=[step, step], longest=step, held=held, planned=planned
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "peer", "met"),
    [
        (answered(10, 20), answered(20, 20), [True, True, True]),
        (answered(10, 20), answered(19.9, 20), [False, True, True]),
        (answered(25, 20), answered(50, 20), [True, False, True]),
        (answered(10, 18), answered(20, 20), [True, True, False]),
        (answered(10, 22.5), answered(20, 20), [True, True, False]),
        (answered(10, 24.1), answered(20, 20), [True, True, False]),
        (answered(10, 20, first_loss=9.0), answered(20, 20), [None, True, True]),
    ],
)
def test_goals_are_judged(order: Order, ours: Answer, peer: Answer, met: list[bool | None]) -> None:
    hardware = ONE_RANK.model_copy(update={"memory_gib": 24.0, "tflops": 0.1})
    on_a_card = order.model_copy(update={"job": order.job.model_copy(update={"hardware": hardware})})
    assert [one.met for one in judge(on_a_card, Outcome(ours, 2), Outcome(peer, 4), HERE)] == met


def test_ours_misses_its_goal_if_it_fits_only_with_fewer_samples_than_planned(order: Order) -> None:
    (*_, memory) = judge(order, Outcome(answered(10, 20), 1, (2,)), Outcome(answered(20, 20), 4), HERE)
    assert memory.met is False


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_process_that_fails_is_told_by_its_last_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    on_a_gpu = ONE_RANK.model_copy(update={"device": "cuda"})
    told = Processes(folder, on_a_gpu, time.monotonic() + 60).device()
    assert isinstance(told, str)
    assert told.startswith(f"failed: torch {torch.__version__} sees no GPU")
    assert "device failed; its last lines:\ntorch" in capfd.readouterr().err


def test_without_time_left_nothing_is_begun(order: Order, folder: Path) -> None:
    told = Processes(folder, ONE_RANK, time.monotonic()).ask("ours", order)
    assert told == "not measured: the time is used up"


def test_what_hangs_is_ended_with_the_time(order: Order, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LEAST_SECONDS", 0)
    told = Processes(folder, ONE_RANK, time.monotonic() + 1).ask("ours", order)
    assert isinstance(told, str) and told.startswith("not measured: it had not ended after")


def test_the_models_of_both_sides_hold_the_same_numbers(order: Order) -> None:
    ours = parameters_by_name(random_model(order.job, lambda name: torch.bfloat16))
    theirs = parameters_by_name(random_model(order.job, as_published))
    assert ours.keys() == theirs.keys()
    for name, parameter in theirs.items():
        torch.testing.assert_close(ours[name].float(), parameter.float(), rtol=1e-2, atol=1e-3)
    in_full = {name for name, parameter in theirs.items() if parameter.dtype == torch.float32}
    assert {"connector.1.weight", "connector.0.query_tokens", "language_model.model.final_layernorm.weight"} <= in_full
    assert any(".lora_A." in name for name in in_full)
    assert theirs["language_model.lm_head.weight"].dtype == torch.float16


def test_buffers_of_a_random_model_keep_what_they_mean(order: Order) -> None:
    rotary = random_model(order.job, lambda name: torch.bfloat16).language_model.model.rotary_emb.inv_freq
    assert rotary.dtype == torch.float32
    assert rotary[0].item() == 1.0


def test_requirements_are_told_as_pip_reads_them(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert requirements.missing() == []
    wanted = ["torch>=999", "no-such-package", "numpy", "no-such-extra; extra == 'dev'"]
    assert requirements._lacking(wanted) == ["torch>=999", "no-such-package"]
    monkeypatch.setattr(command, "missing", lambda: ["deepspeed<0.20,>=0.19.8"])
    assert command.main([]) == 1
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989.0), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA GeForce RTX 3090", 71.0), ("x86", None)],
)
def test_a_device_is_known_by_its_data_sheet(name: str, peak: float | None) -> None:
    assert peak_tflops(name) == peak


def test_memory_of_a_process_without_a_gpu_is_what_is_resident() -> None:
    assert held_at_most(ONE_RANK).total > 10**8


class PretendedProcesses:
    """Stands in for Processes: ours fails in stage 1, the reference never fits."""

    def __init__(self, *_: Any) -> None: ...

    def device(self) -> Device:
        return HERE

    def ask(self, side: str, order: Order) -> Answer | str:
        if side == "reference":
            return answered(10, 20).model_copy(update={"taken": []})
        return "failed: CUDA error" if order.job.stage.stage == "stage1" else answered(10, 20)


def test_a_stage_that_fails_loses_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(catalog.OWN_DEFINITIONS, "")
    monkeypatch.setattr(measuring, "Processes", PretendedProcesses)
    asked = ["--recipe", "tinygptv_tiny", "--hardware", "cpu", "--stages", "stage1,stage2", "--pictures", "8"]
    assert command.main([*asked, "--results", str(tmp_path)]) == 1
    (written,) = tmp_path.glob("*.jsonl")
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert [line["ours"] is None for line in lines] == [True] * 3 + [False] * 3
    assert lines[0]["told"] == "failed: CUDA error"
    printed = capsys.readouterr().out
    assert "ours: failed: CUDA error" in printed
    assert "reference: does not fit in this machine" in printed


def test_a_table_leaves_out_what_is_not_known() -> None:
    unknown = Figure("gpu stage1: speed", None, 3.0, "samples/s", "ratio >= 2", None, {"told": None, "peer_told": None})
    assert table([unknown])[1].split() == [
        "gpu",
        "stage1:",
        "speed,",
        "samples/s",
        "–",
        "3.00",
        "–",
        "ratio",
        ">=",
        "2",
    ]
