"""Refreshing over a web that changes: three times, and each time exactly the difference crosses the network."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.data.webfake import pixels
from tinygptv import catalog
from tinygptv.data.forget.tombstones import bury, tombstone
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.data.versions.refresh import Refreshed, refresh
from tinygptv.definitions.filters import FilterChain, Rule
from tinygptv.definitions.source import Download, PairsSource, Table
from tinygptv.store.artifacts import Store

CHAIN = FilterChain(about="all", rules=[Rule(name="any", keep="TRUE", why="test")])
OPT_OUT = {"X-Robots-Tag": "noai"}


@dataclass
class Pages:
    """Name → what seeds its picture, or its status if it has none; the headers of some; every request that came."""

    pictures: dict[str, str | int] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer as a server that knows its pictures' versions: 304 for the one that the asker has."""
        name = handler.path.strip("/")
        found = self.pictures.get(name, 404)
        body = pixels(found, 32) if isinstance(found, str) else b""
        status = 200 if isinstance(found, str) else found
        if status == 200 and handler.headers["If-None-Match"] == f'"{found}"':
            status, body = 304, b""
        self.asked.append((name, status))
        handler.send_response(status)
        for header, value in self.headers.get(name, {}).items():
            handler.send_header(header, value)
        handler.send_header("ETag", f'"{found}"')
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def since_last_asked(self) -> dict[int, set[str]]:
        """Status → names, of the requests since this was last asked; each name once, robots.txt left out."""
        asked, self.asked = [one for one in self.asked if one[0] != "robots.txt"], []
        assert len({name for name, _ in asked}) == len(asked)
        return {status: {name for name, given in asked if given == status} for _, status in asked}


@pytest.fixture
def pages() -> Iterator[tuple[Pages, str]]:
    pages = Pages()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pages.answer(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield pages, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Corpus:
    """A table of names and the source over it."""

    def __init__(self, folder: Path, address: str, recheck_days: float = 0.0) -> None:
        self.table, self.address = folder / "pairs.jsonl", address
        self.source = PairsSource(
            kind="pairs",
            about="test",
            licence="CC0-1.0",
            tables=[Table(location=str(self.table))],
            filter="web_pairs",
            allow_private=True,
            download=Download(image_size=32, threads=4, retries=0, recheck_days=recheck_days),
        )

    def refresh(self, store: Store, names: list[str]) -> Refreshed:
        """Refresh from a table of these names."""
        rows = [{"url": f"{self.address}/{name}", "caption": f"a picture of {name}"} for name in names]
        self.table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return refresh(store, "web", self.source, benchmarks={})


@pytest.fixture(autouse=True)
def chain(monkeypatch: pytest.MonkeyPatch, engine_in_this_process: None) -> None:
    monkeypatch.setattr(catalog, "filter_chain", {"web_pairs": CHAIN}.__getitem__)


def test_three_refreshes_of_a_changing_corpus_fetch_exactly_the_difference(
    store: Store, tmp_path: Path, pages: tuple[Pages, str]
) -> None:
    web, corpus = pages[0], Corpus(tmp_path, pages[1])
    names = [f"p{number}" for number in range(10)]
    web.pictures |= {name: f"{name} v1" for name in names} | {"shy": "shy v1"}
    web.headers["shy"] = OPT_OUT
    first = corpus.refresh(store, [*names, "dead", "shy"])
    assert (first.outcome, first.changes) == ("published", {"added": 10})
    assert first.raw.drops == {"http_404": 1, "opted_out": 1}
    assert web.since_last_asked() == {200: {*names, "shy"}, 404: {"dead"}}

    web.pictures |= {"p3": "p3 v2", "p4": 410, "new1": "new1", "new2": "new2"}
    web.headers["p5"] = OPT_OUT
    second = corpus.refresh(store, [*names[1:], "new1", "new2", "dead", "shy"])
    assert second.changes == {"added": 2, "removed": 3, "changed": 1}
    assert web.since_last_asked() == {
        200: {"p3", "new1", "new2"},
        304: {"p1", "p2", "p5", "p6", "p7", "p8", "p9"},
        410: {"p4"},
    }
    assert second.raw.details["changes"]["new"] == 2
    assert {"about": "sample", "what": "removed", "count": 3} in second.report()
    why = "http_404 1, http_410 1, opted_out 2"
    assert second.rot() == [{"host": "127.0.0.1", "addresses": 13, "lost": 4, "why": why}]

    third = corpus.refresh(store, [*names[1:], "new1", "new2", "dead", "shy"])
    assert (third.outcome, third.version) == ("nothing_new", second.version)
    assert web.since_last_asked() == {304: {"p1", "p2", "p3", "p6", "p7", "p8", "p9", "new1", "new2"}}


def test_what_was_checked_lately_is_not_even_asked_about(
    store: Store, tmp_path: Path, pages: tuple[Pages, str]
) -> None:
    web, corpus = pages[0], Corpus(tmp_path, pages[1], recheck_days=7)
    web.pictures |= {name: name for name in ("a", "b", "c")}
    corpus.refresh(store, ["a", "b"])
    web.since_last_asked()
    assert corpus.refresh(store, ["a", "b", "c"]).changes == {"added": 1, "removed": 0, "changed": 0}
    assert web.since_last_asked() == {200: {"c"}}


def test_what_is_to_be_forgotten_is_neither_asked_for_nor_kept(
    store: Store, tmp_path: Path, pages: tuple[Pages, str]
) -> None:
    web, corpus = pages[0], Corpus(tmp_path, pages[1])
    web.pictures |= {name: name for name in ("a", "b", "c")}
    corpus.refresh(store, ["a", "b", "c"])
    web.since_last_asked()
    bury(store, tombstone("url", f"{pages[1]}/b", "asked for by its owner"))
    second = corpus.refresh(store, ["a", "b", "c"])
    assert (second.outcome, second.changes) == ("published", {"added": 0, "removed": 1, "changed": 0})
    assert second.raw.drops == {"forgotten": 1}
    assert web.since_last_asked() == {304: {"a", "c"}}
    sidecar = pq.read_table(store.folder(second.raw.artifact) / "sidecar.parquet", columns=["url"])
    assert sorted(url.rpartition("/")[2] for url in sidecar["url"].to_pylist()) == ["a", "c"]


@pytest.mark.parametrize("recheck_days", [0.0, 7.0])
def test_a_picture_that_is_to_be_forgotten_is_not_kept_whether_it_is_known_or_new(
    store: Store, tmp_path: Path, pages: tuple[Pages, str], recheck_days: float
) -> None:
    web, corpus = pages[0], Corpus(tmp_path, pages[1], recheck_days)
    web.pictures |= {"a": "one", "b": "two", "c": "three"}
    first = corpus.refresh(store, ["a", "b", "c"])
    stored = {row["url"][-1]: row for row in pq.read_table(store.file(first.raw.artifact, SIDECAR)).to_pylist()}
    bury(store, tombstone("sha256", stored["b"]["content_sha256"], "asked for by its owner"))
    web.pictures["d"] = "two"
    second = corpus.refresh(store, ["a", "b", "c", "d"])
    assert second.raw.drops == {"forgotten": 2}
    assert second.changes == {"added": 0, "removed": 1, "changed": 0}
