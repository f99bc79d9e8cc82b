"""The flows around a library that only pretends to work: order, names, retries, artifacts, refusals."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow, Task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from flows import curate as curate_module
from flows.ablate import ablate
from flows.arrows import artifact_key
from flows.curate import curate, download, refresh_data
from flows.journey import train_all
from flows.train import train_stage
from tests.miniature import RECIPE, SOURCE, write_miniature
from tinygptv.errors import DefinitionError
from tinygptv.evaluate import gates
from tinygptv.journey import Arrow, Journey, open_journey
from tinygptv.shapes.server import serve
from tinygptv.store.artifacts import Manifest, Outcome, artifact_name

ROOT = Path(__file__).resolve().parents[2]
MODULES = ["curate", "mix", "encode", "train", "release", "evaluate", "journey", "ablate"]
STAGES = {"stage1": 4, "stage2": 4}
pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in write_miniature(tmp_path / "mini", STAGES).items():
        monkeypatch.setenv(name, value)
    return {"run": tmp_path.name[-20:], "recipe": RECIPE, "source": SOURCE, "workdir": str(tmp_path / "work")}


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[Arrow]:
    """The arrows in the order they were followed; what they leave is made up."""
    arrows: list[Arrow] = []

    def make(journey: Journey, arrow: Arrow, on_line: Callable[[str], None] | None = None) -> Manifest:
        arrows.append(arrow)
        for step in range(1, 5) if on_line else ():
            on_line(f"{arrow.subject} {step}/4 loss {1 / step:.4f} lr 1.00e-03 10 samples/s")
        place = f"{arrow.verb}/{arrow.subject}{arrow.benchmark}{arrow.noise}"
        return journey.store.make(artifact_name(place, {}, []), "pretend", {}, [], pretend(arrow))

    monkeypatch.setattr(Journey, "make", make)
    return arrows


def pretend(arrow: Arrow) -> Callable[[Path], Outcome]:
    def build(folder: Path) -> Outcome:
        rows = [{"step": step, "loss": 1 / step, "lr": 1e-3} for step in range(1, 5)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "report.html").write_text("<p>done")
        counts = {"download": (10, 8, {"http_404": 2}), "filter": (8, 5, {"min_side": 3})}
        rows_in, rows_out, drops = counts.get(arrow.verb, (0, 0, {}))
        details = {"value": 0.75, "pieces": 1, "steps": 4, "first_loss": 1.0, "last_loss": 0.25}
        details |= {"low": 0.7, "high": 0.8, "chance": 0.5, "n": 8, "model": arrow.subject}
        return Outcome(rows_in=rows_in, rows_out=rows_out, drops=drops, details=details)

    return build


def artifact(key: str) -> Any:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort=ArtifactSort.UPDATED_DESC
        )
        return found[0]


@pytest.mark.parametrize("hardware", ["cpu", "cpu_cached"])
def test_the_journey_follows_every_arrow_once_and_in_order(
    hardware: str, parameters: dict[str, str], followed: list[Arrow]
) -> None:
    parameters["hardware"] = hardware
    state = train_all(**parameters, return_state=True)
    assert state.is_completed()
    assert followed == open_journey(**parameters).arrows()
    assert state.message.startswith("report: ") and Path(state.message.removeprefix("report: ")).is_file()


def test_pairs_are_scored_before_they_are_filtered_if_the_filter_asks(
    parameters: dict[str, str], followed: list[Arrow], tmp_path: Path
) -> None:
    path = tmp_path / "mini" / "definitions" / "filters" / f"{SOURCE}.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"scores": "shapes"}))
    assert curate(**parameters, return_state=True).is_completed()
    assert [arrow.verb for arrow in followed] == ["download", "score", "filter"]


def test_what_the_interface_shows_is_made_along_the_way(parameters: dict[str, str], followed: list[Arrow]) -> None:
    train_all(**parameters)
    run = parameters["run"].lower().replace("_", "-")

    funnel = json.loads(artifact("funnel-mini-pairs").data)
    assert [row["rows"] for row in funnel] == [10, -2, 8, -3, 5]
    assert funnel[1] == {"step": "download", "reason": "http_404", "rows": -2}
    for stage in STAGES:
        assert float(artifact(f"progress-{run}-{stage}").data) == 100
        assert artifact(f"loss-{run}-{stage}").data.startswith("data:image/svg+xml;base64,")
    assert "| mini_benchmark | 0.750 |" in artifact(f"scores-{run}").data
    assert "report.html" in artifact(f"report-{run}").data


def test_a_wrong_name_fails_with_our_message_before_any_work(
    parameters: dict[str, str], followed: list[Arrow], tmp_path: Path
) -> None:
    state = train_all(**parameters | {"recipe": "minni"}, return_state=True)
    assert state.is_failed()
    assert "Did you mean 'mini'?" in state.message
    assert followed == []
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("error", "attempts"), [(OSError("connection reset"), 2), (ValueError("a bug"), 1), (DefinitionError("bad"), 1)]
)
def test_a_download_is_retried_only_where_the_world_is_flaky(
    error: Exception, attempts: int, parameters: dict[str, str], followed: list[Arrow], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended, tried = Journey.make, []

    def make(journey: Journey, arrow: Arrow, on_line: Callable[[str], None] | None = None) -> Manifest:
        tried.append(arrow)
        if len(tried) == 1:
            raise error
        return pretended(journey, arrow, on_line)

    monkeypatch.setattr(Journey, "make", make)
    monkeypatch.setattr(curate_module, "download", download.with_options(retry_delay_seconds=0))
    state = curate(**parameters, return_state=True)
    assert len([arrow for arrow in tried if arrow.verb == "download"]) == attempts
    assert state.is_completed() == (attempts == 2)


def test_no_other_task_is_retried() -> None:
    modules = [importlib.import_module(f"flows.{name}") for name in MODULES]
    tasks = {task.name: task.retries for module in modules for task in vars(module).values() if isinstance(task, Task)}
    assert {name for name, retries in tasks.items() if retries} == {"download"}
    assert len(tasks) == 14


def test_a_refresh_shows_what_changed_what_rotted_and_the_card_and_fails_where_a_check_did(
    parameters: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path / "mini") as address:
        monkeypatch.setenv("TINYGPTV_BASE_URL", address)
        state = refresh_data(**parameters, return_state=True)
        assert state.message == "mini_pairs: version 1 with 24 samples (24 added)"
        changes = json.loads(artifact("changes-mini-pairs").data)
        assert {"about": "sample", "what": "added", "count": 24} in changes
        assert {"about": "dropped by download", "what": "http_404", "count": 2} in changes
        assert json.loads(artifact("rot-mini-pairs").data) == []
        shown = artifact("card-mini-pairs").data
        assert "card.html`" in shown and "| CC0-1.0 | 24 | 100.0 % |" in shown

        table = tmp_path / "mini" / "pairs.jsonl"
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:5]))
        state = refresh_data(**parameters, return_state=True)
        assert state.is_failed()
        assert state.message.startswith("mini_pairs: refused, version 1 stays current: shrunk: 1 rows")
        assert refresh_data(**parameters, accept=["shrunk"], return_state=True).is_completed()


def test_what_a_gate_said_is_shown_and_one_that_stops_fails_the_flow(
    parameters: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(journey: Journey, arrow: Arrow, on_line: Callable[[str], None] | None = None) -> Manifest:
        made = journey.store.make(artifact_name(f"{arrow.verb}/{arrow}", {}, []), "pretend", {}, [], pretend(arrow))
        if arrow.verb == "gate":
            monkeypatch.setattr(gates, "evaluate", lambda *_, **__: made)
            (gate,) = journey.run.recipe.stage(arrow.subject).gates
            gates.pass_gate(journey.store, journey.run, journey.name, arrow.subject, made, gate)
        return made

    monkeypatch.setattr(Journey, "make", make)
    path = tmp_path / "mini" / "definitions" / "recipes" / f"{RECIPE}.yaml"
    for then, passed in (("warn", True), ("stop", False)):
        recipe = yaml.safe_load(path.read_text())
        recipe["stages"][0]["gates"] = [{"benchmark": "mini_benchmark", "at_least": 0.9, "then": then}]
        path.write_text(yaml.safe_dump(recipe))
        state = train_stage(**parameters, stage="stage1", return_state=True)
        assert state.is_completed() == passed
        shown = json.loads(artifact(artifact_key("gates", parameters["run"], "stage1")).data)
        assert [shown[-1][field] for field in ("event", "then", "value")] == ["gate_failed", then, 0.75]
    assert "its gate says stop" in state.message


def test_ablations_are_trained_one_after_the_other_and_compared(
    parameters: dict[str, str], followed: list[Arrow]
) -> None:
    state = ablate(**parameters, without=["lora"], steps_scale=0.5, return_state=True)
    assert state.message.startswith("ablations: ") and Path(state.message.removeprefix("ablations: ")).is_file()
    assert [str(arrow) for arrow in followed if arrow.verb in ("train", "evaluate")] == 2 * [
        "train stage1",
        "train stage2",
        "evaluate stage2 on mini_benchmark",
    ]
    rows = json.loads(artifact(artifact_key("ablations", parameters["run"])).data)
    assert [(row["variant"], row["outcome"]) for row in rows] == [("whole", "trained"), ("without_lora", "trained")]
    assert artifact(artifact_key("ablations-losses", parameters["run"])).data.startswith("data:image/svg+xml;base64,")


def test_a_stage_can_be_run_alone_and_says_what_it_needs_first(parameters: dict[str, str]) -> None:
    state = train_stage(**parameters, stage="stage2", return_state=True)
    assert state.is_failed()
    assert "first run `download` for mini_pairs" in state.message


def test_the_deployments_are_the_promised_ones_and_point_at_flows() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    found = set()
    for deployment in deployments:
        path, name = deployment["entrypoint"].split(":")
        flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
        assert isinstance(flow, Flow)
        found.add(f"{flow.name}/{deployment['name']}")
    assert found == {
        "train-all/local",
        "curate/local",
        "refresh-data/nightly",
        "mix/local",
        "encode/local",
        "train-stage/local",
        "quantize/local",
        "evaluate/local",
        "report/local",
        "ablate/local",
    }
    (nightly,) = [d for d in deployments if d["name"] == "nightly"]
    assert [schedule["active"] for schedule in nightly["schedules"]] == [False]
