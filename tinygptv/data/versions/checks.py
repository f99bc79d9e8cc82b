"""Checks that a version must pass before it is published: SQL files in `datasets/checks/`; a returned row is a failure.

A check can query the tables `new` and `old` (filtered sidecars), `new_raw` and `old_raw` (raw sidecars), `new_ledger`
and `old_ledger`, and `forgotten` (rows of `new` that a tombstone names). The old tables are empty before the first
version, and omit rows that are to be forgotten, since their removal is intended. The comment at the top of a file
explains why the check matters. Your own checks go in `checks/` below $TINYGPTV_DEFINITIONS; one with the name of a
shipped check replaces it.
"""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from tinygptv.catalog import OWN_DEFINITIONS
from tinygptv.data.columns.database import literal
from tinygptv.data.download.ledger import LEDGER
from tinygptv.data.forget.forget import predicate
from tinygptv.data.forget.tombstones import tombstones
from tinygptv.data.versions.versions import compared
from tinygptv.errors import DefinitionError
from tinygptv.store.artifacts import Store
from tinygptv.store.locations import CHECKOUT

SHIPPED = CHECKOUT / "datasets" / "checks"
_SHOWN_ROWS = 20


@dataclass(frozen=True)
class Failure:
    """A check that returned rows: its name, why it matters, the number of rows, and the first rows."""

    check: str
    why: str
    count: int
    rows: list[dict[str, Any]]

    def __str__(self) -> str:
        shown = "; ".join(", ".join(f"{name} {value}" for name, value in row.items()) for row in self.rows[:3])
        return f"{self.check}: {self.count} rows ({shown}{'; …' if self.count > 3 else ''}). {self.why}"


def run_checks(
    store: Store, raw: str, filtered: str, old_raw: str | None = None, old_filtered: str | None = None
) -> list[Failure]:
    """Run all checks of a candidate version against the current one; empty if it may be published.

    Raises DefinitionError, naming the file, if a query is invalid.
    """
    failures = []
    is_forgotten = predicate(tombstones(store))
    with compared(store, new=filtered, old_all=old_filtered, new_raw=raw, old_raw_all=old_raw) as database:
        _ledgers(store, database, raw, old_raw)
        database.execute(f"CREATE VIEW forgotten AS SELECT * FROM new WHERE {is_forgotten}")
        for name in ("old", "old_raw"):
            database.execute(f"CREATE VIEW {name} AS SELECT * FROM {name}_all WHERE NOT ({is_forgotten})")
        for name, path in sorted(_files().items()):
            query = path.read_text(encoding="utf-8")
            try:
                found = database.execute(query)
                names = [column[0] for column in found.description or []]
                rows = found.fetchall()
            except duckdb.Error as error:
                raise DefinitionError(f"{path}: {error}") from error
            if rows:
                shown = [dict(zip(names, row, strict=True)) for row in rows[:_SHOWN_ROWS]]
                failures.append(Failure(name, _why(query), len(rows), shown))
    return failures


def _files() -> dict[str, Path]:
    """Name → file; custom checks override shipped ones."""
    own = os.environ.get(OWN_DEFINITIONS)
    folders = [SHIPPED, Path(own) / SHIPPED.name] if own else [SHIPPED]
    return {path.stem: path for folder in folders for path in folder.glob("*.sql")}


def _why(query: str) -> str:
    """The comment at the top of a query, as one line."""
    comment = itertools.takewhile(lambda line: line.startswith("--"), query.strip().splitlines())
    return " ".join(line.removeprefix("--").strip() for line in comment)


def _ledgers(store: Store, database: duckdb.DuckDBPyConnection, raw: str, old_raw: str | None) -> None:
    ledger = literal(store.file(raw, LEDGER))
    database.execute(f"CREATE VIEW new_ledger AS SELECT * FROM read_parquet({ledger})")
    old = f"read_parquet({literal(store.file(old_raw, LEDGER))})" if old_raw else "new_ledger LIMIT 0"
    database.execute(f"CREATE VIEW old_ledger AS SELECT * FROM {old}")
