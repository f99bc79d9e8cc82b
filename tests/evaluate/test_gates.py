"""Gates: a few items are scored, the decision is recorded, and the run continues or stops."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.miniature import HARDWARE, RECIPE, SOURCE, write_miniature
from tests.release.tiny import adapted_model, write_release
from tinygptv.catalog import ResolvedRun, resolve_run
from tinygptv.definitions.recipe import Gate
from tinygptv.errors import DefinitionError, GateError
from tinygptv.evaluate.gates import events_document, pass_gate
from tinygptv.evaluate.scores import ANSWERS
from tinygptv.loading.checks import gate_conflicts
from tinygptv.models.lora import merge_lora
from tinygptv.store.artifacts import Manifest, Outcome, Store
from tinygptv.train.stage import plan_stage

GATE = Gate(benchmark="mini_benchmark", at_least=0.0, items=5, then="stop")


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in write_miniature(tmp_path / "mini", {"stage1": 2, "stage2": 2}).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "mini" / "definitions" / "recipes" / f"{RECIPE}.yaml"


@pytest.fixture
def run(recipe_file: Path) -> ResolvedRun:
    return resolve_run(RECIPE, SOURCE, HARDWARE)


@pytest.fixture
def model(store: Store) -> Manifest:
    """A released model in place of a stage's; it loads without a run."""

    def build(folder: Path) -> Outcome:
        released = adapted_model()
        merge_lora(released.language_model)
        write_release(folder, released)
        return Outcome()

    return store.make("runs/first/export@0123456789", "export", {}, [], build)


def events(store: Store) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store.read(events_document("first", "export")) or "").splitlines()]


def gated(recipe_file: Path, *gates: dict[str, Any]) -> ResolvedRun:
    content = yaml.safe_load(recipe_file.read_text())
    content["stages"][0]["gates"] = list(gates)
    recipe_file.write_text(yaml.safe_dump(content))
    return resolve_run(RECIPE, SOURCE, HARDWARE)


def test_a_gate_asks_the_same_few_items_every_time(store: Store, run: ResolvedRun, model: Manifest) -> None:
    asked = pass_gate(store, run, "first", "export", model, GATE)
    again = pass_gate(store, run, "second", "export", model, GATE)
    keys = [
        [json.loads(line)["key"] for line in (store.folder(one.artifact) / ANSWERS).read_text().splitlines()]
        for one in (asked, again)
    ]
    assert asked.artifact.startswith("runs/first/gate-export-mini_benchmark@")
    assert len(keys[0]) == 5 and keys[0] == keys[1]
    assert [(one["event"], one["items"], one["value"]) for one in events(store)] == [
        ("gate_passed", 5, asked.details["value"])
    ]


def test_a_stage_that_falls_short_stops_the_run_and_a_lower_gate_reuses_its_answers(
    store: Store, run: ResolvedRun, model: Manifest
) -> None:
    strict = GATE.model_copy(update={"at_least": 1.0})
    message = r"falls short of 1 on mini_benchmark: \S+ on 5 items, and its gate says stop.*lower at_least"
    for _ in range(2):
        with pytest.raises(GateError, match=message):
            pass_gate(store, run, "first", "export", model, strict)
    (refused,) = store.names("runs/first/gate-export-")
    assert pass_gate(store, run, "first", "export", model, GATE).artifact == refused
    assert [(one["event"], one["at_least"]) for one in events(store)] == [("gate_failed", 1.0), ("gate_passed", 0.0)]


def test_a_gate_that_warns_lets_the_run_continue(
    store: Store, run: ResolvedRun, model: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    warning = Gate(benchmark="mini_benchmark", metric="lenient", at_least=1.0, items=5, then="warn")
    with caplog.at_level(logging.WARNING):
        pass_gate(store, run, "first", "export", model, warning)
    assert "falls short of 1 on mini_benchmark (lenient)" in caplog.text and "training continues" in caplog.text
    assert [one["event"] for one in events(store)] == ["gate_failed"]


def test_a_gate_does_not_change_the_identity_of_its_stage(recipe_file: Path, run: ResolvedRun) -> None:
    other = gated(recipe_file, {"benchmark": "mini_benchmark", "at_least": 0.9, "then": "stop"})
    assert other.recipe.stages[0].gates and not run.recipe.stages[0].gates
    named = [plan_stage(one.recipe, "first", "stage1", "mixtures/m@1", None).artifact for one in (run, other)]
    assert named[0] == named[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"benchmark": "mini_benchmrk"},
            r"stages\[0\].gates\[0\].benchmark: 'mini_benchmrk' is not among.*Did you mean",
        ),
        ({"then": "halt"}, r"stages\[0\].gates\[0\].then: found 'halt', want one of stop, warn"),
        ({"at_least": 30.0}, r"stages\[0\].gates\[0\].at_least: found 30.0, want at most 1"),
        ({"at_lest": 0.3}, r"stages\[0\].gates\[0\].at_lest: unknown key"),
    ],
)
def test_a_wrong_gate_is_refused_before_any_work(recipe_file: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        gated(recipe_file, {"benchmark": "mini_benchmark", "at_least": 0.3, "then": "stop"} | change)


def test_two_gates_on_one_benchmark_are_refused(recipe_file: Path) -> None:
    gate = {"benchmark": "mini_benchmark", "at_least": 0.3, "then": "stop"}
    with pytest.raises(DefinitionError, match=r"gates\[1\].benchmark: 'mini_benchmark' is asked twice after stage1"):
        gated(recipe_file, gate, gate)


@pytest.mark.parametrize("metric", ["caption_bleu", "object_f1"])
def test_a_lenient_gate_on_captions_is_refused(run: ResolvedRun, metric: str) -> None:
    stage = run.recipe.stages[0].model_copy(update={"gates": [GATE.model_copy(update={"metric": "lenient"})]})
    captions = run.benchmarks["mini_benchmark"].model_copy(update={"metric": metric})
    (conflict,) = gate_conflicts(RECIPE, 0, stage, {"mini_benchmark": captions})
    assert str(conflict).endswith("no lenient rule; write score")
    assert conflict.path == ("stages", 0, "gates", 0, "metric")
