import json
from pathlib import Path

import pytest

from tests.train.small import small_recipe, small_run
from tinygptv import catalog
from tinygptv.definitions.recipe import Recipe
from tinygptv.errors import DefinitionError, HandoffError, LaunchError, SetupError
from tinygptv.models import nf4
from tinygptv.store.artifacts import Manifest, Outcome, Store
from tinygptv.train.events import record
from tinygptv.train.job import read_metrics
from tinygptv.train.launch.torchrun import RecordingLauncher
from tinygptv.train.lineage import adapters, differences, inherited
from tinygptv.train.stage import plan_stage, train_stage

PUBLISHED = catalog.recipe("tinygptv")
MIXTURE = "mixtures/tiny_pairs@1"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    recipe = small_recipe(tmp_path)
    for name in ("vision_encoder", "qformer", "language_model"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    return recipe


def changed(recipe: Recipe, position: int, **fields: object) -> Recipe:
    content = recipe.model_dump()
    content["stages"][position] |= fields
    return Recipe.model_validate(content)


def train_in_pretence(folder: Path) -> None:
    """What ranks would leave behind."""
    stage = json.loads((folder / "job.json").read_text())["stage"]
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "trained.safetensors").write_text("tensors")
    row = {"loss": 2.0, "seconds": 0.5, "peak_memory_bytes": 7}
    (folder / "metrics.jsonl").write_text((json.dumps(row) + "\n") * stage["schedule"]["steps"])


def mixed(store: Store) -> Manifest:
    return store.make(MIXTURE, "test", {}, [], lambda folder: Outcome(details={"components": [{"samples": 24}]}))


def test_a_plan_names_the_same_artifact_for_the_same_definition_and_parents(recipe: Recipe) -> None:
    plan = plan_stage(recipe, "mine", "stage1", MIXTURE, None)
    assert plan == plan_stage(recipe, "mine", "stage1", MIXTURE, None)
    assert plan.artifact.startswith("runs/mine/stage1@")
    assert plan.parents == [MIXTURE]


def test_whatever_changes_what_is_learned_changes_the_name(recipe: Recipe, tmp_path: Path) -> None:
    names = {plan_stage(recipe, "mine", "stage1", MIXTURE, None).artifact}
    names.add(plan_stage(recipe, "mine", "stage1", "mixtures/tiny_pairs@2", None).artifact)
    names.add(plan_stage(recipe.model_copy(update={"seed": 7}), "mine", "stage1", MIXTURE, None).artifact)
    names.add(plan_stage(changed(recipe, 0, global_batch_size=16), "mine", "stage1", MIXTURE, None).artifact)
    (tmp_path / "qformer.safetensors").write_text("another bootstrap")
    names.add(plan_stage(recipe, "mine", "stage1", MIXTURE, None).artifact)
    assert len(names) == 5


def test_a_stage_is_handed_the_one_it_starts_from_and_no_other(recipe: Recipe) -> None:
    parents = [MIXTURE, "runs/mine/stage1@1"]
    assert plan_stage(recipe, "mine", "stage2", *parents).parents == parents
    for stage, previous in [("stage2", "runs/mine/stage3@1"), ("stage2", None), ("stage1", "runs/mine/stage1@1")]:
        with pytest.raises(HandoffError, match=f"{stage} starts from"):
            plan_stage(recipe, "mine", stage, MIXTURE, previous)


def test_a_stage_carries_on_what_those_before_it_trained() -> None:
    assert inherited(PUBLISHED, PUBLISHED.stage("stage1")) == []
    assert inherited(PUBLISHED, PUBLISHED.stage("stage2")) == ["connector.projections", "language_model.norms"]
    assert "language_model.lora" in inherited(PUBLISHED, PUBLISHED.stage("stage4"))
    assert adapters(PUBLISHED, PUBLISHED.stage("stage1")) is None
    assert adapters(PUBLISHED, PUBLISHED.stage("stage4")).rank == 64


def test_adapters_that_nobody_trained_cannot_be_inherited() -> None:
    recipe = changed(PUBLISHED, 1, lora={"rank": 64, "alpha": 16.0, "dropout": 0.05, "init": "inherit"})
    with pytest.raises(DefinitionError, match="stage1 holds no LoRA weights to inherit; write fresh"):
        inherited(recipe, recipe.stage("stage2"))


