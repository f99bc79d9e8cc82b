"""Every fuzz target for a minute, from a fixed seed; `make fuzz` takes an hour, and other seeds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.runner import run_target, targets

_SECONDS = float(os.environ.get("TINYGPTV_FUZZ_SECONDS", "60"))

_FRAIL = """
import os, sys

def cases(random):
    return random.choice((b"good", b"bad", b"deadly", b"endless", b"hungry", b"last"))

def check(data):
    assert data != b"bad", "it is bad"
    if data == b"deadly":
        os.abort()
    while data == b"endless":
        pass
    if data == b"hungry":
        bytearray(1 << 40)
    if data == b"last":
        sys.exit(0)
"""

_UNDRAWN = """
def cases(random):
    raise KeyError("odd")

def check(data):
    pass
"""


@pytest.mark.parametrize("target", targets())
def test_nothing_fails_in_a_minute(target: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    summary = run_target(target, _SECONDS, tmp_path)
    assert summary.cases
    assert not summary.failures, capfd.readouterr().out


def test_a_case_that_kills_its_process_or_never_ends_is_a_failure_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Seed 1147 draws two good cases and all of the others before the last."""
    failing = {0: b"endless", 2: b"hungry", 3: b"deadly", 5: b"bad"}
    (tmp_path / "tests" / "fuzz").mkdir(parents=True)
    (tmp_path / "tests" / "fuzz" / "frail.py").write_text(_FRAIL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    summary = run_target("frail", 600.0, tmp_path / "found", seed=1147, case_seconds=1.0)
    assert (summary.cases, summary.checks, summary.failures) == (6, 2, 4)
    saved = {path.name: path.read_bytes() for path in (tmp_path / "found").glob("*.input")}
    assert saved == {f"frail-1147-{case}.input": data for case, data in failing.items()}
    assert [line.partition(" fails")[0] for line in capfd.readouterr().out.splitlines()] == [
        f"frail: seed 1147, case {case}" for case in failing
    ]


def test_a_target_whose_cases_cannot_be_drawn_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests" / "fuzz").mkdir(parents=True)
    (tmp_path / "tests" / "fuzz" / "drawn.py").write_text(_UNDRAWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"case 0 cannot be drawn:(?s:.*)KeyError: 'odd'"):
        run_target("drawn", 600.0, tmp_path / "found")


def test_an_input_that_failed_can_be_checked_again(tmp_path: Path) -> None:
    path = tmp_path / "urls-1-2.input"
    path.write_bytes(b"http://a.example/")
    again = [sys.executable, "-m", "tests.fuzz", "--replay", str(path)]
    assert subprocess.run(again, cwd=Path(__file__).parents[2], check=False).returncode == 0
    path.write_bytes(b"\xff")
    assert subprocess.run(again, cwd=Path(__file__).parents[2], check=False, capture_output=True).returncode == 1
