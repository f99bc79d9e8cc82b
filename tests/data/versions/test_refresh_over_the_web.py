"""Refreshing over a web that changes: three times, and each time exactly the difference crosses the network."""

import pyarrow.parquet as pq
import pytest

from tests.data.corpus import Corpus, picture_of
from tests.web.pages import status
from tests.web.server import Web
from tinygptv.data.forget.tombstones import add_tombstone, tombstone
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.store.artifacts import Store


def answered(web: Web) -> dict[int | None, set[str]]:
    """Status → paths, of the last refresh, which asked for each of them once."""
    assert set(web.asked_for.values()) <= {1}
    asked = [request for request in web.requests if request.path != "/robots.txt"]
    return {request.status: {other.path for other in asked if other.status == request.status} for request in asked}


def test_three_refreshes_of_a_changing_corpus_fetch_exactly_the_difference(corpus: Corpus, web: Web) -> None:
    paths = [f"/p{number}" for number in range(10)]
    web.pages |= {path: picture_of(f"{path} v1") for path in paths}
    web.pages["/shy"] = picture_of("shy", X_Robots_Tag="noai")
    first = corpus.refresh(*paths, "/dead", "/shy")
    assert (first.outcome, first.changes) == ("published", {"added": 10})
    assert first.raw.drops == {"http_404": 1, "opted_out": 1}
    assert answered(web) == {200: {*paths, "/shy"}, 404: {"/dead"}}

    web.pages |= {"/p3": picture_of("/p3 v2"), "/p4": status(410), "/p5": picture_of("/p5 v1", X_Robots_Tag="noai")}
    web.pages |= {"/new1": picture_of("new1"), "/new2": picture_of("new2")}
    second = corpus.refresh(*paths[1:], "/new1", "/new2", "/dead", "/shy")
    assert second.changes == {"added": 2, "removed": 3, "changed": 1}
    assert answered(web) == {
        200: {"/p3", "/new1", "/new2"},
        304: {"/p1", "/p2", "/p5", "/p6", "/p7", "/p8", "/p9"},
        410: {"/p4"},
    }
    assert second.raw.details["changes"]["new"] == 2
    assert {"about": "sample", "what": "removed", "count": 3} in second.report()
    why = "http_404 1, http_410 1, opted_out 2"
    assert second.rot() == [{"host": "127.0.0.1", "addresses": 13, "lost": 4, "why": why}]

    third = corpus.refresh(*paths[1:], "/new1", "/new2", "/dead", "/shy")
    assert (third.outcome, third.version) == ("nothing_new", second.version)
    assert answered(web) == {304: {"/p1", "/p2", "/p3", "/p6", "/p7", "/p8", "/p9", "/new1", "/new2"}}


def test_what_was_checked_lately_is_not_even_asked_about(corpus: Corpus, web: Web) -> None:
    corpus.recheck_days = 7
    web.pages |= {path: picture_of(path) for path in ("/a", "/b", "/c")}
    corpus.refresh("/a", "/b")
    assert corpus.refresh("/a", "/b", "/c").changes == {"added": 1, "removed": 0, "changed": 0}
    assert answered(web) == {200: {"/c"}}


def test_what_is_to_be_forgotten_is_neither_asked_for_nor_kept(corpus: Corpus, web: Web, store: Store) -> None:
    web.pages |= {path: picture_of(path) for path in ("/a", "/b", "/c")}
    corpus.refresh("/a", "/b", "/c")
    add_tombstone(store, tombstone("url", f"{web.address}/b", "asked for by its owner"))
    second = corpus.refresh("/a", "/b", "/c")
    assert (second.outcome, second.changes) == ("published", {"added": 0, "removed": 1, "changed": 0})
    assert second.raw.drops == {"forgotten": 1}
    assert answered(web) == {304: {"/a", "/c"}}
    sidecar = pq.read_table(store.folder(second.raw.artifact) / "sidecar.parquet", columns=["url"])
    assert sorted(url.rpartition("/")[2] for url in sidecar["url"].to_pylist()) == ["a", "c"]


@pytest.mark.parametrize("recheck_days", [0.0, 7.0])
def test_a_picture_that_is_to_be_forgotten_is_not_kept_whether_it_is_known_or_new(
    corpus: Corpus, web: Web, store: Store, recheck_days: float
) -> None:
    corpus.recheck_days = recheck_days
    web.pages |= {"/a": picture_of("one"), "/b": picture_of("two"), "/c": picture_of("three")}
    first = corpus.refresh("/a", "/b", "/c")
    stored = {row["url"][-1]: row for row in pq.read_table(store.file(first.raw.artifact, SIDECAR)).to_pylist()}
    add_tombstone(store, tombstone("sha256", stored["b"]["content_sha256"], "asked for by its owner"))
    web.pages["/d"] = picture_of("two")
    second = corpus.refresh("/a", "/b", "/c", "/d")
    assert second.raw.drops == {"forgotten": 2}
    assert second.changes == {"added": 0, "removed": 1, "changed": 0}
