"""Columns that a source declares once for all of its tables."""

from tinygptv.loading.written import Written

_SHARED = ("columns", "carry")


def with_shared_columns(source: Written) -> Written:
    """A source whose tables also hold the columns they share, to look up places: `PairsSource` merges the values.

    A table's own columns win.
    """
    tables = source.get("tables")
    shared = {key: value for key in _SHARED if (value := source.get(key)) is not None}
    if tables is None or not isinstance(tables.content, list) or not shared:
        return source
    merged = Written([_inheriting(table, shared) for table in tables.content], tables.place)
    return Written(source.content | {"tables": merged}, source.place)


def _inheriting(table: Written, shared: dict[str, Written]) -> Written:
    if not isinstance(table.content, dict):
        return table
    merged = shared | table.content
    own, others = table.get("columns"), shared.get("columns")
    if own and others and isinstance(own.content, dict) and isinstance(others.content, dict):
        merged["columns"] = Written(others.content | own.content, own.place)
    return Written(merged, table.place)
