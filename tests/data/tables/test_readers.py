"""Every published table layout is recognised and read; rows that are no pairs are counted, not lost."""

import json
import math
import struct
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinygptv.data.tables import json_stream, table_rows, text_lines
from tinygptv.data.tables.readers import read_table, recognise
from tinygptv.definitions.source import Table
from tinygptv.errors import DataError

URL, OTHER = "http://a.example/1.jpg", "https://b.example/2.jpg"
ROWS = [(URL, "a red ball"), (OTHER, 'the "blue" box')]

TEXTS = {
    "cc3m.tsv": (b'a red ball\thttp://a.example/1.jpg\nthe "blue" box\thttps://b.example/2.jpg\n', "cc_tsv"),
    "cc12m.tsv": (b'http://a.example/1.jpg\ta red ball\r\nhttps://b.example/2.jpg\tthe "blue" box\r\n', "cc_tsv"),
    "titled.tsv": (b'caption\turl\na red ball\t%b\nthe "blue" box\t%b\n' % (URL.encode(), OTHER.encode()), "cc_tsv"),
    "sbu.json": (
        json.dumps({"image_urls": [URL, OTHER], "captions": [row[1] for row in ROWS]}).encode(),
        "sbu_json",
    ),
    "capfilt.json": (json.dumps([{"url": u, "caption": c} for u, c in ROWS], indent=1).encode(), "capfilt_json"),
    "lines.jsonl": (b"".join(json.dumps({"URL": u, "TEXT": c}).encode() + b"\n" for u, c in ROWS), "jsonl"),
    "lines_called.json": (b"".join(json.dumps({"url": u, "text": c}).encode() + b"\n" for u, c in ROWS), "jsonl"),
    "table.csv": (
        b'id,url,caption\n1,%b,a red ball\n2,%b,"the ""blue"" box"\n' % (URL.encode(), OTHER.encode()),
        "csv",
    ),
}


def read(path: Path | str, **table: str) -> list[SimpleNamespace]:
    batches = read_table(Table(location="./table", **table), str(path))
    return [SimpleNamespace(**row) for batch in batches for row in batch.to_pylist()]


def pairs(rows: list[SimpleNamespace]) -> list[tuple[str, str]]:
    return [(row.url, row.caption) for row in rows if row.problem is None]


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_layout_is_recognised_and_read(tmp_path: Path, name: str) -> None:
    content, layout = TEXTS[name]
    (tmp_path / name).write_bytes(content)
    assert recognise(str(tmp_path / name)) == layout
    rows = read(tmp_path / name)
    assert pairs(rows) == ROWS
    assert {row.table_name for row in rows} == {Path(name).stem}


def test_laion_parquet_brings_its_scores_and_licence(tmp_path: Path) -> None:
    columns = {"URL": [URL], "TEXT": ["a red ball"], "similarity": [0.31], "punsafe": [None], "LICENSE": ["?"]}
    pq.write_table(pa.table(columns), tmp_path / "part.parquet")
    (row,) = read(tmp_path / "part.parquet")
    assert (row.similarity, row.punsafe, row.pwatermark, row.licence) == (0.31, None, None, "?")


def test_a_glob_reads_its_parts_in_order(tmp_path: Path) -> None:
    for number in (1, 0):
        pq.write_table(pa.table({"URL": [URL], "TEXT": [f"part {number}"]}), tmp_path / f"part-{number}.parquet")
    assert [(row.table_name, row.table_row) for row in read(tmp_path / "part-*.parquet")] == [
        ("part-0", 0),
        ("part-1", 0),
    ]


def test_llava_images_lie_below_the_base_url_and_the_first_answer_is_the_caption(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a red ball"}]
    items = [{"id": "1", "image": "00001/1.jpg", "conversations": turns}, {"id": "2", "image": "x.jpg"}]
    (tmp_path / "chat.json").write_text(json.dumps(items))
    good, bad = read(tmp_path / "chat.json")
    assert (good.url, good.caption, good.problem) == ("__BASE_URL__/00001/1.jpg", "a red ball", None)
    assert bad.problem == "wrong_columns"


def test_bad_tsv_rows_are_counted_and_their_neighbours_survive(tmp_path: Path) -> None:
    good = b"a red ball\thttp://a.example/1.jpg\n"
    lines = [good, b'"a lone quote\t' + URL.encode() + b"\n", b"one\ttoo\tmany\n", b"caf\xe9 au lait\thttp://a/2.jpg\n"]
    lines += [b"\thttp://a/3.jpg\n", b"no address\t\n", good]
    (tmp_path / "bad.tsv").write_bytes(b"".join(lines))
    rows = read(tmp_path / "bad.tsv")
    problems = [None, None, "wrong_columns", "undecodable", "empty_caption", "no_url", None]
    assert [row.problem for row in rows] == problems
    assert rows[1].caption == '"a lone quote'
    assert [row.table_row for row in rows] == list(range(7))


def test_a_parquet_text_that_is_not_unicode_costs_one_row(tmp_path: Path) -> None:
    broken = pa.array([b"fine caption here", b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"url": [URL, OTHER], "caption": broken}), tmp_path / "t.parquet")
    assert [row.problem for row in read(tmp_path / "t.parquet")] == [None, "undecodable"]


