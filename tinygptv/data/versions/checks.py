"""Questions put to a version before it is published: SQL files in `datasets/checks/`; a returned row is a failure.

A check may ask the tables `new` and `old` (rows of the filtered sidecars), `new_raw` and `old_raw` (rows of the raw
ones), `new_ledger` and `old_ledger`, and `forgotten` (rows of `new` that a tombstone names). Those called old are empty
if nothing was published before, and without the rows that are to be forgotten: their absence is no loss. The comment a
file begins with says why its question matters. Your own may lie in `checks/` below $TINYGPTV_DEFINITIONS; one called as
a shipped check takes its place.
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
    """A check that returned rows: its name, why it matters, how many rows, and the first of them."""

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
    """All checks of a candidate version against the current one; empty if it may be published.

    Raises DefinitionError, naming the file, for a question that cannot be asked.
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
    """Name → file; one's own come later and win."""
    own = os.environ.get(OWN_DEFINITIONS)
    folders = [SHIPPED, Path(own) / SHIPPED.name] if own else [SHIPPED]
    return {path.stem: path for folder in folders for path in folder.glob("*.sql")}


def _why(query: str) -> str:
    """The comment that a query begins with, as one line."""
    comment = itertools.takewhile(lambda line: line.startswith("--"), query.strip().splitlines())
    return " ".join(line.removeprefix("--").strip() for line in comment)


def _ledgers(store: Store, database: duckdb.DuckDBPyConnection, raw: str, old_raw: str | None) -> None:
    ledger = literal(store.file(raw, LEDGER))
    database.execute(f"CREATE VIEW new_ledger AS SELECT * FROM read_parquet({ledger})")
    old = f"read_parquet({literal(store.file(old_raw, LEDGER))})" if old_raw else "new_ledger LIMIT 0"
    database.execute(f"CREATE VIEW old_ledger AS SELECT * FROM {old}")
