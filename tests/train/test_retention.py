"""Which checkpoints are kept, during a stage and after it."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from tinygptv import catalog
from tinygptv.definitions.recipe import Keep, Stage
from tinygptv.train.retention import checkpoints_in, losses_in, most_at_once, outstanding, remove_passing

STAGE = catalog.recipe("tinygptv_tiny").stages[0]


def stage(steps: int, checkpoint_every: int, **fields: object) -> Stage:
    schedule = STAGE.schedule.model_dump() | {"steps": steps, "warmup_steps": 1, "rounds": 1}
    content = STAGE.model_dump() | {"schedule": schedule, "checkpoint_every": checkpoint_every, **fields}
    return Stage.model_validate(content)


def save(folder: Path, **losses: float) -> None:
    for name, loss in losses.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "state.json").write_text(json.dumps({"loss": loss}))


def test_the_best_are_those_of_the_least_loss_and_of_equals_the_first() -> None:
    losses = {10: 2.0, 20: 1.0, 30: None, 40: 1.0, 50: 0.5}
    assert outstanding(losses, Keep(best=2)) == {50, 20}
    assert outstanding(losses, Keep(every=20)) == {20, 40}
    assert outstanding({0: None, 10: 1.0}, Keep(every=10)) == {10}
    assert outstanding(losses, Keep()) == set()


def test_a_checkpoint_whose_loss_cannot_be_read_is_not_the_best_and_is_kept_while_it_is_the_last(
    tmp_path: Path,
) -> None:
    save(tmp_path, step000010=2.0, step000020=1.0)
    (tmp_path / "step000020" / "state.json").write_text('{"lo')
    assert losses_in(tmp_path) == {10: 2.0, 20: None}
    remove_passing(tmp_path, Keep(best=1), also=1)
    assert sorted(checkpoints_in(tmp_path)) == [10, 20]


def test_after_the_stage_the_outstanding_stay_and_without_any_not_even_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    save(folder, step000010=2.0, step000020=1.0, step000030=1.5)
    remove_passing(folder, Keep(best=1))
    assert sorted(checkpoints_in(folder)) == [20]
    remove_passing(folder, Keep())
    assert not folder.exists()
    remove_passing(folder, Keep())


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, 2 + 1),
        ({"keep": {"last": 4, "best": 2}}, 6 + 1),
        ({"keep": {"every": 30}}, 2 + 3 + 1),
        # Only so many are ever saved: the last step leaves what was trained, not a checkpoint.
        ({"keep": {"last": 50}}, 9 + 1),
        ({"keep": {"last": 50}, "watch": {"then": "roll_back"}}, 10 + 1),
    ],
)
def test_the_disk_must_hold_all_that_are_kept_and_the_one_being_written(fields: dict, most: int) -> None:
    assert most_at_once(stage(100, 10, **fields)) == most


def test_what_is_to_be_kept_must_be_saved() -> None:
    with pytest.raises(ValidationError, match=r"keep\.every: 25 is not a multiple of checkpoint_every, 10"):
        stage(100, 10, keep={"every": 25})
