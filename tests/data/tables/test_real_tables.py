"""The published metadata goes through the web-scale chain, and an independent count agrees."""

import hashlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.judged import dropped, opened
from tinygptv import catalog
from tinygptv.data.filters.captions import Describer
from tinygptv.data.filters.rule_attribution import judge
from tinygptv.data.shards.shards import SCHEMA, SIDECAR
from tinygptv.data.tables.readers import read_table
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.source import Table

TABLES = {
    "tables/cc3m/Validation_GCC-1.1.0-Validation.tsv": 12_652,
    "tables/laion/laion_sample_10000.parquet": 7_998,
}


@pytest.fixture(scope="module")
def chain() -> FilterChain:
    """The LAION chain but for what asks about pictures, which are not at hand."""
    whole = catalog.filter_chain("laion_pairs")
    rules = [rule for rule in whole.rules if rule.name not in ("min_side", "aspect_ratio")]
    return whole.model_copy(update={"rules": rules, "decontaminate": None})


def write_sidecar(table: Path, folder: Path) -> list[dict[str, str]]:
    """The table as a described sidecar of rows that all were fetched; the rows."""
    folder.mkdir()
    describer = Describer(catalog.captions("web"))
    with pq.ParquetWriter(folder / SIDECAR, SCHEMA) as sidecar:
        for batch in read_table(Table(location=str(table)), str(table)):
            keys = [hashlib.sha256(f"{url}".encode()).hexdigest()[:20] for url in batch["url"].to_pylist()]
            known = dict(zip(batch.schema.names, batch.columns, strict=True)) | {"key": pa.array(keys)}
            columns = [known.get(field.name, pa.nulls(len(keys), field.type)) for field in SCHEMA]
            sidecar.write_batch(describer(pa.record_batch(columns, schema=SCHEMA)))
    return pq.read_table(folder / SIDECAR).to_pylist()


@pytest.mark.parametrize("table", TABLES)
def test_every_row_of_a_real_table_is_kept_or_counted(
    shared: Path, tmp_path: Path, chain: FilterChain, table: str
) -> None:
    rows = write_sidecar(shared / "data" / table, tmp_path / "rows")
    assert len(rows) == TABLES[table]
    with opened(tmp_path / "rows") as opened_rows:
        judgement = judge(opened_rows, chain)
    firsts = {entry["rule"]: entry["dropped_first"] for entry in judgement.funnel}
    kept = [row for row, verdict in zip(rows, judgement.verdicts, strict=True) if not verdict]
    assert len(kept) + sum(firsts.values()) == len(rows)
    assert len(kept) > 0.7 * len(rows)

    captions = Counter(row["caption"].lower() for row in rows)
    alone = {entry["rule"]: entry["dropped_alone"] for entry in judgement.funnel}
    assert alone["duplicate_caption"] == len(rows) - len(captions)
    assert alone["caption_words"] == sum(len(row["caption"].split(" ")) < 3 for row in rows)
    assert alone["short_caption"] == sum(len(row["caption"]) < 6 for row in rows)
    assert alone["english"] == sum(row["language"] not in (None, "en") for row in rows)
    assert len({row["caption"].lower() for row in kept}) == len(kept)


def test_a_table_brings_nothing_new_to_a_snapshot_that_holds_it(
    shared: Path, tmp_path: Path, chain: FilterChain
) -> None:
    folder, other = tmp_path / "laion", tmp_path / "cc3m"
    cc3m, laion = (shared / "data" / table for table in TABLES)
    rows = write_sidecar(laion, folder)
    write_sidecar(cc3m, other)
    alone = dropped(folder, chain)
    assert dropped(folder, chain, other) == alone, "the two tables have no caption in common"
    again = dropped(folder, chain, other, folder)
    assert len(again) == len(rows)
    assert {step for row, step in again.items() if row not in alone} == {"duplicate_caption"}
