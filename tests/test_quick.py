"""The choice of quick tests stays true: what is named as slow exists, and a quick test that starts a process fails."""

import multiprocessing
import subprocess
from pathlib import Path

import pytest

from tests.quick import SLOW, SLOW_FIXTURES, TESTS


def test_what_is_named_as_slow_is_there_and_named_once() -> None:
    assert [name for name in SLOW if not (TESTS / name).exists()] == []
    inside_another = [name for name in SLOW if any(str(parent) in SLOW for parent in Path(name).parents)]
    assert inside_another == []
    assert len(set(SLOW)) == len(SLOW)


def test_every_slow_fixture_is_there() -> None:
    defined = "".join(path.read_text() for path in TESTS.rglob("conftest.py"))
    assert [name for name in SLOW_FIXTURES if f"def {name}(" not in defined] == []


def test_a_quick_test_that_starts_a_process_is_told_where_it_belongs() -> None:
    with pytest.raises(AssertionError, match=r"name its file in SLOW of tests/quick\.py"):
        subprocess.run(["true"], check=True)
    with pytest.raises(AssertionError, match="a quick test starts no process"):
        multiprocessing.get_context("spawn").Process(target=print).start()
