"""Every address a picture came by counts: in takedowns, in what was refused for good, in ledger and sidecar; and one
address with several captions is asked once."""

from typing import Literal

import pyarrow.parquet as pq
import pytest

from tests.data.corpus import Corpus, picture_of
from tests.web.pages import redirect, status
from tests.web.server import Handler, Page, Web
from tinygptv.data.download.ledger import LEDGER
from tinygptv.data.forget.tombstones import add_tombstone, tombstone
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.store.artifacts import Store


def opted_out(path: str) -> Page:
    return picture_of(path, X_Robots_Tag="noai")


@pytest.fixture(autouse=True)
def pictures_everywhere(web: Web) -> None:
    """Every path has a picture of its own, unless a test says otherwise."""

    def picture(handler: Handler) -> None:
        picture_of(handler.path)(handler)

    web.otherwise = picture
    web.pages["/robots.txt"] = status(404)


def test_ledger_and_sidecar_name_every_address_on_the_way(store: Store, corpus: Corpus, web: Web) -> None:
    web.pages |= {"/a": redirect("/b/../c"), "/c": redirect("/d")}
    made = corpus.refresh("/a", "/e")
    (row, plain) = pq.read_table(store.file(made.raw.artifact, LEDGER)).to_pylist()
    hops = [f"{web.address}/c", f"{web.address}/d"]
    assert (row["hops"], row["final_url"], row["final_host"]) == (hops, hops[-1], "127.0.0.1")
    assert (plain["hops"], plain["final_url"], plain["final_host"]) == (None, None, None)
    stored = {one["url"]: one for one in pq.read_table(store.file(made.raw.artifact, SIDECAR)).to_pylist()}
    assert stored[f"{web.address}/a"]["hops"] == hops
    assert stored[f"{web.address}/e"]["hops"] is None


def test_a_picture_that_stays_is_known_by_the_way_it_comes_now(store: Store, corpus: Corpus, web: Web) -> None:
    web.pages["/a"] = redirect("/b")
    corpus.refresh("/a", "/c")
    web.pages |= {"/a": redirect("/d"), "/d": redirect("/b")}
    second = corpus.refresh("/a", "/c", "/e")
    assert second.raw.details["changes"]["unchanged"] == 2
    stored = {one["url"]: one for one in pq.read_table(store.file(second.raw.artifact, SIDECAR)).to_pylist()}
    assert stored[f"{web.address}/a"]["hops"] == [f"{web.address}/d", f"{web.address}/b"]


def test_forgetting_the_address_that_served_a_picture_takes_the_picture_back(
    store: Store, corpus: Corpus, web: Web
) -> None:
    web.pages["/a"] = redirect("/b")
    corpus.refresh("/a", "/c")
    add_tombstone(store, tombstone("url", f"{web.address}/b", "asked for by its owner"))
    second = corpus.refresh("/a", "/c")
    assert (second.raw.drops, web.count("/a"), web.count("/b")) == ({"forgotten": 1}, 0, 0)


@pytest.mark.parametrize(("kind", "value"), [("url", "{}/b"), ("domain", "127.0.0.1")])
def test_no_redirect_is_followed_to_what_is_to_be_forgotten(
    store: Store, corpus: Corpus, web: Web, kind: Literal["url", "domain"], value: str
) -> None:
    web.pages["/a"] = redirect(f"{web.address}/b")
    add_tombstone(store, tombstone(kind, value.format(web.address), "asked for by its owner"))
    elsewhere = web.address.replace("127.0.0.1", "localhost")
    web.address = elsewhere if kind == "domain" else web.address
    made = corpus.refresh("/a", "/c")
    assert (made.raw.drops, web.count("/a"), web.count("/b")) == ({"forgotten": 1}, 1, 0)


def test_an_address_that_opted_out_is_not_asked_again_by_way_of_another(corpus: Corpus, web: Web) -> None:
    web.pages["/b"] = opted_out("/b")
    web.pages["/a"] = redirect("/b")
    assert corpus.refresh("/b", "/c").raw.drops == {"opted_out": 1}
    second = corpus.refresh("/a", "/b", "/c")
    assert (second.raw.drops, web.count("/a"), web.count("/b")) == ({"opted_out": 2}, 1, 0)


def test_the_address_behind_a_redirect_that_opted_out_is_not_asked_directly(corpus: Corpus, web: Web) -> None:
    web.pages["/b"] = opted_out("/b")
    web.pages["/a"] = redirect("/b")
    assert corpus.refresh("/a", "/c").raw.drops == {"opted_out": 1}
    second = corpus.refresh("/a", "/b", "/c")
    assert (second.raw.drops, web.count("/a"), web.count("/b")) == ({"opted_out": 2}, 0, 0)


def test_a_picture_that_came_by_an_address_which_opts_out_later_is_dropped(corpus: Corpus, web: Web) -> None:
    web.pages["/a"] = redirect("/b")
    corpus.refresh("/a", "/c")
    web.pages["/b"] = opted_out("/b")
    corpus.refresh("/b", "/c")
    del web.pages["/b"]
    third = corpus.refresh("/a", "/b", "/c")
    assert (third.raw.drops, web.count("/b")) == ({"opted_out": 2}, 0)


def test_several_captions_of_one_address_are_all_kept_and_it_is_asked_once(
    store: Store, corpus: Corpus, web: Web
) -> None:
    rows = [("/a", "a red circle"), ("/b", "a square"), ("/a", "something round"), ("/a", "a red circle")]
    first = corpus.refresh(*rows)
    assert (first.raw.rows_out, first.raw.drops, web.count("/a")) == (3, {"duplicate_url": 1}, 1)
    stored = pq.read_table(store.file(first.raw.artifact, SIDECAR)).to_pylist()
    of_a = [row for row in stored if row["url"].endswith("/a")]
    assert [row["caption"] for row in of_a] == ["a red circle", "something round"]
    assert len({row["key"] for row in stored}) == 3
    assert len({row["sha256"] for row in of_a}) == 1
    second = corpus.refresh(*rows, ("/a", "a third caption"))
    assert (second.raw.rows_out, web.count("/a"), web.count("/b")) == (4, 1, 1)
    assert second.changes == {"added": 1, "removed": 0, "changed": 0}


def test_a_failure_counts_for_every_caption_of_its_address(corpus: Corpus, web: Web) -> None:
    web.pages["/a"] = opted_out("/a")
    made = corpus.refresh(("/a", "one"), ("/a", "another"), "/b")
    assert (made.raw.drops, web.count("/a")) == ({"opted_out": 2}, 1)


def test_a_caption_to_be_forgotten_does_not_cost_the_others(store: Store, corpus: Corpus, web: Web) -> None:
    add_tombstone(store, tombstone("caption", "Jane Doe", "asked for by her"))
    made = corpus.refresh(("/a", "Jane Doe smiles"), ("/a", "a woman"), ("/a", "a smile"))
    assert (made.raw.rows_out, made.raw.drops) == (2, {"forgotten": 1})


def test_a_domain_is_forgotten_as_people_write_it(store: Store) -> None:
    assert tombstone("domain", "Straße.Example.", "test").value == "xn--strae-oqa.example"
    assert tombstone("url", "http://Straße.Example/a/../b c.jpg#x", "test").value == (
        "http://xn--strae-oqa.example/b%20c.jpg"
    )
