"""Tables of text in the dialects of their publishers: recognised, said, or declared, and never half read."""

import bz2
import gzip
import logging
import lzma
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tinygptv.data.tables.readers import read_table
from tinygptv.definitions.source import Table
from tinygptv.errors import DataError

URLS = [f"http://a.example/{number}.jpg" for number in range(4)]
CAPTIONS = ["a red ball", "a boat, on a lake; at night", "a cup | a plate", "two cats"]
PAIRS = list(zip(URLS, CAPTIONS, strict=True))


def read(path: Path, **declared: Any) -> list[SimpleNamespace]:
    batches = read_table(Table(location="./table", **declared), str(path))
    return [SimpleNamespace(**row) for batch in batches for row in batch.to_pylist()]


def pairs(rows: list[SimpleNamespace]) -> list[tuple[str, str]]:
    return [(row.url, row.caption) for row in rows if row.problem is None]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def packed(content: bytes, kind: str, folder: Path) -> bytes:
    match kind:
        case "gzip":
            return gzip.compress(content[:9]) + gzip.compress(content[9:])
        case "bz2":
            return bz2.compress(content[:9]) + bz2.compress(content[9:])
        case "xz":
            return lzma.compress(content[:9]) + lzma.compress(content[9:])
        case _:
            with pa.CompressedOutputStream(str(folder / "packed"), kind) as stream:
                stream.write(content)
            return (folder / "packed").read_bytes()


TSV = "".join(f"{caption}\t{url}\n" for url, caption in PAIRS)
QUOTED = "url,caption\n" + "".join(f'{url},"{caption}"\n' for url, caption in PAIRS)


@pytest.mark.parametrize("kind", ["gzip", "bz2", "xz", "zstd", "lz4"])
def test_a_packed_table_is_known_by_its_content_whatever_its_name(tmp_path: Path, kind: str) -> None:
    assert pairs(read(write(tmp_path / "pairs.tsv", packed(TSV.encode(), kind, tmp_path)))) == PAIRS


@pytest.mark.parametrize("kind", ["gzip", "bz2", "xz", "zstd", "lz4"])
def test_a_packed_table_that_ends_early_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    """The table is longer than the first megabyte, by which its dialect is known."""
    long = "".join(f"{number * 7919} a caption\thttp://a.example/{number}.jpg\n" for number in range(50_000)).encode()
    assert len(long) > 2 << 20
    whole = gzip.compress(long) if kind == "gzip" else packed(long, kind, tmp_path)
    with pytest.raises(DataError, match=rf"pairs\.tsv.*{kind} data are damaged or truncated"):
        read(write(tmp_path / "pairs.tsv", whole[:-300]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + b"\0" * 600, "a ZIP archive or an Excel workbook"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (gzip.compress(b"x" * 257 + b"ustar" + b"\0" * 300, mtime=0), "inside gzip, this is a tar archive"),
        (gzip.compress(b"PAR1" + b"\0" * 300, mtime=0), "a Parquet or Arrow file, which needs random access"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "t.csv", content))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_an_encoding_is_recognised(tmp_path: Path, encoding: str) -> None:
    caption = "ein Café in Łódź"
    text = "url,caption\r\n" + "".join(f'{url},"{caption}"\r\n' for url in URLS)
    assert pairs(read(write(tmp_path / "t.csv", text.encode(encoding)))) == [(url, caption) for url in URLS]


def test_an_encoding_without_a_mark_is_declared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "t.tsv", f"a café\t{URLS[0]}\n".encode("cp1252"))
    assert [row.problem for row in read(path)] == ["undecodable"]
    assert "1 rows are not utf-8; declare another `encoding`" in caplog.text
    assert pairs(read(path, encoding="cp1252")) == [(URLS[0], "a café")]


