"""Carried columns: stored as JSON while rows are planned, then as typed columns of the sidecar.

A column's type is the common type of all its values, whatever layout they come from: a CSV column in which every value
is a number becomes numeric. So it is known only after the last row.
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
_BIGINT_LIMIT = 2**63


def packed(values: Mapping[str, Any]) -> str | None:
    """The values of one row that are present, as JSON; None if there are none."""
    there = {name: _plain(value) for name, value in values.items() if not _is_missing(value)}
    return json.dumps(there, ensure_ascii=False, default=_plain) if there else None


def carried_types(plan: Path) -> dict[str, str]:
    """Sidecar column → DuckDB type, sorted by name, for the carried columns of a plan's rows."""
    kinds: defaultdict[str, set[str]] = defaultdict(set)
    for batch in parquet(plan).iter_batches(_BATCH_ROWS, columns=[COLUMN]):
        for row in batch[COLUMN].drop_null().to_pylist():
            for name, value in json.loads(row).items():
                kinds[name].add(_kind(value))
    return {name: _common(found) for name, found in sorted(kinds.items())}


def carried_values(row: str | None, types: Mapping[str, str]) -> dict[str, Any]:
    """The carried columns of one row, converted to their types."""
    values = {} if row is None else json.loads(row)
    return {name: _typed(values.get(name), kind) for name, kind in types.items()}


def _plain(value: Any) -> Any:
    """Convert to a JSON value; bytes become text, or hexadecimal if they are not UTF-8."""
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
        return "BIGINT" if -_BIGINT_LIMIT <= value < _BIGINT_LIMIT else "VARCHAR"
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