def test_trained_adapters_are_not_thrown_away() -> None:
    recipe = changed(PUBLISHED, 2, lora={"rank": 64, "alpha": 16.0, "dropout": 0.05, "init": "fresh"})
    with pytest.raises(DefinitionError, match="fresh adapters would replace those of stage2"):
        inherited(recipe, recipe.stage("stage3"))


def test_training_leaves_an_artifact_and_a_second_call_starts_nothing(store: Store, recipe: Recipe) -> None:
    run, launcher = small_run(recipe, catalog.hardware("cpu")), RecordingLauncher(train_in_pretence)
    first = train_stage(store, run, "mine", "stage1", mixed(store), None, launcher)
    assert first.details["last_loss"] == 2.0
    assert first.details["samples_per_second"] == 16.0
    assert first.details["samples_replaced"] == {}
    assert set(first.files) == {"job.json", "metrics.jsonl", "trained.safetensors"}
    assert train_stage(store, run, "mine", "stage1", mixed(store), None, launcher) == first
    second = train_stage(store, run, "mine", "stage2", mixed(store), first, launcher)
    assert second.parents == [MIXTURE, first.artifact]
    assert [job["previous"] for job in launcher.jobs] == [
        None,
        str(store.folder(first.artifact) / "trained.safetensors"),
    ]
    assert launcher.jobs[1]["inherits"] == ["connector.projections", "language_model.norms"]


def test_a_stage_that_would_repeat_samples_more_often_than_allowed_does_not_start(store: Store, recipe: Recipe) -> None:
    run, launcher = small_run(recipe, catalog.hardware("cpu")), RecordingLauncher(train_in_pretence)
    blend = run.mixtures["tiny_pairs"]
    capped = blend.components[0].model_copy(update={"max_epochs": 2.0})
    run.mixtures["tiny_pairs"] = blend.model_copy(update={"components": [capped]})
    with pytest.raises(DefinitionError, match=r"64 draws of the 24 samples of \$source are 2.67 epochs"):
        train_stage(store, run, "mine", "stage1", mixed(store), None, launcher)
    assert not launcher.jobs


def test_samples_that_others_stood_in_for_are_counted_by_source(store: Store, recipe: Recipe) -> None:
    def train_with_damage(folder: Path) -> None:
        train_in_pretence(folder)
        torn = {"source": "mine", "key": "a", "reason": "torn", "stand_in": "b"}
        record(folder, "sample_replaced", step=1, batch=1, rank=0, **torn)
        record(folder, "sample_replaced", step=1, batch=1, rank=1, **torn)  # again, after a restart with other ranks
        record(folder, "sample_replaced", step=2, batch=2, rank=0, **torn)
        record(folder, "sample_replaced", step=2, batch=2, rank=0, **torn | {"source": "theirs"})

    run, launcher = small_run(recipe, catalog.hardware("cpu")), RecordingLauncher(train_with_damage)
    first = train_stage(store, run, "mine", "stage1", mixed(store), None, launcher)
    assert first.details["samples_replaced"] == {"mine": 2, "theirs": 1}


def test_what_the_stage_cannot_learn_from_is_told_to_its_ranks_and_counted(store: Store, recipe: Recipe) -> None:
    drops, details = {"mine: prompt_too_long": 2}, {"longest_sequence": 90, "samples": [22]}
    outcome = Outcome(rows_in=24, rows_out=22, drops=drops, details=details)
    asked = []

    def check() -> Manifest:
        asked.append(True)
        return store.make("usable/tiny_pairs@1", "check", {}, [MIXTURE], lambda folder: outcome)

    run, launcher = small_run(recipe, catalog.hardware("cpu")), RecordingLauncher(train_in_pretence)
    for _ in range(2):
        made = train_stage(store, run, "mine", "stage1", mixed(store), None, launcher, check=check)
    assert asked == [True]
    assert launcher.jobs[0]["usable"] == made.details["usable"] == "usable/tiny_pairs@1"
    assert made.details["samples_left_out"] == drops


