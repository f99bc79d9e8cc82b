"""The doctor finds what is wrong: each trap is set, and named. The whole round of checks is `make doctor`."""

import contextlib
import json
import sys
import sysconfig
from pathlib import Path

import psutil
import pytest

from tinygptv import doctor
from tinygptv.cli import main
from tinygptv.doctor import Finding
from tinygptv.errors import SetupError, StorageError


def test_the_quick_checks_pass_here(tmp_path: Path) -> None:
    assert "GiB free" in doctor.workdir_is_writable(tmp_path / "work")
    assert doctor.definitions_load().endswith("definitions")
    assert "refused" in doctor.numbers_written_as_text_are_refused()
    assert doctor.dataclasses_are_the_standard_library().endswith("dataclasses.py")
    assert "cpu" in doctor.torch_computes()
    assert doctor.masks_reach_the_qformer() == "a masked token does not matter"
    assert "spread" in doctor.vision_initialisation_is_overridden()


def test_the_server_accepts_null_fields_and_plans_scheduled_runs() -> None:
    with contextlib.ExitStack() as stack:
        server = doctor.TemporaryServer(stack)
        assert doctor.null_fields_are_accepted(server) == "accepted"
        assert doctor.scheduled_runs_are_planned(server).startswith("planned")


def test_a_shadowing_dataclasses_backport_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataclasses.py").touch()
    original = sysconfig.get_path
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path) if name == "purelib" else original(name))
    with pytest.raises(SetupError, match="shadows the standard library"):
        doctor.dataclasses_are_the_standard_library()


def test_a_workdir_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="choose another workdir"):
        doctor.workdir_is_writable(tmp_path / "file" / "work")


def test_a_full_disk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FREE_DISK_GIB", 10**9)
    with pytest.raises(SetupError, match="free some space"):
        doctor.workdir_is_writable(tmp_path)


@pytest.mark.parametrize("content", [b"other bytes", None])
def test_a_damaged_or_missing_backbone_is_found(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backbones" / "shapes"
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text(json.dumps({"tower": {"files": {"weights": "0" * 64}}}))
    if content is not None:
        (folder / "weights").write_bytes(content)
    monkeypatch.setattr(doctor, "PACKAGE", tmp_path)
    with pytest.raises(SetupError, match="missing or damaged"):
        doctor.backbones_are_complete()


def test_a_process_that_fails_is_reported_with_its_last_words() -> None:
    with pytest.raises(SetupError, match="RuntimeError: no interface"):
        doctor.run_quietly([sys.executable, "-c", "raise RuntimeError('no interface')"])


def test_a_process_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PATIENCE_SECONDS", 5)
    child = "import time; time.sleep(600)"
    code = (
        "import pathlib, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    with pytest.raises(SetupError, match="no answer after 5 s"):
        doctor.run_quietly([sys.executable, "-c", code])
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_one_failed_check_does_not_hide_the_next_and_makes_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> str:
        raise SetupError("broken; mend it")

    monkeypatch.setattr(doctor, "checks", lambda _: iter([("first", fails), ("second", lambda: "fine")]))
    assert list(doctor.examine(tmp_path)) == [
        Finding("first", False, "SetupError: broken; mend it"),
        Finding("second", True, "fine"),
    ]
    assert main(["doctor", "--workdir", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "FAIL  first" in out and "ok    second" in out and "1 of these need attention" in out
