"""The machine checks: disk space and devices."""

import re
from pathlib import Path

import pytest
import torch

from tinygptv.doctor import machine
from tinygptv.errors import SetupError, StorageError


def test_a_workdir_with_room_passes(tmp_path: Path) -> None:
    assert "GiB free" in machine.workdir_is_writable(tmp_path / "work")


def test_a_workdir_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="choose another workdir"):
        machine.workdir_is_writable(tmp_path / "file" / "work")


def test_a_full_disk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "FREE_DISK_GIB", 10**9)
    with pytest.raises(SetupError, match="free some space"):
        machine.workdir_is_writable(tmp_path)


def test_a_device_reports_its_model_and_its_speed_in_bf16() -> None:
    assert re.search(r"\d+ cores, \d+ GiB, torch .*, bf16 \d+\.\d x as fast", machine.processor_computes())
    assert machine.accelerators_compute().startswith("cuda:0" if torch.cuda.is_available() else "none")


def test_a_device_that_computes_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "ones", lambda *size, **options: torch.full(size, 1.5, **options))
    with pytest.raises(SetupError, match="torch is wrong on cpu"):
        machine.computes(torch.device("cpu"))
