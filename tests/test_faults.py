"""The tables of faults are true as long as the tests they name exist, and pass."""

import re
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent


def rows(document: str) -> list[list[str]]:
    """The cells of every table in a document, without the rules below its heads."""
    lines = (CHECKOUT / "docs" / document).read_text().splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]


def defined_in(paths: list[Path]) -> set[str]:
    return {name for path in paths for name in re.findall(r"^def test_(\w+)\(", path.read_text(), re.MULTILINE)}


def test_every_test_that_the_table_names_exists() -> None:
    named = {name for row in rows("faults.md") for name in re.findall(r"`([a-z0-9_]+)`", row[-1])}
    assert len(named) > 40
    assert named <= defined_in(list((CHECKOUT / "tests").rglob("test_*.py")))


def test_every_fault_of_training_has_a_test_in_the_file_that_is_named() -> None:
    head, *faults = rows("faults_in_training.md")
    assert head[-1] == "test"
    assert len(faults) > 15
    for fault, *_, shown in faults:
        file, _, names = shown.partition(": ")
        path = CHECKOUT / "tests" / file.strip("`")
        named = re.findall(r"`(\w+)`", names)
        assert named, f"{fault}: no test is named"
        assert set(named) <= defined_in([path]), f"{fault}: {path} has no such test"
