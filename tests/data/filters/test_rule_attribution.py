"""Rules that the shipped chains share, asked about rows they were made for."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.judged import dropped, write_rows
from tinygptv import catalog


@pytest.mark.parametrize("name", ["laion_pairs", "web_pairs"])
def test_bytes_that_are_not_those_the_table_hashed_are_dropped(tmp_path: Path, name: str) -> None:
    whole = catalog.filter_chain(name)
    (rule,) = (rule for rule in whole.rules if rule.name == "other_bytes")
    steps: dict[str, Any] = {"decontaminate": None, "placeholders": [], "duplicates": [], "balance": None}
    rows: list[dict[str, Any]] = [
        {"caption": "as published", "content_sha256": "ab12", "table_sha256": "AB12"},
        {"caption": "replaced by its host", "content_sha256": "ab12", "table_sha256": "cd34"},
        {"caption": "never hashed", "content_sha256": "ab12", "table_sha256": None},
        {"caption": "fetched by an engine that does not hash", "content_sha256": None, "table_sha256": "cd34"},
    ]
    folder = write_rows(tmp_path / "rows", rows)
    assert dropped(folder, whole.model_copy(update=steps | {"rules": [rule]})) == {1: "other_bytes"}