def test_hardware_does_not_change_the_name(store: Store, recipe: Recipe) -> None:
    launcher = RecordingLauncher(train_in_pretence)
    manifests = [
        train_stage(store, small_run(recipe, catalog.hardware(name)), "mine", "stage1", mixed(store), None, launcher)
        for name in ("cpu", "h200")
    ]
    assert manifests[0] == manifests[1]
    assert len(launcher.jobs) == 1


def test_a_training_that_ends_early_leaves_no_artifact(store: Store, recipe: Recipe) -> None:
    run = small_run(recipe, catalog.hardware("cpu"))
    with pytest.raises(HandoffError, match="ended without all of its steps"):
        train_stage(store, run, "mine", "stage1", mixed(store), None, RecordingLauncher())
    assert store.names("runs/mine/stage1") == []


def test_a_base_in_four_bits_without_its_library_is_refused_before_anything_starts(
    store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nf4, "LIBRARY", "no_such_library")
    run = small_run(recipe, catalog.hardware("cpu").model_copy(update={"quantize_base": "nf4"}))
    launcher = RecordingLauncher()
    with pytest.raises(SetupError, match=r"needs the library no_such_library, .*'tinygptv\[nf4\]', or write none"):
        train_stage(store, run, "mine", "stage1", mixed(store), None, launcher)
    assert launcher.jobs == []


def test_metrics_end_where_a_crash_tore_them(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]
    assert read_metrics(tmp_path / "absent.jsonl") == []


def test_differences_are_named_field_by_field() -> None:
    before = {"stage": {"schedule": {"peak_lr": 0.003, "steps": 8}, "trains": ["a"]}, "seed": 1}
    after = {"stage": {"schedule": {"peak_lr": 0.001, "steps": 8}, "trains": ["a", "b"]}, "seed": 1, "lora": None}
    assert differences(before, after) == [
        "stage.schedule.peak_lr: 0.003 → 0.001",
        "stage.trains: ['a'] → ['a', 'b']",
    ]
    assert differences(before, before) == []


def test_an_attempt_with_other_settings_is_not_lost_in_silence(store: Store, recipe: Recipe) -> None:
    def crash(folder: Path) -> None:
        (folder / "checkpoints" / "step000300").mkdir(parents=True)
        raise LaunchError("crashed")

    profile = catalog.hardware("cpu")
    with pytest.raises(LaunchError, match="crashed"):
        train_stage(store, small_run(recipe, profile), "mine", "stage1", mixed(store), None, RecordingLauncher(crash))
    other = small_run(changed(recipe, 0, global_batch_size=16), profile)
    launcher = RecordingLauncher(train_in_pretence)
    with pytest.raises(HandoffError, match=r"up to step000300, .* stage.global_batch_size: 8 → 16. Undo these changes"):
        train_stage(store, other, "mine", "stage1", mixed(store), None, launcher)
    assert launcher.jobs == []
    train_stage(store, other, "yours", "stage1", mixed(store), None, launcher)
    train_stage(store, small_run(recipe, profile), "mine", "stage1", mixed(store), None, launcher)


def test_what_is_done_about_trouble_and_kept_on_the_way_may_be_changed_before_going_on(recipe: Recipe) -> None:
    patient = changed(recipe, 0, watch={"then": "roll_back"}, keep={"last": 5, "best": 1})
    assert plan_stage(patient, "mine", "stage1", MIXTURE, None) == plan_stage(recipe, "mine", "stage1", MIXTURE, None)


def test_checkpoints_that_are_to_outlast_the_stage_are_part_of_what_it_leaves(store: Store, recipe: Recipe) -> None:
    def train(folder: Path) -> None:
        train_in_pretence(folder)
        for step, loss in {300: 2.0, 600: 1.0, 900: 1.5}.items():
            (folder / "checkpoints" / f"step{step:06d}").mkdir()
            (folder / "checkpoints" / f"step{step:06d}" / "state.json").write_text(json.dumps({"loss": loss}))

    run = small_run(changed(recipe, 0, keep={"best": 1}), catalog.hardware("cpu"))
    left = train_stage(store, run, "mine", "stage1", mixed(store), None, RecordingLauncher(train))
    assert [name for name in left.files if "/" in name] == ["checkpoints/step000600/state.json"]
