"""Kinds are found by their file names, wherever their package looks."""

import importlib
from pathlib import Path

import pytest

from tinygptv.definitions.kinds import kinds, load_kind
from tinygptv.errors import DefinitionError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "kinds_of_fruit"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "apple.py").write_text("COLOUR = 'red'\n")
    (folder / "pear.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return folder.name


def test_every_module_of_the_package_is_a_kind_and_none_is_imported(package: str) -> None:
    assert kinds(package) == ["apple", "pear"]


def test_a_kind_is_loaded_by_its_name(package: str) -> None:
    assert load_kind(package, "apple").COLOUR == "red"


def test_an_unknown_kind_is_refused_with_the_nearest_name(package: str) -> None:
    with pytest.raises(DefinitionError, match=r"no 'aple'\. Did you mean 'apple'"):
        load_kind(package, "aple")
