"""Sources of pairs made for a test: a table of JSON lines, whose addresses may be on loopback."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tinygptv.definitions.source import Download, PairsSource, Table


def pairs_table(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """The rows as JSON lines in a file of the folder."""
    table = folder / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


def pairs_source(table: Path, download: Mapping[str, Any] | None = None, **changed: Any) -> PairsSource:
    """A source over a table, which need not be there; `download` are the options of fetching."""
    given: dict[str, Any] = {
        "kind": "pairs",
        "about": "test",
        "licence": "CC0-1.0",
        "tables": [Table(location=str(table))],
        "filter": "web_pairs",
        "allow_private": True,
    }
    options = {"download": Download(**download)} if download else {}
    return PairsSource(**(given | options | changed))
