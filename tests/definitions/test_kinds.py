"""Kinds are found by file name in their package."""

import importlib
import sys
from pathlib import Path

import pytest

from tinygptv.definitions.base import Definition
from tinygptv.definitions.kinds import kind_of, kinds, load_kind, the_class
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
    for name in [name for name in sys.modules if name.startswith(folder.name)]:  # of the test before
        monkeypatch.delitem(sys.modules, name)
    return folder.name


def test_every_module_of_the_package_is_a_kind_and_none_is_imported(package: str) -> None:
    assert kinds(package) == ["apple", "pear"]


def test_a_kind_is_loaded_by_its_name(package: str) -> None:
    assert load_kind(package, "apple").COLOUR == "red"


def test_an_unknown_kind_is_refused_with_the_nearest_name(package: str) -> None:
    with pytest.raises(DefinitionError, match=r"no 'aple' in kinds_of_fruit/\. Did you mean 'apple'"):
        load_kind(package, "aple")


def test_a_kinds_class_is_the_one_that_its_file_defines(tmp_path: Path, package: str) -> None:
    base = "from tinygptv.definitions.base import Definition\n"
    (tmp_path / package / "plum.py").write_text(f"{base}class Plum(Definition):\n    pass\n")
    plum = the_class(load_kind(package, "plum"), Definition)
    assert plum.__name__ == "Plum"
    assert kind_of(plum()) == "plum"


def test_a_file_that_defines_no_kind_is_named(package: str) -> None:
    with pytest.raises(TypeError, match=r"apple\.py: defines 0 classes that extend Definition"):
        the_class(load_kind(package, "apple"), Definition)
