"""A download that knows an earlier version fetches exactly the difference."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.sources import pairs_source, pairs_table
from tests.web.pages import conditional, page, silence, status
from tests.web.server import Web
from tinygptv.data.download import ledger
from tinygptv.data.download.download import download
from tinygptv.data.forget.tombstones import add_tombstone, tombstone
from tinygptv.data.shards.shards import read_image, sidecar_rows
from tinygptv.store.artifacts import Manifest, Store

Pictures = Callable[..., bytes]


class Corpus:
    """A changing web and a changing table of it; `fetch` makes the next version."""

    def __init__(self, folder: Path, store: Store, web: Web, picture: Pictures) -> None:
        self.web, self.store, self._folder, self._picture = web, store, folder, picture
        self.urls: list[str] = []
        self.options: dict[str, Any] = {}

    def picture(self, number: int) -> bytes:
        return self._picture(90, 80, number)

    def add(self, *numbers: int) -> None:
        """Pictures that say when they have not changed."""
        for number in numbers:
            self.web.pages[f"/{number}"] = conditional(self.picture(number), f'"{number}"')
            self.urls.append(f"__BASE_URL__/{number}")

    def fetch(self, previous: Manifest | None = None) -> Manifest:
        self.web.clear()
        table = pairs_table(self._folder, [{"url": url, "caption": "a picture"} for url in self.urls])
        options = {"image_size": 64, "threads": 4, "retries": 0, "timeout_seconds": 0.5} | self.options
        source = pairs_source(table, options)
        return download(self.store, "pairs", source, previous, base_url=self.web.address)

    def asked(self) -> set[str]:
        return set(self.web.asked_for)

    def sent(self) -> set[str]:
        """The paths whose picture crossed the network."""
        return {path for path, count in self.web.sent_bytes.items() if count > 100}

    def rows(self, made: Manifest) -> dict[str, dict[str, Any]]:
        rows = pq.read_table(self.store.folder(made.artifact) / ledger.LEDGER).to_pylist()
        return {row["url"].rpartition("/")[2]: row for row in rows}

    def stored(self, made: Manifest) -> dict[str, bytes]:
        folder = self.store.folder(made.artifact)
        return {row["url"].rpartition("/")[2]: read_image(folder, row) for row in sidecar_rows(folder)}


@pytest.fixture
def corpus(tmp_path: Path, store: Store, web: Web, picture: Pictures, engine_in_this_process: None) -> Corpus:
    return Corpus(tmp_path, store, web, picture)


def test_only_what_is_new_or_changed_crosses_the_network(corpus: Corpus) -> None:
    corpus.add(1, 2, 3, 4)
    first = corpus.fetch()
    corpus.urls.remove("__BASE_URL__/4")
    corpus.add(5)
    corpus.web.pages["/3"] = conditional(corpus.picture(33), '"33"')
    second = corpus.fetch(first)
    assert corpus.asked() == {"/1", "/2", "/3", "/5"}
    assert corpus.sent() == {"/3", "/5"}
    assert second.details["changes"] == {"changed": 1, "gone": 1, "new": 1, "unchanged": 2}
    before, after = corpus.stored(first), corpus.stored(second)
    assert list(after) == ["1", "2", "3", "5"]
    assert (after["1"], after["2"]) == (before["1"], before["2"])
    assert after["3"] != before["3"]
    assert second.parents == [first.artifact]


def test_a_reused_sample_keeps_everything_known_of_it_and_takes_its_new_caption(corpus: Corpus) -> None:
    corpus.add(1)
    first = corpus.fetch()
    second = corpus.fetch(first)
    before, after = (next(sidecar_rows(corpus.store.folder(made.artifact))) for made in (first, second))
    assert after == before
    assert after["phash"] is not None
    assert after["content_sha256"] is not None


def test_the_same_bytes_without_a_tag_are_unchanged_too(corpus: Corpus) -> None:
    corpus.web.pages["/1"] = page(corpus.picture(1))
    corpus.urls = ["__BASE_URL__/1"]
    second = corpus.fetch(corpus.fetch())
    assert second.details["changes"] == {"unchanged": 1}


def test_what_is_gone_for_good_or_opted_out_is_dropped_and_never_asked_again(corpus: Corpus) -> None:
    corpus.add(1, 2, 3, 4)
    first = corpus.fetch()
    corpus.web.pages["/2"] = status(410)
    corpus.web.pages["/3"] = page(corpus.picture(3), X_Robots_Tag="noai")
    corpus.web.pages["/4"] = status(404)
    second = corpus.fetch(first)
    assert second.drops == {"http_410": 1, "opted_out": 1, "http_404": 1}
    assert second.details["changes"] == {"lost": 3, "unchanged": 1}
    corpus.add(2, 3)
    corpus.urls = corpus.urls[:4]
    third = corpus.fetch(second)
    assert corpus.asked() == {"/1"}
    assert third.drops == second.drops
    assert third.details["changes"] == {"never_asked": 2, "not_due": 1, "unchanged": 1}


def test_a_tombstone_outlives_its_row(corpus: Corpus) -> None:
    corpus.add(1, 2)
    corpus.web.pages["/2"] = status(410)
    first = corpus.fetch()
    corpus.urls = corpus.urls[:1]
    second = corpus.fetch(first)
    corpus.add(2)
    third = corpus.fetch(second)
    assert corpus.asked() == {"/1"}
    assert (third.rows_in, third.drops) == (2, {"http_410": 1})


def test_a_picture_stays_while_its_server_is_out_of_order(corpus: Corpus) -> None:
    corpus.add(1, 2, 3)
    first = corpus.fetch()
    corpus.web.pages |= {"/1": status(500), "/2": silence}
    second = corpus.fetch(first)
    assert second.rows_out == 3
    assert second.details["changes"] == {"unchanged": 1, "unreachable": 2}
    rows = corpus.rows(second)
    assert (rows["1"]["failure"], rows["2"]["failure"], rows["3"]["failure"]) == ("http_5xx", "timeout", None)


def test_failures_are_asked_again_when_they_are_due_and_not_before(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus.add(1, 2, 3)
    corpus.web.pages |= {"/2": status(500), "/3": status(404)}
    first = corpus.fetch()
    rows = corpus.rows(first)
    assert rows["2"]["next_try"] - rows["2"]["checked_at"] == 3600
    assert rows["3"]["next_try"] - rows["3"]["checked_at"] == 30 * 86400
    second = corpus.fetch(first)
    assert corpus.asked() == {"/1"}
    assert second.details["changes"] == {"not_due": 2, "unchanged": 1}
    now = ledger.time.time()
    monkeypatch.setattr(ledger.time, "time", lambda: now + 4000)
    third = corpus.fetch(second)
    assert corpus.asked() == {"/1", "/2"}
    assert third.details["changes"] == {"not_due": 1, "retried": 1, "unchanged": 1}
    row = corpus.rows(third)["2"]
    assert (row["attempts"], row["next_try"] - row["checked_at"]) == (2, 7200)


def test_a_long_wait_that_a_server_asked_for_is_kept(corpus: Corpus) -> None:
    corpus.add(1, 2)
    corpus.web.pages["/2"] = status(503, Retry_After="86400")
    row = corpus.rows(corpus.fetch())["2"]
    assert row["next_try"] - row["checked_at"] == 86400


def test_pictures_are_not_asked_about_before_they_are_due_for_it(corpus: Corpus) -> None:
    corpus.options = {"recheck_days": 7.0}
    corpus.add(1, 2)
    first = corpus.fetch()
    corpus.add(3)
    second = corpus.fetch(first)
    assert corpus.asked() == {"/3"}
    assert second.details["changes"] == {"new": 1, "not_due": 2}
    assert second.rows_out == 3


def test_pictures_stored_by_other_rules_are_fetched_anew(corpus: Corpus) -> None:
    corpus.add(1, 2)
    first = corpus.fetch()
    corpus.options = {"image_size": 32}
    second = corpus.fetch(first)
    assert corpus.sent() == {"/1", "/2"}
    assert {row["width"] for row in sidecar_rows(corpus.store.folder(second.artifact))} == {36}


def test_what_somebody_asked_to_forget_is_not_asked_for(corpus: Corpus) -> None:
    corpus.add(1, 2)
    add_tombstone(corpus.store, tombstone("url", "__BASE_URL__/2", "asked for by the owner"))
    made = corpus.fetch()
    assert made.drops == {"forgotten": 1}
    assert corpus.asked() == {"/1"}


def test_what_is_forgotten_later_leaves_the_next_version(corpus: Corpus) -> None:
    corpus.add(1, 2)
    first = corpus.fetch()
    add_tombstone(corpus.store, tombstone("url", "__BASE_URL__/2", "asked for by the owner"))
    second = corpus.fetch(first)
    assert (second.rows_out, second.drops) == (1, {"forgotten": 1})
    assert corpus.asked() == {"/1"}
    assert corpus.rows(second)["2"]["state"] == "refused"


def test_rot_is_told_by_host(corpus: Corpus) -> None:
    corpus.add(1, 2)
    port = corpus.web.address.rpartition(":")[2]
    corpus.web.pages |= {"/3": status(404), "/4": status(404)}
    corpus.urls += [f"http://127.0.0.1:{port}/{number}" for number in (1, 3, 4)]
    made = corpus.fetch()
    assert made.details["hosts"] == [
        {"host": "127.0.0.1", "rows": 3, "kept": 1, "outcomes": {"http_404": 2, "kept": 1}}
    ]


def test_an_empty_ledger_and_a_full_one_have_the_same_columns(corpus: Corpus) -> None:
    corpus.add(1)
    first = corpus.fetch()
    second = corpus.fetch(first)
    schemas = [pq.read_schema(corpus.store.folder(made.artifact) / ledger.LEDGER) for made in (first, second)]
    assert schemas[0].remove_metadata().equals(schemas[1].remove_metadata())
    assert pa.types.is_integer(schemas[0].field("next_try").type)
