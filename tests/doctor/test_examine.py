"""All checks together, and the command line. The whole round is `make doctor`."""

from pathlib import Path

import pytest

from tinygptv import doctor
from tinygptv.cli.main import main
from tinygptv.doctor import Finding
from tinygptv.errors import SetupError


def test_one_failed_check_does_not_hide_the_next_and_makes_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> str:
        raise SetupError("broken; mend it")

    monkeypatch.setattr(doctor, "checks", lambda *_: iter([("first", fails), ("second", lambda: "fine")]))
    assert list(doctor.examine(tmp_path, "tinygptv_tiny")) == [
        Finding("first", False, "SetupError: broken; mend it"),
        Finding("second", True, "fine"),
    ]
    assert main(["doctor", "--workdir", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "FAIL  first" in out and "ok    second" in out and "1 of these need attention" in out


def test_an_unknown_recipe_is_refused_before_anything_is_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--workdir", str(tmp_path), "--recipe", "tinygptw"]) == 2
    out, err = capsys.readouterr()
    assert (out, "no recipe named" in err) == ("", True)


def test_a_release_is_asked_in_place_of_the_shipped_language_model(tmp_path: Path) -> None:
    without = [name for name, _ in doctor.checks(tmp_path, "tinygptv_tiny", None)]
    given = [name for name, _ in doctor.checks(tmp_path, "tinygptv_tiny", tmp_path)]
    assert ("shipped language model" in without, "release" in without) == (True, False)
    assert ("shipped language model" in given, "release" in given) == (False, True)
