import json
import logging
from pathlib import Path

import pytest

from tinygptv.artifacts import sha256_of
from tinygptv.train.checkpoint import newest_valid


def write(folder: Path, step: int) -> Path:
    path = folder / f"step{step:06d}"
    path.mkdir(parents=True)
    (path / "model.pt").write_text(f"weights of {step}")
    (path / "optimizer.pt").write_text(f"moments of {step}")
    hashes = {name: sha256_of(path / name) for name in ("model.pt", "optimizer.pt")}
    (path / "hashes.json").write_text(json.dumps({"shape": {}, "files": hashes}))
    return path


def test_without_checkpoints_training_begins_at_the_beginning(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "checkpoints") is None


def test_the_newest_is_found_by_its_number(tmp_path: Path) -> None:
    write(tmp_path, 9)
    assert newest_valid(tmp_path) == (9, tmp_path / "step000009")
    write(tmp_path, 10)
    assert newest_valid(tmp_path) == (10, tmp_path / "step000010")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: (path / "model.pt").write_text("weights of "), "model.pt is not what was written"),
        (lambda path: (path / "model.pt").unlink(), "model.pt is missing"),
        (lambda path: (path / "hashes.json").unlink(), "hashes.json is missing"),
        (lambda path: (path / "hashes.json").write_text('{"shape"'), "hashes.json is damaged"),
    ],
)
def test_a_damaged_one_is_skipped_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage, told: str
) -> None:
    write(tmp_path, 100)
    damage(write(tmp_path, 200))
    with caplog.at_level(logging.WARNING):
        assert newest_valid(tmp_path) == (100, tmp_path / "step000100")
    assert told in caplog.text


def test_one_that_was_still_being_written_is_not_a_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 100).rename(tmp_path / ".partial-step000100")
    (tmp_path / "latest").write_text("step000100")
    assert newest_valid(tmp_path) is None
