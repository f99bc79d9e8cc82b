"""Columns of any type and name become fields, are missing with one logged line, or are one error; others come along."""

import datetime
import decimal
import hashlib
import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from tinygptv.data.tables.carried import carried_types, carried_values
from tinygptv.data.tables.readers import read_table
from tinygptv.definitions.source import COLUMN_NAMES, REQUIRED, PairsSource, Table
from tinygptv.errors import DataError

URL = "http://a.example/1.jpg"
DIGEST = hashlib.sha256(b"x").digest()
DAY = datetime.date(2024, 2, 3)
MOMENT = datetime.datetime(2024, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
VALUES: dict[pa.DataType, Any] = {
    pa.null(): None,
    **dict.fromkeys((pa.string(), pa.large_string(), pa.string_view()), "some text"),
    **dict.fromkeys((pa.binary(), pa.large_binary(), pa.binary_view()), b"caf\xe9"),
    pa.binary(32): DIGEST,
    **dict.fromkeys((pa.int8(), pa.int64(), pa.uint8(), pa.uint64()), 1),
    **dict.fromkeys((pa.float32(), pa.float64()), math.nan),
    pa.float16(): 0.5,
    pa.decimal128(5, 2): decimal.Decimal("0.25"),
    pa.decimal256(50, 2): decimal.Decimal("0.25"),
    pa.bool_(): True,
    **dict.fromkeys((pa.date32(), pa.date64()), DAY),
    pa.time32("s"): MOMENT.time(),
    pa.time64("ns"): MOMENT.time(),
    pa.timestamp("us"): MOMENT.replace(tzinfo=None),
    pa.timestamp("ns", "UTC"): MOMENT,
    pa.timestamp("s", "Mars/Phobos"): 5,
    pa.duration("s"): datetime.timedelta(seconds=5),
    pa.month_day_nano_interval(): (1, 2, 3),
    pa.list_(pa.string()): ["some", "text"],
    pa.large_list(pa.string()): ["some", "text"],
    pa.list_view(pa.string()): ["some", "text"],
    pa.list_(pa.string(), 2): ["some", "text"],
    pa.list_(pa.list_(pa.string())): [["some"], ["text"]],
    pa.list_(pa.float32()): [0.5],
    pa.struct([("name", pa.string())]): {"name": "CC BY"},
    pa.map_(pa.string(), pa.int32()): [("a", 1)],
    pa.dictionary(pa.int8(), pa.string()): "some text",
    pa.dictionary(pa.int8(), pa.float64()): 0.5,
}


def arrays() -> dict[str, pa.Array]:
    made = {}
    for kind, value in VALUES.items():
        values = pa.array([value, None, value], kind.value_type if pa.types.is_dictionary(kind) else kind)
        made[str(kind)] = values.dictionary_encode() if pa.types.is_dictionary(kind) else values
    made["run-end encoded"] = pa.RunEndEncodedArray.from_arrays([2, 3], pa.array(["some text", None]))
    uuids = pa.array([b"0123456789abcde\xff", None, None], pa.binary(16))
    made["uuid"] = pa.ExtensionArray.from_storage(pa.uuid(), uuids)
    made["json"] = pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None, "2"]))
    made["bool8"] = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None, 0], pa.int8()))
    made["sparse union"] = pa.UnionArray.from_sparse(pa.array([0, 0, 0], pa.int8()), [pa.array(["a", "b", None])])
    return made


ARRAYS = arrays()


def read(path: Path, **declared: Any) -> list[SimpleNamespace]:
    batches = read_table(Table(location="./table", **declared), str(path))
    return [SimpleNamespace(**row) for batch in batches for row in batch.to_pylist()]


def written(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("field", COLUMN_NAMES)
def test_a_column_of_any_type_is_read_or_missing_or_one_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, field: str, kind: str
) -> None:
    plain = {"url": pa.array([URL] * 3), "caption": pa.array(["a red ball"] * 3)}
    columns = plain | {COLUMN_NAMES[field][0]: ARRAYS[kind]}
    table = pa.table(columns)
    with pa.ipc.new_file(tmp_path / "t.arrow", table.schema) as file:
        file.write_table(table)
    try:
        rows = read(tmp_path / "t.arrow", carry="all")
    except DataError as error:
        assert field in REQUIRED or "Mars" in kind
        assert "t.arrow" in str(error) and f"for {field} " in str(error) and str(ARRAYS[kind].type) in str(error)
        return
    assert {row.table_row for row in rows} == {0, 1, 2}
    said = [record.message for record in caplog.records if "NULL" in record.message]
    assert len(said) <= 1
    if all(getattr(row, field) in (None, "") for row in rows) and field not in REQUIRED:
        assert said or kind in ("null", "float", "double")


