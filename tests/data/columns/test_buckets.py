"""Equal codes meet, every row comes back once, and rows of one bucket keep their order."""

from pathlib import Path

import pyarrow as pa
import pytest

from tinygptv.data.columns.buckets import Buckets

SCHEMA = pa.schema([("code", pa.uint64()), ("text", pa.string())])
CODES = [5, 2**64 - 1, 3, 5, 8, 3, 0, 5]


def batches(*parts: list[int]) -> pa.RecordBatchReader:
    made, place = [], 0
    for part in parts:
        texts = [str(place + number) for number in range(len(part))]
        made.append(pa.record_batch([pa.array(part, pa.uint64()), pa.array(texts)], schema=SCHEMA))
        place += len(part)
    return pa.RecordBatchReader.from_batches(SCHEMA, made)


@pytest.mark.parametrize("rows_per_bucket", [1, 3, 100])
def test_equal_codes_meet_and_every_row_comes_back_once_in_order(rows_per_bucket: int, tmp_path: Path) -> None:
    dealt = Buckets(tmp_path, len(CODES), rows_per_bucket)
    dealt.fill(batches(CODES[:5], [], CODES[5:]))
    tables = [table.to_pydict() for table in dealt]
    assert len(tables) == -(-len(CODES) // rows_per_bucket)
    places = [[int(text) for text in table["text"]] for table in tables]
    assert all(table["code"] == [CODES[place] for place in some] for table, some in zip(tables, places, strict=True))
    assert all(some == sorted(some) for some in places)
    assert sorted(place for some in places for place in some) == list(range(len(CODES)))
    assert len({CODES[place] for place in range(len(CODES))}) == sum(len(set(table["code"])) for table in tables)
    assert not list(tmp_path.iterdir())


def test_filling_again_starts_over(tmp_path: Path) -> None:
    dealt = Buckets(tmp_path, len(CODES), 100)
    dealt.fill(batches(CODES))
    dealt.fill(batches(CODES))
    assert [table.num_rows for table in dealt] == [len(CODES)]


def test_no_rows_are_one_empty_table(tmp_path: Path) -> None:
    dealt = Buckets(tmp_path, 0, 100)
    dealt.fill(batches())
    assert [table.num_rows for table in dealt] == [0]


def test_no_more_files_are_open_than_the_system_allows(tmp_path: Path) -> None:
    dealt = Buckets(tmp_path, 10**9, 1000)
    dealt.fill(batches(CODES))
    assert len(list(tmp_path.iterdir())) == 256
