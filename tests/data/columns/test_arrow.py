"""Python values become Arrow's as `pyarrow` itself makes them, and pandas stays where it is."""

import math
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinygptv.data.columns.arrow import RowGroups, number, table, text, texts

SCHEMA = pa.schema(
    [("a", pa.string()), ("b", pa.int64()), ("c", pa.float64()), ("d", pa.bool_()), ("e", pa.int32())],
)


@pytest.mark.parametrize("values", [[], [None], [""], ["a", None, "é\n\U0001f600", ""], ["x"] * 17])
def test_texts_are_as_pyarrow_makes_them(values: list[str | None]) -> None:
    column = texts(values)
    column.validate(full=True)
    assert column.equals(pa.array(values, pa.string()))


def test_single_values_are_as_pyarrow_makes_them() -> None:
    assert text("é").equals(pa.scalar("é"))
    assert number(2**31 - 1).equals(pa.scalar(2**31 - 1))


def test_rows_are_as_pyarrow_makes_them() -> None:
    rows = [
        {"a": 'é\n"\U0001f600', "b": -(2**63), "c": 1 / 3, "d": True, "e": None},
        {"b": 2**63 - 1, "c": math.inf},
        {"e": -1, "a": None, "d": False},
    ]
    assert table(rows, SCHEMA).equals(pa.Table.from_pylist(rows, SCHEMA))
    assert table([], SCHEMA).equals(SCHEMA.empty_table())
    (nan,) = table([{"c": math.nan}], SCHEMA)["c"].to_pylist()
    assert math.isnan(nan)


def test_a_column_that_the_schema_lacks_is_an_error() -> None:
    with pytest.raises(pa.ArrowInvalid):
        table([{"unknown": 1}], SCHEMA)


_DOWNLOAD = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
from tinygptv.store.artifacts import Store
from tinygptv.data.columns.arrow import table, texts
from tinygptv.data.download.download import download
from tinygptv.definitions.source import PairsSource, Table
import pyarrow as pa

folder = Path(sys.argv[1])
pq.write_table(pa.table({"URL": texts(["", "ftp://a"]), "TEXT": texts(["b", "c"])}), folder / "pairs.parquet")
source = PairsSource(
    kind="pairs", about="", licence="", filter="", tables=[Table(location=str(folder / "pairs.parquet"))]
)
try:
    download(Store(str(folder / "work")), "pairs", source)
except Exception as error:
    print(error)
print("pandas" in sys.modules)
"""


def test_planning_a_download_does_not_import_pandas(tmp_path: object) -> None:
    found = subprocess.run(
        [sys.executable, "-c", _DOWNLOAD, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "not one of 2 rows gave an image" in found.stdout
    assert found.stdout.splitlines()[-1] == "False"


def test_rows_are_written_in_groups_and_in_order(tmp_path: Path) -> None:
    schema = pa.schema([("number", pa.int64()), ("names", pa.list_(pa.string()))])
    with pq.ParquetWriter(tmp_path / "rows.parquet", schema) as writer:
        groups = RowGroups(writer, schema)
        for number in range(20_777):
            groups.add({"number": number, "names": [str(number)] if number % 2 else None})
        groups.finish()
        groups.finish()
    file = pq.ParquetFile(tmp_path / "rows.parquet")
    assert [file.metadata.row_group(one).num_rows for one in range(file.num_row_groups)] == [10_000, 10_000, 777]
    rows = file.read().to_pylist()
    assert [row["number"] for row in rows] == list(range(20_777))
    assert rows[20_776]["names"] is None
    assert rows[20_775]["names"] == ["20775"]