def test_a_caption_may_be_a_list_in_every_layout(tmp_path: Path) -> None:
    captions = [["a lamp", " ", None, "a boat", "a  lamp"], ["a chair"], [], None, [None, ""]]
    records = [{"url": URL, "caption": caption} for caption in captions]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "t.json").write_text(json.dumps(records))
    kinds = {"list": pa.list_, "large_list": pa.large_list, "list_view": pa.list_view}
    for name, kind in kinds.items():
        table = pa.table({"url": [URL] * 5, "caption": pa.array(captions, kind(pa.string()))})
        with pa.ipc.new_file(tmp_path / f"{name}.arrow", table.schema) as file:
            file.write_table(table)
    for path in sorted(tmp_path.iterdir()):
        rows = read(path)
        assert [(row.table_row, row.line, row.caption, row.problem) for row in rows] == [
            (0, 1, "a lamp", None),
            (0, 1, "a boat", None),
            (1, 2, "a chair", None),
            (2, 3, "", "empty_caption"),
            (3, 4, "", "empty_caption"),
            (4, 5, "", "empty_caption"),
        ], path.name


def test_a_caption_in_a_list_that_is_not_unicode_costs_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    captions = pa.array([[b"a boat", b"caf\xe9"], [b"caf\xe9"]], pa.list_(pa.binary()))
    rows = read(written(tmp_path / "t.parquet", {"url": [URL] * 2, "caption": captions}))
    assert [(row.caption, row.problem) for row in rows] == [("a boat", None), ("", "undecodable")]
    assert "1 values of caption cannot be read" in caplog.text


@pytest.mark.parametrize("layout", ["csv", "tsv", "jsonl", "parquet"])
def test_a_blank_optional_field_is_unknown(tmp_path: Path, layout: str) -> None:
    optional = [names[0] for field, names in COLUMN_NAMES.items() if field not in REQUIRED]
    row = {"url": URL, "caption": "a red ball"} | dict.fromkeys(optional, " ")
    path = tmp_path / f"t.{layout}"
    match layout:
        case "jsonl":
            path.write_text(json.dumps(row) + "\n")
        case "parquet":
            written(path, {name: [value] for name, value in row.items()})
        case _:
            sign = "," if layout == "csv" else "\t"
            path.write_text(sign.join(row) + "\n" + sign.join(row.values()) + "\n")
    (found,) = read(path)
    assert [getattr(found, field) for field in COLUMN_NAMES if field not in REQUIRED] == [None] * len(optional)


def test_a_digest_is_hexadecimal_of_any_case_or_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "bytes.parquet", {"url": [URL] * 2, "text": ["a"] * 2, "sha256": [DIGEST, b"short"]})
    assert [row.table_sha256 for row in read(tmp_path / "bytes.parquet")] == [DIGEST.hex(), None]
    assert "1 values of table_sha256 cannot be read" in caplog.text
    values = [DIGEST.hex().upper(), hashlib.md5(b"x").hexdigest(), ""]
    (tmp_path / "t.csv").write_text("url,text,sha256\n" + "".join(f"{URL},a,{value}\n" for value in values))
    assert [row.table_sha256 for row in read(tmp_path / "t.csv")] == [DIGEST.hex(), None, None]


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([True, False, None], ["NSFW", "UNLIKELY", None]),
        (["nsfw", "Unsure", "unlikely"], ["NSFW", "UNSURE", "UNLIKELY"]),
        (["true", "0", "0.93"], ["NSFW", "UNLIKELY", "NSFW"]),
        ([1, 0, 7], ["NSFW", "UNLIKELY", None]),
        (["VERY_LIKELY", "possible", "?"], ["NSFW", "UNSURE", None]),
    ],
)
def test_marks_of_unsafe_pictures_are_laions(tmp_path: Path, values: list[Any], marks: list[str | None]) -> None:
    written(tmp_path / "t.parquet", {"url": [URL] * 3, "text": ["a"] * 3, "NSFW": values})
    lines = [json.dumps({"url": URL, "text": "a", "nsfw": value}) + "\n" for value in values]
    (tmp_path / "t.jsonl").write_text("".join(lines))
    for name in ("t.parquet", "t.jsonl"):
        assert [row.nsfw for row in read(tmp_path / name)] == marks