def test_bad_json_lines_are_counted(tmp_path: Path) -> None:
    good = json.dumps({"url": URL, "caption": 7})
    (tmp_path / "t.jsonl").write_text(f'{good}\n{{"url": \n[1]\n{{"caption": "no url"}}\n')
    rows = read(tmp_path / "t.jsonl")
    assert [row.problem for row in rows] == [None, "not_json", "wrong_columns", "no_url"]
    assert rows[0].caption == "7"


def test_captions_become_one_line_without_control_characters(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps([{"url": URL, "caption": " a\n red\u0000ball "}]))
    assert read(tmp_path / "t.json")[0].caption == "a red ball"


def test_a_long_json_array_is_read_in_pieces(tmp_path: Path) -> None:
    items = [
        {"url": f"http://a/{number}.jpg", "caption": "a caption, [with] {brackets} " * 8} for number in range(9000)
    ]
    (tmp_path / "t.json").write_text(json.dumps(items))
    assert [row.url for row in read(tmp_path / "t.json")] == [item["url"] for item in items]


def test_a_cut_json_array_is_an_error_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps([{"url": URL, "caption": "a red ball"}] * 3)[:-20])
    with pytest.raises(DataError, match=r"t\.json: not valid JSON after value 2"):
        read(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"link,caption\nx,y\n", r"no url column; found link, caption.*url_column"),
        ("t.jsonl", b'{"url": "http://a/1.jpg", "title": "x"}\n', r"no caption column; found url, title"),
        ("t.json", b'{\n"urls": []}', r"expected a list 'image_urls'; found urls"),
        (
            "t.json",
            b'{"image_urls": ["a"], "captions": []}',
            r"captions ends after 0 items, 1 before the other; the lists must be parallel",
        ),
        ("t.tsv", b"a\tb\nc\td\n", r"cannot tell which column is the URL"),
        ("t.bin", b"\x00\x01", r"not a known table layout"),
        ("t.parquet", b"PAR1 and then nothing", r"not a readable Parquet file"),
    ],
)
def test_an_unusable_table_is_an_error_that_says_what_was_found(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table"):
        read(tmp_path / "absent.csv")


def test_columns_may_be_named_and_a_wrong_name_gets_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"where,what\n{URL},a red ball\n")
    assert pairs(read(tmp_path / "t.csv", url_column="where", caption_column="what")) == [ROWS[0]]
    with pytest.raises(DataError, match=r"no column 'wher'.*Did you mean 'where'"):
        read(tmp_path / "t.csv", url_column="wher", caption_column="what")


# fsspec's memory gives all readers of a file one position; SBU's two lists need one each, as on S3 below.
@pytest.mark.parametrize("name", [name for name in TEXTS if name != "sbu.json"])
def test_a_remote_table_is_read_through_fsspec(name: str) -> None:
    fsspec.filesystem("memory").pipe_file(f"/tables/{name}", TEXTS[name][0])
    assert pairs(read(f"memory://tables/{name}")) == ROWS


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name, (content, _) in TEXTS.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
        assert pairs(read(tmp_path / name)) == ROWS, name


def test_datacomp_metadata_brings_its_uid_size_and_hash(tmp_path: Path) -> None:
    columns = {
        "uid": ["4f1d2e"],
        "url": [URL],
        "text": ["a red ball"],
        "original_width": [640],
        "original_height": [480],
        "clip_b32_similarity_score": [0.3],
        "clip_l14_similarity_score": [0.2],
        "sha256": ["AB" * 32],
    }
    pq.write_table(pa.table(columns), tmp_path / "0.parquet")
    (row,) = read(tmp_path / "0.parquet")
    assert (row.uid, row.table_sha256, row.table_width, row.table_height) == ("4f1d2e", "ab" * 32, 640, 480)
    assert row.similarity == 0.3