def test_bytes_that_the_declared_encoding_lacks_cost_their_row(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", b"a red ball\t%b\na \x81 box\t%b\n" % (URLS[0].encode(), URLS[1].encode()))
    assert [row.problem for row in read(path, encoding="cp1252")] == [None, "undecodable"]


def test_lines_of_old_macs_are_lines(tmp_path: Path) -> None:
    for name, text in (("t.csv", QUOTED), ("t.tsv", TSV)):
        rows = read(write(tmp_path / name, text.replace("\n", "\r")))
        assert pairs(rows) == PAIRS
        assert [row.line - rows[0].line for row in rows] == [0, 1, 2, 3]


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
@pytest.mark.parametrize("has_header", [True, False])
def test_a_delimiter_is_recognised(tmp_path: Path, delimiter: str, has_header: bool) -> None:
    header = f"id{delimiter}url{delimiter}caption\n" if has_header else ""
    rows = [f'{number}{delimiter}{url}{delimiter}"{caption}"\n' for number, (url, caption) in enumerate(PAIRS)]
    assert pairs(read(write(tmp_path / "t.txt", header + "".join(rows)))) == PAIRS


def test_a_declared_delimiter_wins(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "url:caption\n" + "".join(f"'{url}':'a cup'\n" for url in URLS))
    with pytest.raises(DataError, match=r"t\.csv: "):
        read(path)
    rows = read(path, format="csv", delimiter=":", quote="'")
    assert pairs(rows) == [(url, "a cup") for url in URLS]


def test_a_quoted_tsv_gives_whole_captions(tmp_path: Path) -> None:
    captions = ['a "red" ball', "two\nlines", "a\ttab", "a boat"]
    lines = [f'"{caption.replace(chr(34), chr(34) * 2)}"\t{url}\n' for url, caption in zip(URLS, captions, strict=True)]
    rows = read(write(tmp_path / "t.tsv", "caption\turl\n" + "".join(lines)))
    assert [row.caption_raw for row in rows] == captions
    assert [row.line for row in rows] == [2, 3, 5, 6]


def test_quotes_of_captions_are_text_in_a_tsv_that_does_not_quote(tmp_path: Path) -> None:
    captions = ['"hello" she said', 'the "blue" box', '"a lone quote', '"all of it"']
    lines = [f"{caption}\t{url}\n" for url, caption in zip(URLS, captions, strict=True)]
    assert [row.caption for row in read(write(tmp_path / "t.tsv", "".join(lines)))] == captions


def test_quotes_that_come_late_in_a_tsv_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = "".join(f"a cup of tea on a table\t{URLS[0]}\n" for _ in range(30_000))
    path = write(tmp_path / "t.tsv", plain + f'"a ""red"" ball"\t{URLS[1]}\n')
    assert len(read(path)) == 30_001
    assert "1 captions begin with a quote as if quoted" in caplog.text
    assert read(path, quote='"')[-1].caption == 'a "red" ball'


def test_the_backslashes_of_spark_are_understood(tmp_path: Path) -> None:
    captions = ['a "red" ball', '5" nails, and more', r"C:\new\pictures", 'ends in a backslash, "so" \\']
    escaped = [caption.replace("\\", "\\\\").replace('"', '\\"') for caption in captions]
    lines = [f'{url},"{caption}"\n' for url, caption in zip(URLS, escaped, strict=True)]
    rows = read(write(tmp_path / "t.csv", "url,caption\n" + "".join(lines)))
    assert [(row.problem, row.caption_raw) for row in rows] == [(None, caption) for caption in captions]


def test_an_escape_may_be_declared_where_nothing_is_quoted(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", f"{URLS[0]}\ta\\\ttab\n{URLS[1]}\ta box\n{URLS[2]}\ta cup\n")
    assert [row.problem for row in read(path)] == ["wrong_columns", None, None]
    assert [row.caption_raw for row in read(path, quote="none", escape="\\")] == ["a\ttab", "a box", "a cup"]


def test_a_tsv_has_as_many_columns_as_it_likes(tmp_path: Path) -> None:
    wit = write(tmp_path / "wit.tsv", f"language\timage_url\tpage_title\ttext\nen\t{URLS[0]}\tBall\ta red ball\n")
    assert pairs(read(wit)) == PAIRS[:1]
    labels = [f"{caption}\t{url}\tdog,red ball\t/m/01,/m/02\t0.9,0.8\n" for url, caption in PAIRS]
    assert pairs(read(write(tmp_path / "labels.tsv", "".join(labels)))) == PAIRS


def test_columns_without_names_are_declared_by_position(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "".join(f"{url}\ta title here\t{caption} there\t0.1\n" for url, caption in PAIRS))
    with pytest.raises(DataError, match=r"cannot determine the caption column \(separated by tab.*columns: \{url"):
        read(path)
    rows = read(path, columns={"url": 0, "caption": 2, "punsafe": 3})
    assert [(row.caption, row.punsafe) for row in rows] == [(f"{caption} there", 0.1) for caption in CAPTIONS]
    with pytest.raises(DataError, match="no column '7'"):
        read(path, columns={"url": 0, "caption": 7})


def test_the_dialect_of_each_file_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    read(write(tmp_path / "t.tsv", gzip.compress(TSV.encode())))
    (line,) = [record.message for record in caplog.records]
    assert line == (
        "table t.tsv: text separated by tab, no quotes, no header, 2 columns, gzip, utf-8; read url <- 1, caption <- 0"
    )


def test_a_folder_of_any_layout_is_read_without_what_is_hidden(tmp_path: Path) -> None:
    folder = tmp_path / "table.csv"
    for number, (url, caption) in enumerate(PAIRS):
        write(folder / f"language={number}%20x" / "part-0.csv", f'url,caption\n{url},"{caption}"\n')
    for name in ("_SUCCESS", ".hidden.csv", ".part-0.csv.crc", "_temporary/0/part-0.csv"):
        write(folder / name, "nothing of use")
    write(folder / "language=__HIVE_DEFAULT_PARTITION__" / "part-1.csv", "")
    rows = read(folder, columns={"uid": "language"})
    assert pairs(rows) == PAIRS
    assert [row.uid for row in rows] == ["0 x", "1 x", "2 x", "3 x"]
    assert [row.table_name for row in rows][:2] == ["language=0%20x/part-0", "language=1%20x/part-0"]
    assert pairs(read(tmp_path / "*.csv")) == PAIRS


def test_empty_parts_are_skipped_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "0.tsv", "")
    write(tmp_path / "1.tsv", TSV)
    write(tmp_path / "2.tsv", gzip.compress(b""))
    assert pairs(read(tmp_path)) == PAIRS
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "table 0.tsv: empty; skipped",
        "table 2.tsv: empty; skipped",
    ]
    with pytest.raises(DataError, match=r"0\.tsv: empty"):
        read(tmp_path / "0.tsv")


