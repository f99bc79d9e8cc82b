"""Each shipped check finds what it is for, and nothing in two versions that are as they should be."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.raw import build_raw
from tinygptv.catalog import OWN_DEFINITIONS
from tinygptv.data.forget.tombstones import add_tombstone, tombstone
from tinygptv.data.versions.checks import SHIPPED, run_checks
from tinygptv.errors import DefinitionError
from tinygptv.store.artifacts import Store

GOOD: dict[str, dict[str, Any]] = {f"{number:03d}": {"host": f"host{number % 7}"} for number in range(300)}


def changed(keys: slice, **said: Any) -> dict[str, dict[str, Any]]:
    return GOOD | {key: GOOD[key] | said for key in list(GOOD)[keys]}


BAD: dict[str, dict[str, dict[str, Any]]] = {
    "shrunk": dict(list(GOOD.items())[:250]),
    "rot_jump": {key: row for key, row in GOOD.items() if int(key) % 10} | {f"new{n}": {} for n in range(30)},
    "host_took_over": changed(slice(0, 200), host="hoard"),
    "empty_captions": changed(slice(0, 1), caption="  "),
    "one_picture_everywhere": changed(slice(0, 30), picture="not found"),
    "captions_changed": changed(slice(None), caption="pic"),
    "forgotten_came_back": changed(slice(0, 1), host="sub.forget.me"),
    "no_picture": changed(slice(0, 1), width=0),
}


def failed(store: Store, old: dict[str, Any], new: dict[str, Any]) -> set[str]:
    """Of a version whose filter kept `new`; the download lost a row only where no row is there instead."""
    add_tombstone(store, tombstone("domain", "forget.me", "test"))
    before, after = (build_raw(store, f"raw/{name}@1", rows).artifact for name, rows in (("old", old), ("new", new)))
    raw = before if new.keys() < old.keys() else after
    return {failure.check for failure in run_checks(store, raw, after, before, before)}


def test_every_shipped_check_is_tried_here() -> None:
    # Two samples under one key cannot be written, so that check has a test of its own below.
    assert {path.stem for path in SHIPPED.glob("*.sql")} == {*BAD, "duplicate_keys"}


@pytest.mark.parametrize("check", BAD)
def test_a_check_fails_on_what_it_is_for_and_only_there(store: Store, check: str) -> None:
    assert failed(store, GOOD, BAD[check]) == {check}


def test_ordinary_news_pass_every_check(store: Store) -> None:
    rotten = dict(list(GOOD.items())[6:]) | {f"new{n}": {"host": "host3"} for n in range(25)}
    assert failed(store, GOOD, rotten) == set()


def test_a_first_version_has_nothing_to_be_compared_with(store: Store) -> None:
    raw = build_raw(store, "raw/new@1", dict(list(GOOD.items())[:50])).artifact
    assert run_checks(store, raw, raw) == []


def test_a_failure_says_which_check_how_many_rows_and_why_it_matters(store: Store) -> None:
    raw = build_raw(store, "raw/new@1", changed(slice(0, 30), caption="")).artifact
    (failure,) = run_checks(store, raw, raw)
    assert (failure.check, failure.count, len(failure.rows)) == ("empty_captions", 30, 20)
    assert str(failure).startswith("empty_captions: 30 rows (key 000, url http://web/000.jpg; ")
    assert str(failure).endswith("A picture without words teaches nothing about words.")


def test_ones_own_check_joins_the_shipped_ones_or_takes_the_place_of_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OWN_DEFINITIONS, str(tmp_path))
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "no_kept_row.sql").write_text("SELECT outcome FROM new_ledger LIMIT 1")
    (tmp_path / "checks" / "empty_captions.sql").write_text("-- allowed here\nSELECT 1 WHERE FALSE")
    raw = build_raw(store, "raw/new@1", changed(slice(0, 30), caption="")).artifact
    assert [failure.check for failure in run_checks(store, raw, raw)] == ["no_kept_row"]


def test_a_question_that_cannot_be_asked_names_its_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OWN_DEFINITIONS, str(tmp_path))
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "bad.sql").write_text("SELECT colour FROM new")
    raw = build_raw(store, "raw/new@1", GOOD).artifact
    with pytest.raises(DefinitionError, match=r"checks/bad\.sql: .*colour"):
        run_checks(store, raw, raw)
