"""The table of faults is true as long as the tests it names exist, and pass."""

import re
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent


def test_every_test_that_the_table_names_exists() -> None:
    defined = {
        name
        for path in (CHECKOUT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def test_(\w+)\(", path.read_text(), re.MULTILINE)
    }
    rows = [line for line in (CHECKOUT / "docs" / "faults.md").read_text().splitlines() if line.startswith("| ")]
    named = {name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row.rsplit("|", 2)[1])}
    assert len(named) > 40
    assert named <= defined
