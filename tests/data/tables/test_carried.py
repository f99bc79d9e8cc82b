"""Columns that a source takes along arrive in the sidecar and in the samples, and filters can ask about them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.sources import pairs_source, pairs_table
from tests.web.pages import page
from tests.web.server import Web
from tinygptv import catalog
from tinygptv.data.download.download import download
from tinygptv.data.filters.filtering import check_chain, filter_source
from tinygptv.data.shards.shards import SIDECAR, carried_columns, sidecar_rows
from tinygptv.data.shards.tar import Archive
from tinygptv.data.upkeep.repair import repair
from tinygptv.definitions.filters import Deduplicate, FilterChain, Rule
from tinygptv.definitions.source import Table
from tinygptv.errors import DataError, DefinitionError
from tinygptv.store.artifacts import Manifest, Store

SCORES = [4.5, 6, None]
CHAIN = FilterChain(
    about="test",
    rules=[Rule(name="beautiful", keep="coalesce(aesthetic, 5) >= 5", why="test")],
    duplicates=[Deduplicate(name="copy", by="sha256", order="aesthetic DESC NULLS LAST, key", why="test")],
)


@pytest.fixture
def raw(web: Web, picture: Callable[..., bytes], store: Store, tmp_path: Path) -> Manifest:
    web.pages |= {f"/{number}.jpg": page(picture(60, 50, number)) for number in range(3)}
    rows = [
        {"url": f"{web.address}/{number}.jpg", "caption": f"picture {number}", "Aesthetic": score, "tags": ["x"]}
        for number, score in enumerate(SCORES)
    ]
    table = pairs_table(tmp_path, rows)
    options = {"image_size": 64, "threads": 2, "retries": 0}
    source = pairs_source(table, options, tables=[Table(location=str(table), carry="all")], filter="chain")
    return download(store, "pairs", source)


def test_carried_columns_reach_the_sidecar_and_the_samples(raw: Manifest, store: Store) -> None:
    folder = store.folder(raw.artifact)
    assert raw.details["carried"] == carried_columns(folder / SIDECAR) == {"aesthetic": "DOUBLE", "tags": "VARCHAR"}
    assert [(row["aesthetic"], row["tags"]) for row in sidecar_rows(folder)] == [(score, '["x"]') for score in SCORES]
    with Archive(folder / "00000.tar") as archive:
        assert [json.loads(files["json"])["aesthetic"] for _, files in archive] == SCORES


def test_rules_ask_about_carried_columns(raw: Manifest, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "filter_chain", lambda name: CHAIN)
    made = filter_source(store, "pairs", "chain", raw)
    assert (made.rows_out, made.drops, made.details["carried"]) == (2, {"beautiful": 1}, raw.details["carried"])
    with pytest.raises(DataError, match="copy 2, beautiful 1"):
        filter_source(store, "pairs", "chain", raw, earlier=[raw])


def test_a_column_that_is_not_carried_is_an_error_with_a_suggestion(
    raw: Manifest, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = CHAIN.model_copy(update={"rules": [Rule(name="beautiful", keep="aestetic > 5", why="test")]})
    monkeypatch.setattr(catalog, "filter_chain", lambda name: chain)
    with pytest.raises(DefinitionError, match=r"beautiful: (?s:.*)Did you mean 'aesthetic'.*in the source's `carry`"):
        filter_source(store, "pairs", "chain", raw)


def test_a_chain_is_checked_before_it_is_known_what_is_carried() -> None:
    check_chain("chain", CHAIN, None)
    broken = CHAIN.model_copy(update={"rules": [Rule(name="broken", keep="width >", why="test")]})
    with pytest.raises(DefinitionError, match="broken: "):
        check_chain("chain", broken, None)
    with pytest.raises(DefinitionError, match="beautiful: "):
        check_chain("chain", CHAIN)


def test_a_damaged_sidecar_is_made_again_with_its_carried_columns(raw: Manifest, store: Store) -> None:
    sidecar = store.folder(raw.artifact) / SIDECAR
    before = sidecar.read_bytes()
    sidecar.write_bytes(before[:100])
    repair(str(store.folder(raw.artifact)))
    assert sidecar.read_bytes() == before
