"""A recipe beside itself without one thing at a time: what is shared, what a variant becomes, what is shown of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.miniature import HARDWARE, RECIPE, SOURCE, write_miniature
from tinygptv.cli.main import main
from tinygptv.definitions.ablations import shortened
from tinygptv.errors import DefinitionError, GateError, LaunchError
from tinygptv.journey import Arrow, Journey, open_journey
from tinygptv.runs.ablation import Trained, Variant, follow, variants, with_shuffled_tower
from tinygptv.runs.comparison import CURVES, FIGURES, PAGE, compare, table
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.train.events import record
from tinygptv.train.job import JOB, METRICS

STEPS = {"stage1": 40, "stage2": 40}


@pytest.fixture(autouse=True)
def definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in write_miniature(tmp_path / "mini", STEPS).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def two(store: Store) -> list[Variant]:
    """The miniature recipe whole and without adapters, at a quarter of its length."""
    return variants("first", RECIPE, SOURCE, HARDWARE, store.workdir, without=["lora"], steps_scale=0.25)


def pretended(value: float, loss: float) -> Callable[[Journey, Arrow], Manifest]:
    """Leaves for every arrow what the comparison reads: metrics, and scores of 200 items around `value`."""

    def make(journey: Journey, arrow: Arrow) -> Manifest:
        def build(folder: Path) -> Outcome:
            rows = [{"step": step, "loss": loss + 1 / step, "lr": 1e-3} for step in range(1, 11)]
            (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
            scores = {"value": value, "low": value - 0.05, "high": value + 0.05, "chance": 0.5, "n": 200}
            return Outcome(details={"last_loss": loss, **scores})

        place = artifact_name(f"runs/{journey.name}/{arrow.verb}-{arrow.subject}{arrow.benchmark}", {}, [])
        return journey.store.make(place, "pretend", {}, [], build)

    return make


def failing(error: Exception, *events: str) -> Callable[[Journey, Arrow], Manifest]:
    """As `pretended` up to stage 2, whose ranks leave half a draft and these events, and fail."""

    def make(journey: Journey, arrow: Arrow) -> Manifest:
        if arrow.subject != "stage2":
            return pretended(0.9, 0.3)(journey, arrow)
        draft = journey.store.draft(f"runs/{journey.name}/stage2@0123456789")
        draft.mkdir(parents=True)
        (draft / JOB).write_text("{}")
        (draft / METRICS).write_text('{"step": 1, "loss": 2.5, "lr": 0.001}\n')
        for event in events:
            record(draft, event, step=2, told="the loss is nan; lower peak_lr")
        raise error

    return make


def test_variants_are_runs_of_their_own_that_share_all_before_training(two: list[Variant]) -> None:
    whole, plainer = two
    assert [(one.name, one.journey.name) for one in two] == [
        ("whole", "first-x0.25"),
        ("without_lora", "first-x0.25-without_lora"),
    ]
    assert [stage.schedule.steps for stage in whole.journey.run.recipe.stages] == [10, 10]
    assert [stage.lora for stage in plainer.journey.run.recipe.stages] == [None, None]
    assert whole.journey.run.mixtures == plainer.journey.run.mixtures
    assert [arrow.verb for arrow in whole.arrows()] == ["download", "filter", "mix", "train", "train", "evaluate"]
    assert whole.arrows()[-1] == Arrow("evaluate", "stage2", "mini_benchmark")


def test_at_full_length_the_whole_recipe_is_the_run_itself(store: Store) -> None:
    whole = variants("first", RECIPE, SOURCE, HARDWARE, store.workdir, without=[])[0].journey
    assert (whole.name, whole.run) == ("first", open_journey("first", RECIPE, SOURCE, HARDWARE, store.workdir).run)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"without": ["lorra"]}, "without 'lorra': not one of the ablations. Did you mean 'lora'?"),
        ({"without": ["input_norm"]}, "'without_input_norm' cannot be applied"),
        ({"steps_scale": 0.0}, "want more than 0 and at most 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_made(
    wrong: dict[str, object], told: str, tmp_path: Path
) -> None:
    workdir = tmp_path / "nothing"
    with pytest.raises(DefinitionError, match=told):
        variants("first", RECIPE, SOURCE, HARDWARE, str(workdir), **{"without": [], "shuffled_tower": True} | wrong)
    assert not workdir.exists()


def test_shorter_stages_warm_up_for_less_and_never_vanish() -> None:
    recipe = open_journey("first", "tinygptv_tiny").run.recipe
    schedule = shortened(recipe, 0.25).stages[0].schedule
    assert (schedule.steps, schedule.warmup_steps, schedule.peak_lr) == (50, 10, recipe.stages[0].schedule.peak_lr)
    assert shortened(recipe, 0.0001).stages[0].schedule.steps == 1
    assert shortened(recipe, 1.0) == recipe


def test_a_shuffled_tower_has_the_same_values_in_other_places(store: Store) -> None:
    recipe = open_journey("first", RECIPE, SOURCE, HARDWARE, store.workdir).run.recipe
    changed = with_shuffled_tower(store, recipe)
    before = load_file(recipe.model.vision_encoder.weights)
    after = load_file(changed.model.vision_encoder.weights)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].shape == tensor.shape
        assert after[name].flatten().sort().values.equal(tensor.flatten().sort().values)
    matrices = [name for name, tensor in before.items() if tensor.numel() > 64 and tensor.std() > 0]
    assert matrices and not any(before[name].equal(after[name]) for name in matrices)
    assert with_shuffled_tower(store, recipe) == changed


def test_the_comparison_shows_scores_losses_and_what_is_measurably_worse(two: list[Variant]) -> None:
    results = [follow(two[0], pretended(0.9, 0.3)), follow(two[1], pretended(0.7, 0.8))]
    made = compare("first", results, 0.25)
    folder = two[0].journey.store.folder(made.artifact)
    page = (folder / PAGE).read_text()
    assert "without lora: measurably worse on 1 of 1 (mini benchmark)." in page
    assert "−0.20" in page and "<script" not in page
    assert (folder / CURVES).read_text().count("<polyline") == 2 * 2
    said = json.loads((folder / FIGURES).read_text())["variants"]
    assert [(one["name"], one["outcome"], one["last_loss"]["stage2"]) for one in said] == [
        ("whole", "trained", 0.3),
        ("without_lora", "trained", 0.8),
    ]
    assert said[1]["scores"]["mini_benchmark"]["value"] == 0.7
    assert compare("first", results, 0.25) == made


@pytest.mark.parametrize(
    ("error", "events", "outcome", "told"),
    [
        (LaunchError("rank 0"), ["loss_not_finite", "rank_failed"], "halted", "stage2, step 2: the loss is nan"),
        (GateError("stage2 falls short"), [], "stopped at a gate", "stage2 falls short"),
    ],
)
def test_a_training_that_ends_early_is_a_result(
    error: Exception, events: list[str], outcome: str, told: str, two: list[Variant]
) -> None:
    results = [follow(two[0], pretended(0.9, 0.3)), follow(two[1], failing(error, *events))]
    assert (results[1].outcome, results[1].scores) == (outcome, {}) and told in results[1].told
    folder = two[0].journey.store.folder(compare("first", results, 0.25).artifact)
    assert told in (folder / PAGE).read_text()
    assert table(results)[1] == {"variant": "without_lora", "outcome": outcome, "stage1": "loss 0.300"}


def test_a_rank_that_was_lost_says_nothing_about_a_recipe(two: list[Variant]) -> None:
    with pytest.raises(LaunchError, match="rank 1 was killed"):
        follow(two[1], failing(LaunchError("rank 1 was killed"), "loss_not_finite", "rolled_back", "rank_failed"))


def test_a_halted_training_keeps_its_curve(two: list[Variant]) -> None:
    halted: Trained = follow(two[1], failing(LaunchError("rank 0"), "gradients_exploded"))
    assert set(halted.metrics) == {"stage1", "stage2"} and set(halted.stages) == {"stage1"}


def test_a_dry_run_names_every_variant_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workdir = tmp_path / "nothing"
    options = ["--recipe", RECIPE, "--source", SOURCE, "--hardware", HARDWARE, "--workdir", str(workdir)]
    assert main(["ablate", "--without", "lora", "--shuffled-tower", "--dry-run", *options]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert list(dict.fromkeys(line[0] for line in lines)) == ["whole", "without_lora", "shuffled_tower"]
    assert not workdir.exists()
