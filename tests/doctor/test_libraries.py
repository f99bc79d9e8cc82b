"""The habits of libraries: right here, and found where they are wrong."""

import sysconfig
from pathlib import Path

import pytest

from tinygptv.doctor import libraries
from tinygptv.errors import SetupError


def test_the_libraries_here_behave() -> None:
    assert libraries.definitions_load().endswith("definitions")
    assert "refused" in libraries.numbers_written_as_text_are_refused()
    assert libraries.dataclasses_are_the_standard_library().endswith("dataclasses.py")
    assert libraries.masks_reach_the_qformer() == "a masked token does not matter"
    assert "spread" in libraries.vision_initialisation_is_overridden()


def test_a_shadowing_dataclasses_backport_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataclasses.py").touch()
    original = sysconfig.get_path
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path) if name == "purelib" else original(name))
    with pytest.raises(SetupError, match="shadows the standard library"):
        libraries.dataclasses_are_the_standard_library()
