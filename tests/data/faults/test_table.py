"""The table of faults names only tests that exist."""

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
SETTINGS = {"requests_per_second_per_host", "min_bytes_per_second"}


def test_every_test_that_the_table_of_faults_names_exists() -> None:
    named = set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+){3,})`", (CHECKOUT / "docs" / "faults.md").read_text()))
    tests = "".join(path.read_text() for path in (CHECKOUT / "tests").rglob("test_*.py"))
    assert len(named) > 50
    assert {name for name in named - SETTINGS if f"def test_{name}(" not in tests} == set()
