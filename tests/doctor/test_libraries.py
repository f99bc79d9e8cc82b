"""The library checks pass here, and find wrong versions."""

import sysconfig
from pathlib import Path

import pytest

from tinygptv.doctor import libraries
from tinygptv.errors import SetupError


def test_the_installed_libraries_pass() -> None:
    assert libraries.definitions_load().endswith("definitions")
    assert "refused" in libraries.numbers_written_as_text_are_refused()
    assert libraries.dataclasses_are_the_standard_library().endswith("dataclasses.py")
    assert libraries.masks_reach_the_qformer() == "masked tokens have no effect"
    assert "standard deviation" in libraries.vision_initialisation_is_overridden()


def test_a_shadowing_dataclasses_backport_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataclasses.py").touch()
    original = sysconfig.get_path
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path) if name == "purelib" else original(name))
    with pytest.raises(SetupError, match="shadows the standard library"):
        libraries.dataclasses_are_the_standard_library()