def test_a_folder_of_several_kinds_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "0.tsv", TSV)
    write(tmp_path / "0.csv", QUOTED)
    with pytest.raises(DataError, match=r"several kinds of files \(1 of CSV, 1 of tab-separated text"):
        read(tmp_path)


@pytest.mark.parametrize("above", ["", "\n\n", "sep=;\n", "# exported\n# by hand\n"])
def test_a_header_may_stand_below_other_lines(tmp_path: Path, above: str) -> None:
    for name, sign in (("t.csv", ";"), ("t.tsv", "\t")):
        lines = [f"{url}{sign}a cup\n" for url in URLS]
        rows = read(write(tmp_path / name, f"{above}url{sign} caption\n" + "".join(lines)))
        assert pairs(rows) == [(url, "a cup") for url in URLS]
        assert [row.line for row in rows] == [number + above.count("\n") for number in range(2, 6)]


def test_the_missing_values_of_databases_are_missing(tmp_path: Path) -> None:
    for name, sign in (("t.csv", ","), ("t.tsv", "\t")):
        row = read(
            write(tmp_path / name, sign.join(["url", "caption", "punsafe"]) + f"\n{URLS[0]}{sign}\\N{sign}\\N\n")
        )[0]
        assert (row.caption_raw, row.problem, row.punsafe) == (None, "empty_caption", None)
