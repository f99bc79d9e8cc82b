"""Columns that a source takes along: as JSON while rows are planned, then as columns of the sidecar.

The type of a column is what all of its values are, wherever they come from: a column of CSV in which every value is a
number is one of numbers. Only after the last row is that known.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from tinygptv.data.columns.arrow import parquet

COLUMN = "carried"
_BATCH_ROWS = 10_000
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,18}")
_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_MOST = 2**63


def packed(values: Mapping[str, Any]) -> str | None:
    """The values of one row that there are; None if there is none."""
    there = {name: _plain(value) for name, value in values.items() if not _is_missing(value)}
    return json.dumps(there, ensure_ascii=False, default=_plain) if there else None


def carried_types(plan: Path) -> dict[str, str]:
    """Sidecar column → DuckDB type, in the order of names, of what the rows of a plan carry."""
    kinds: defaultdict[str, set[str]] = defaultdict(set)
    for batch in parquet(plan).iter_batches(_BATCH_ROWS, columns=[COLUMN]):
        for row in batch[COLUMN].drop_null().to_pylist():
            for name, value in json.loads(row).items():
                kinds[name].add(_kind(value))
    return {name: _common(found) for name, found in sorted(kinds.items())}


def carried_values(row: str | None, types: Mapping[str, str]) -> dict[str, Any]:
    """The carried columns of one row, as their types have them."""
    values = {} if row is None else json.loads(row)
    return {name: _typed(values.get(name), kind) for name, kind in types.items()}


def _plain(value: Any) -> Any:
    """As JSON has it; bytes as text or else in hexadecimal."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, (bool, int, float, list, dict)) or value is None:
        return value
    return str(value)


def _is_missing(value: Any) -> bool:
    is_blank = isinstance(value, (str, bytes)) and not value.strip()
    return value is None or is_blank or (isinstance(value, float) and not math.isfinite(value))


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "BOOLEAN"
    if isinstance(value, int):
        return "BIGINT" if -_MOST <= value < _MOST else "VARCHAR"
    if isinstance(value, float):
        return "DOUBLE"
    if isinstance(value, str):
        text = value.strip()
        if _WHOLE.fullmatch(text):
            return _kind(int(text))
        return "DOUBLE" if _NUMBER.fullmatch(text) and any(map(str.isdigit, text)) else "VARCHAR"
    return "VARCHAR"


def _common(kinds: Iterable[str]) -> str:
    found = set(kinds)
    if found == {"BIGINT", "DOUBLE"}:
        return "DOUBLE"
    return found.pop() if len(found) == 1 else "VARCHAR"


def _typed(value: Any, kind: str) -> Any:
    if value is None:
        return None
    match kind:
        case "BIGINT":
            return int(value)
        case "DOUBLE":
            return float(value)
        case "VARCHAR":
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        case _:
            return value