def test_a_name_twice_is_an_error_unless_a_position_is_declared(tmp_path: Path) -> None:
    arrays = [pa.array(["wrong"]), pa.array(["a ball"]), pa.array([URL])]
    pq.write_table(pa.Table.from_arrays(arrays, ["url", "text", "url"]), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text(f"url,text,url\nwrong,a ball,{URL}\n")
    for name in ("t.parquet", "t.csv"):
        with pytest.raises(DataError, match=r"'url' occurs 2 times, as columns 0, 2"):
            read(tmp_path / name)
        assert [(row.url, row.caption) for row in read(tmp_path / name, columns={"url": 2})] == [(URL, "a ball")]


def test_members_of_structs_are_columns(tmp_path: Path) -> None:
    image = {"src": {"url": URL}, "licence": "CC0"}
    written(tmp_path / "t.parquet", {"image": [image, None], "text": ["a", "b"]})
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": image, "text": "a"}) + '\n{"image": null, "text": "b"}\n')
    for name in ("t.parquet", "t.jsonl"):
        rows = read(tmp_path / name, columns={"url": "image.src.url", "licence": "image.licence"})
        assert [(row.url, row.licence, row.problem) for row in rows] == [(URL, "CC0", None), ("", None, "no_url")]
        with pytest.raises(DataError, match=r"no column 'image\.url'"):
            read(tmp_path / name, columns={"url": "image.url"})


def test_what_is_read_and_what_is_not_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = written(tmp_path / "t.parquet", {"url": [URL], "text": ["a"], "nsfw_prob": [0.9], "num_faces": [1]})
    read(path)
    said, warned = caplog.records
    assert said.message.endswith("Parquet; read url <- url, caption <- text; not read nsfw_prob, num_faces")
    assert warned.levelname == "WARNING" and "columns: {punsafe: nsfw_prob}" in warned.message
    caplog.clear()
    assert read(path, columns={"punsafe": "nsfw_prob"})[0].punsafe == 0.9
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_source_maps_and_carries_for_all_its_tables() -> None:
    tables = [{"location": "./a"}, {"location": "./b", "url_column": "u", "columns": {"punsafe": "p"}, "carry": ["x"]}]
    shared = {"columns": {"punsafe": "q", "url": "w"}, "carry": "all"}
    source = PairsSource.model_validate(
        {"kind": "pairs", "about": "", "licence": "", "filter": "", "tables": tables} | shared
    )
    assert [table.declared_columns for table in source.tables] == [
        {"punsafe": "q", "url": "w"},
        {"url": "u", "punsafe": "p"},
    ]
    assert [table.carry for table in source.tables] == ["all", ["x"]]
    with pytest.raises(ValidationError, match=r"'punsave' is not a field.*Did you mean 'punsafe'.*carry"):
        Table(location="./a", columns={"punsave": "q"})


def test_a_table_that_declares_nothing_new_is_described_as_before() -> None:
    old = {"location", "format", "url_column", "caption_column"}
    assert set(Table(location="./a").model_dump()) == old
    assert set(Table(location="./a", delimiter=";").model_dump()) == {*old, "delimiter"}


def carried(rows: list[SimpleNamespace], folder: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    pq.write_table(pa.table({"carried": pa.array([row.carried for row in rows], pa.string())}), folder / "plan")
    types = carried_types(folder / "plan")
    return types, [carried_values(row.carried, types) for row in rows]


def test_carried_columns_have_the_type_that_all_their_values_have(tmp_path: Path) -> None:
    lines = [f"{URL},a,0.5,7,007,x,\n", f"{URL},b,3,8,8,1,\n"]
    (tmp_path / "t.csv").write_text("url,text,Score A,width_px,code,mixed,none\n" + "".join(lines))
    types, rows = carried(read(tmp_path / "t.csv", carry="all"), tmp_path)
    assert types == {"code": "VARCHAR", "mixed": "VARCHAR", "score_a": "DOUBLE", "width_px": "BIGINT"}
    assert rows[1] == {"code": "8", "mixed": "1", "score_a": 3.0, "width_px": 8}


def test_carried_columns_of_any_layout_are_the_same(tmp_path: Path) -> None:
    values = {"faces": [2, None], "safe": [True, False], "tags": [["a", "b"], []], "language": ["de", "é"]}
    written(tmp_path / "t.parquet", {"url": [URL] * 2, "text": ["a"] * 2} | values)
    rows = [dict(zip(values, each, strict=True)) for each in zip(*values.values(), strict=True)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"url": URL, "text": "a"} | row) + "\n" for row in rows))
    for name in ("t.parquet", "t.jsonl"):
        types, found = carried(read(tmp_path / name, carry=["faces", "safe", "tags", "language"]), tmp_path)
        assert types == {"faces": "BIGINT", "safe": "BOOLEAN", "table_language": "VARCHAR", "tags": "VARCHAR"}
        assert found == [
            {"faces": 2, "safe": True, "tags": '["a", "b"]', "table_language": "de"},
            {"faces": None, "safe": False, "tags": "[]", "table_language": "é"},
        ]


def test_a_column_to_carry_that_is_not_there_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", {"url": [URL], "text": ["a"], "aesthetic": [5.0]})
    with pytest.raises(DataError, match=r"no column 'aestetic', which `carry` names\. Did you mean 'aesthetic'"):
        read(path, carry=["aestetic"])