def test_all_columns_of_laion_are_read(tmp_path: Path) -> None:
    columns = {
        "SAMPLE_ID": [1.5e12],
        "URL": [URL],
        "TEXT": ["a red ball"],
        "HEIGHT": [math.nan],
        "WIDTH": [800],
        "LICENSE": ["?"],
        "NSFW": ["UNLIKELY"],
        "similarity": [0.33],
        "punsafe": [0.01],
        "pwatermark": [0.2],
        "hash": [-77],
    }
    pq.write_table(pa.table(columns), tmp_path / "part.parquet")
    (row,) = read(tmp_path / "part.parquet")
    assert (row.nsfw, row.licence, row.punsafe, row.pwatermark) == ("UNLIKELY", "?", 0.01, 0.2)
    assert (row.table_width, row.table_height) == (800, None)


def test_a_folder_saved_by_hugging_face_datasets_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    for number in range(2):
        table = pa.table({"image_url": [URL, OTHER], "text": [f"caption {number}", "another one"]})
        with pa.ipc.new_stream(folder / f"data-0000{number}-of-00002.arrow", table.schema) as stream:
            stream.write_table(table)
    names = [{"filename": f"data-0000{number}-of-00002.arrow"} for number in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": names, "_split": "train"}))
    assert [row.caption for row in read(folder)] == ["caption 0", "another one", "caption 1", "another one"]


def test_sbu_as_two_lists_of_lines_is_read(tmp_path: Path) -> None:
    (tmp_path / "sbu_urls.txt").write_text(f"{URL}\n{OTHER}\n")
    with pytest.raises(DataError, match=r"a list of URLs needs its captions.*`captions` for `urls`"):
        read(tmp_path / "sbu_urls.txt")
    (tmp_path / "sbu_captions.txt").write_text('a red ball\nthe "blue" box\n')
    assert recognise(str(tmp_path / "sbu_urls.txt")) == "sbu_urls"
    assert pairs(read(tmp_path / "sbu_urls.txt")) == ROWS
    (tmp_path / "sbu_captions.txt").write_text("a red ball\n")
    with pytest.raises(DataError, match="captions ends after 1 items, 1 before the other"):
        read(tmp_path / "sbu_urls.txt")


def test_the_lists_of_sbu_may_stand_in_any_order_among_others(tmp_path: Path) -> None:
    content = {"captions": [row[1] for row in ROWS], "user_ids": [{"a": [1]}, None], "n": 2, "image_urls": [URL, OTHER]}
    (tmp_path / "sbu.json").write_text(json.dumps(content))
    assert pairs(read(tmp_path / "sbu.json", format="sbu_json")) == ROWS


def test_a_table_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows, blocks and batches of next to nothing give the same rows: nothing needs more than one record at once."""
    monkeypatch.setattr(json_stream, "_CHUNK", 7)
    monkeypatch.setattr(text_lines, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(table_rows, "_BATCH_ROWS", 1)
    for name, (content, _) in TEXTS.items():
        (tmp_path / name).write_bytes(content)
        assert pairs(read(tmp_path / name)) == ROWS


# Section by section what other readers lose: see docs/faults.md, "Text and lists".


def test_one_byte_that_is_not_utf8_costs_one_row_of_any_layout(tmp_path: Path) -> None:
    bad = b"caf\xe9 au lait"
    (tmp_path / "t.tsv").write_bytes(b"%b\t%b\na red ball\t%b\n" % (bad, OTHER.encode(), URL.encode()))
    (tmp_path / "t.csv").write_bytes(b"url,caption\n%b,%b\n%b,a red ball\n" % (OTHER.encode(), bad, URL.encode()))
    lines = b'{"url": "%b", "caption": "%b"}\n{"url": "%b", "caption": "a red ball"}\n'
    (tmp_path / "t.jsonl").write_bytes(lines % (OTHER.encode(), bad, URL.encode()))
    (tmp_path / "t.json").write_bytes(b"[%b]" % (lines % (OTHER.encode(), bad, URL.encode())).replace(b"}\n{", b"},{"))
    for name in ("t.tsv", "t.csv", "t.jsonl", "t.json"):
        rows = read(tmp_path / name)
        assert [row.problem for row in rows] == ["undecodable", None], name
        assert pairs(rows) == ROWS[:1]


def test_a_lone_quote_swallows_nothing(tmp_path: Path) -> None:
    rows = [f'{URL},"never closed\n', f"{URL},one\n", f"{OTHER},two\n", f'{URL},5" nails\n', f'{URL},"a\nb"\n']
    (tmp_path / "t.csv").write_text("url,caption\n" + "".join(rows))
    found = read(tmp_path / "t.csv")
    assert [(row.line, row.problem) for row in found] == [
        (2, "bad_quotes"), (3, None), (4, None), (5, None), (6, None)]  # fmt: skip
    assert [row.caption for row in found] == ["", "one", "two", '5" nails', "a b"]
    assert found[0].found == rows[0]


def test_a_lone_quote_in_a_long_file_costs_its_own_line(tmp_path: Path) -> None:
    lines = [f'{URL},"never closed\n', *(f"{URL},caption number {number}\n" for number in range(500))]
    (tmp_path / "t.csv").write_text("url,caption\n" + "".join(lines))
    assert Counter(row.problem for row in read(tmp_path / "t.csv")) == {None: 500, "bad_quotes": 1}


def test_an_extra_separator_costs_its_own_row_and_is_shown(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(f"a red ball\t{URL}\na\tb\t{URL}\nthe box\t{OTHER}\n")
    (tmp_path / "t.csv").write_text(f"url,caption\n{URL},a red ball\n{URL},a,b\n{OTHER},the box\n")
    for name, line in (("t.tsv", 2), ("t.csv", 3)):
        _, bad, _ = read(tmp_path / name)
        assert (bad.problem, bad.line, bad.table_row) == ("wrong_columns", line, 1)
        assert bad.found.count("a") and URL in bad.found


def test_numbers_stay_text_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"url,caption\n{URL},007\n{URL},1e5\n{URL},True\n{URL},null\n")
    (tmp_path / "t.tsv").write_text(f"007\t{URL}\n1e5\t{URL}\nTrue\t{URL}\nnull\t{URL}\n")
    for name in ("t.csv", "t.tsv"):
        assert [row.caption for row in read(tmp_path / name)] == ["007", "1e5", "True", "null"]


def test_a_change_of_type_costs_its_own_line(tmp_path: Path) -> None:
    captions: list[object] = ["a red ball", [["a"], "list"], 7, {"an": "object"}, True, None]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"url": URL, "caption": c}) + "\n" for c in captions))
    rows = read(tmp_path / "t.jsonl")
    assert [row.problem for row in rows] == [None, "not_text", None, "not_text", "not_text", "empty_caption"]
    assert rows[2].caption == "7"


def test_control_characters_and_endless_captions_keep_their_original(tmp_path: Path) -> None:
    captions = ["nul\0 byte", "two\nlines\u2028three", "long " * 4000]
    (tmp_path / "t.json").write_text(json.dumps([{"url": URL, "caption": caption} for caption in captions]))
    rows = read(tmp_path / "t.json")
    assert [row.caption for row in rows] == ["nul byte", "two lines three", ("long " * 4000).strip()]
    assert [row.caption_raw for row in rows] == captions


def test_half_a_surrogate_pair_costs_its_own_row(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(
        f'[{{"url": "{URL}", "caption": "\\ud83d"}}, {{"url": "{URL}", "caption": "fine"}}]'
    )
    assert [row.problem for row in read(tmp_path / "t.json")] == ["undecodable", None]


@pytest.mark.parametrize(
    ("table", "layout", "count"),
    [
        ("tables/served/served_laion_style.parquet", "laion_parquet", 1220),
        ("tables/served/served_cc3m_style.tsv", "cc_tsv", 575),
        ("tables/served/served_sbu_style.json", "sbu_json", 575),
        ("annotations/llava/blip_laion_cc_sbu_2k.json", "llava_json", 1765),
        ("tables/cc3m/Validation_GCC-1.1.0-Validation.tsv", "cc_tsv", 12652),
        ("tables/laion/laion_sample_10000.parquet", "laion_parquet", 7998),
    ],
)
def test_real_tables_are_read_to_the_last_row(shared: Path, table: str, layout: str, count: int) -> None:
    path = shared / "data" / table
    assert recognise(str(path)) == layout
    assert Counter(row.problem for row in read(path)) == {None: count}


@pytest.mark.parametrize("name", TEXTS)
def test_a_table_on_s3_is_read(s3_workdir: str, name: str) -> None:
    fsspec.filesystem("s3").pipe_file(f"{s3_workdir}/{name}", TEXTS[name][0])
    assert recognise(f"{s3_workdir}/{name}") == TEXTS[name][1]
    assert pairs(read(f"{s3_workdir}/{name}")) == ROWS


def test_tables_of_several_files_on_s3_are_read(s3_workdir: str, tmp_path: Path) -> None:
    bucket = fsspec.filesystem("s3")
    for number, (url, caption) in enumerate(ROWS):
        table = pa.table({"uid": [str(number)], "url": [url], "text": [caption]})
        pq.write_table(table, tmp_path / f"{number}.parquet")
        with pa.ipc.new_stream(tmp_path / f"data-{number}.arrow", table.schema) as stream:
            stream.write_table(table)
        bucket.put(str(tmp_path / f"{number}.parquet"), f"{s3_workdir}/datacomp/{number}.parquet")
        bucket.put(str(tmp_path / f"data-{number}.arrow"), f"{s3_workdir}/saved/data-{number}.arrow")
    files = [{"filename": f"data-{number}.arrow"} for number in range(len(ROWS))]
    bucket.pipe_file(f"{s3_workdir}/saved/state.json", json.dumps({"_data_files": files}).encode())
    bucket.pipe_file(f"{s3_workdir}/sbu_urls.txt", "\n".join(url for url, _ in ROWS).encode())
    bucket.pipe_file(f"{s3_workdir}/sbu_captions.txt", "\n".join(caption for _, caption in ROWS).encode())
    for place in ("datacomp", "datacomp/*.parquet", "saved", "sbu_urls.txt"):
        assert pairs(read(f"{s3_workdir}/{place}")) == ROWS, place


def test_a_folder_of_parquet_files_is_read_in_order(tmp_path: Path) -> None:
    for number, (url, caption) in enumerate(ROWS):
        pq.write_table(pa.table({"url": [url], "text": [caption]}), tmp_path / f"{number}.parquet")
    (tmp_path / "README.md").write_text("about")
    assert pairs(read(tmp_path)) == ROWS


def test_a_hub_name_needs_no_library_of_its_own() -> None:
    """`import datasets` would find a folder of this name; the Hub's Parquet files are read through its file system."""
    assert fsspec.get_filesystem_class("hf").protocol == "hf"


def arrow_stream(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)


def test_an_arrow_file_that_points_outside_itself_is_an_error_and_no_crash(tmp_path: Path) -> None:
    arrow_stream(tmp_path / "t.arrow", pa.table({"url": [URL, OTHER], "caption": ["a red ball", "a box"]}))
    content = (tmp_path / "t.arrow").read_bytes()
    ends = struct.pack("<3i", 0, len(URL), len(URL) + len(OTHER))
    assert content.count(ends) == 1
    (tmp_path / "t.arrow").write_bytes(content.replace(ends, struct.pack("<3i", 0, len(URL), 2_000_000_000)))
    with pytest.raises(DataError, match=r"t\.arrow: not a readable Arrow file"):
        read(tmp_path / "t.arrow")


def test_an_arrow_file_with_column_names_in_other_bytes_is_an_error(tmp_path: Path) -> None:
    arrow_stream(tmp_path / "t.arrow", pa.table({"url": [URL], "caption": ["a red ball"], "longer": [1]}))
    content = (tmp_path / "t.arrow").read_bytes()
    (tmp_path / "t.arrow").write_bytes(content.replace(b"longer", b"\xff\xfe\xfdger"))
    with pytest.raises(DataError, match=r"t\.arrow: not a readable Arrow file"):
        read(tmp_path / "t.arrow")


def test_text_of_an_arrow_file_that_is_not_utf8_costs_its_own_row(tmp_path: Path) -> None:
    captions = pa.array([b"a red ball", b"\xff\xfe"]).view(pa.string())
    for column in (captions, captions.view(pa.binary()).dictionary_encode()):
        arrow_stream(tmp_path / "t.arrow", pa.table({"url": [URL, OTHER], "caption": column}))
        assert [row.problem for row in read(tmp_path / "t.arrow")] == [None, "undecodable"]


@pytest.mark.parametrize(
    "caption", ["[a] red ball", "{a} red ball", "a \0 red ball, told at some length for all to see"]
)
def test_a_caption_that_begins_as_json_does_or_holds_a_nul_is_one_all_the_same(tmp_path: Path, caption: str) -> None:
    (tmp_path / "t.tsv").write_text(f"{caption}\t{URL}\n")
    assert [row.url for row in read(tmp_path / "t.tsv")] == [URL]


def test_sbu_on_one_line_with_other_members_first_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"info": {"a": 1}, "captions": ["a red ball"], "image_urls": [URL]}))
    assert recognise(str(tmp_path / "t.json")) == "sbu_json"
