"""Sources → report in miniature, through the library alone, on local disk and on S3."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.miniature import DEAD_LINKS, HARDWARE, PICTURES, RECIPE, SOURCE, write_miniature
from tinygptv.errors import DataError, DefinitionError, GateError
from tinygptv.journey import Arrow, Journey, open_journey, train_all
from tinygptv.runs.plan import plan
from tinygptv.shapes.server import serve
from tinygptv.store.artifacts import Store

STEPS = {"stage1": 2}


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from written(STEPS, tmp_path / "mini", monkeypatch)


@pytest.fixture
def two_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from written({"stage1": 2, "stage2": 2}, tmp_path / "mini", monkeypatch)


def written(steps: dict[str, int], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    environment = write_miniature(folder, steps)
    with serve(folder) as address:
        for name, value in (environment | {"TINYGPTV_BASE_URL": address}).items():
            monkeypatch.setenv(name, value)
        yield


def journey_in(workdir: str) -> Journey:
    return open_journey("small", RECIPE, SOURCE, HARDWARE, workdir)


def actions(journey: Journey) -> set[str]:
    return {planned.action for planned in plan(journey)}


@pytest.mark.parametrize("where", ["local disk", "S3"])
def test_a_journey_reaches_its_report_and_a_second_run_does_nothing(
    where: str, miniature: None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    workdir = request.getfixturevalue("s3_workdir") if where == "S3" else str(tmp_path / "work")
    journey = journey_in(workdir)
    assert actions(journey) == {"run"}
    written = train_all(journey)
    assert "</html>" in (Store(workdir).folder(written.artifact) / "report.html").read_text()

    raw = journey.find(Arrow("download", SOURCE))
    assert (raw.rows_in, raw.rows_out, sum(raw.drops.values())) == (PICTURES + DEAD_LINKS, PICTURES, DEAD_LINKS)

    again = journey_in(workdir)
    assert actions(again) == {"reuse"}
    assert [again.make(arrow).created for arrow in again.arrows()] == [
        journey.find(arrow).created for arrow in journey.arrows()
    ]


def test_a_changed_definition_runs_again_what_depends_on_it_and_nothing_else(miniature: None, tmp_path: Path) -> None:
    journey = journey_in(str(tmp_path / "work"))
    for arrow in journey.arrows("download", "filter", "mix"):
        journey.make(arrow)
    source = tmp_path / "mini" / "definitions" / "sources" / f"{SOURCE}.yaml"
    source.write_text(source.read_text().replace("filter: mini_pairs", "filter: web_pairs"))

    planned = {str(one.arrow): one for one in plan(journey_in(str(tmp_path / "work")))}
    assert planned[f"download {SOURCE}"].action == "reuse"
    assert planned[f"filter {SOURCE}"].action == "run"
    assert planned["mix mini_mixture"].action == "run"
    assert "changed since" in planned["mix mini_mixture"].why


def test_a_plan_makes_nothing(miniature: None, tmp_path: Path) -> None:
    plan(journey_in(str(tmp_path / "work")))
    assert not (tmp_path / "work").exists()


def test_an_interrupted_stage_is_planned_from_its_last_checkpoint(miniature: None, tmp_path: Path) -> None:
    journey = journey_in(str(tmp_path / "work"))
    for arrow in journey.arrows("download", "filter", "mix"):
        journey.make(arrow)
    (stage,) = [one for one in plan(journey) if one.arrow.verb == "train"]
    (journey.store.draft(stage.artifact) / "checkpoints" / "step000020").mkdir(parents=True)
    (stage,) = [one for one in plan(journey) if one.arrow.verb == "train"]
    assert (stage.action, stage.why) == ("resume", "from step 20")


def test_an_arrow_whose_input_is_missing_says_what_to_run_first(miniature: None, tmp_path: Path) -> None:
    journey = journey_in(str(tmp_path / "work"))
    with pytest.raises(DataError, match=f"first run `download` for {SOURCE}"):
        journey.make(Arrow("filter", SOURCE))


@pytest.mark.parametrize("name", ["", "../elsewhere", ".hidden", "two words"])
def test_a_run_name_that_is_no_folder_name_is_refused(name: str, miniature: None) -> None:
    with pytest.raises(DefinitionError, match="a run's name"):
        open_journey(name, RECIPE, SOURCE)


def test_a_profile_that_wants_features_has_them_computed_before_each_stage(miniature: None, tmp_path: Path) -> None:
    journey = open_journey("small", RECIPE, SOURCE, "cpu_cached", str(tmp_path / "work"))
    verbs = [planned.arrow.verb for planned in plan(journey) if planned.arrow.subject == "stage1"]
    assert verbs[:2] == ["encode", "train"]
    assert "encode" not in {arrow.verb for arrow in journey_in(str(tmp_path / "work")).arrows()}


def test_what_is_there_but_of_something_else_is_told_with_what_differs(miniature: None, tmp_path: Path) -> None:
    journey = journey_in(str(tmp_path / "work"))
    for arrow in journey.arrows("download", "filter"):
        journey.make(arrow)
    source = tmp_path / "mini" / "definitions" / "sources" / f"{SOURCE}.yaml"
    source.write_text(source.read_text().replace("filter: mini_pairs", "filter: web_pairs"))
    with pytest.raises(DataError, match="first run `filter`"):
        journey_in(str(tmp_path / "work")).make(Arrow("mix", "mini_mixture"))
    chain = tmp_path / "mini" / "definitions" / "filters" / "mini_pairs.yaml"
    chain.write_text(chain.read_text().replace("one word", "a word"))
    source.write_text(source.read_text().replace("filter: web_pairs", "filter: mini_pairs"))
    with pytest.raises(DataError, match=r"is another: rules: .*one word.* → .*a word"):
        journey_in(str(tmp_path / "work")).make(Arrow("mix", "mini_mixture"))


def with_gate(tmp_path: Path, **gate: object) -> Journey:
    recipe = tmp_path / "mini" / "definitions" / "recipes" / f"{RECIPE}.yaml"
    content = yaml.safe_load(recipe.read_text())
    content["stages"][0]["gates"] = [{"benchmark": "mini_benchmark", "items": 4, **gate}]
    recipe.write_text(yaml.safe_dump(content))
    return journey_in(str(tmp_path / "work"))


def test_a_gate_stops_before_the_next_stage_and_a_looser_one_lets_what_was_trained_go_on(
    two_stages: None, tmp_path: Path
) -> None:
    journey = with_gate(tmp_path, at_least=1.0, then="stop")
    with pytest.raises(GateError, match="stage1 falls short of 1 on mini_benchmark"):
        train_all(journey)
    trained = journey.find(Arrow("train", "stage1"))
    with pytest.raises(GateError, match="lower at_least"):
        journey.make(Arrow("train", "stage2"))
    assert [(str(one.arrow), one.action) for one in plan(journey)][-2:] == [
        ("train stage1", "reuse"),
        ("gate stage1 on mini_benchmark", "stop"),
    ]

    looser = with_gate(tmp_path, at_least=1.0, then="warn")
    actions = {str(one.arrow): one.action for one in plan(looser)}
    assert actions["train stage1"] == actions["gate stage1 on mini_benchmark"] == "reuse"
    assert actions["train stage2"] == "run"
    assert looser.find(Arrow("train", "stage1")) == trained
    assert looser.make(Arrow("train", "stage2")).parents[-1] == trained.artifact
