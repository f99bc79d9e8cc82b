"""Every address a picture came by counts: in takedowns, in what was refused for good, in ledger and sidecar; and one
address with several captions is asked once."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.data.webfake import pixels
from tinygptv import catalog
from tinygptv.data.download.ledger import LEDGER
from tinygptv.data.forget.tombstones import bury, tombstone
from tinygptv.data.shards.shards import SIDECAR
from tinygptv.data.versions.refresh import Refreshed, refresh
from tinygptv.definitions.filters import FilterChain, Rule
from tinygptv.definitions.source import Download, PairsSource, Table
from tinygptv.store.artifacts import Store

CHAIN = FilterChain(about="all", rules=[Rule(name="any", keep="TRUE", why="test")])


class Web:
    """Path → where it redirects to; all others are pictures, but for those that opt out. Counts what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.redirects: dict[str, str] = {}
        self.opted_out: set[str] = set()
        self.asked: Counter[str] = Counter()
        self._table = folder / "pairs.jsonl"
        self.address = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        self.asked[path] += 1
        target = self.redirects.get(path)
        known = handler.headers["If-None-Match"] == f'"{path}"'
        handler.send_response(302 if target else 404 if path == "/robots.txt" else 304 if known else 200)
        body = b"" if target or known or path == "/robots.txt" else pixels(path, 32)
        if target:
            handler.send_header("Location", target)
        elif path in self.opted_out:
            handler.send_header("X-Robots-Tag", "noai")
        handler.send_header("ETag", f'"{path}"')
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def refresh(self, store: Store, *rows: str | tuple[str, str]) -> Refreshed:
        """From a table of these paths, with captions or without."""
        pairs = [(row, f"a picture of {row}") if isinstance(row, str) else row for row in rows]
        lines = [json.dumps({"url": self.address + path, "caption": caption}) for path, caption in pairs]
        self._table.write_text("\n".join(lines) + "\n")
        self.asked.clear()
        source = PairsSource(
            kind="pairs",
            about="test",
            licence="CC0-1.0",
            tables=[Table(location=str(self._table))],
            filter="web_pairs",
            allow_private=True,
            download=Download(image_size=32, threads=4, retries=0),
        )
        return refresh(store, "web", source, benchmarks={})


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine_in_this_process: None) -> Iterator[Web]:
    monkeypatch.setattr(catalog, "filter_chain", {"web_pairs": CHAIN}.__getitem__)
    made = Web(tmp_path)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.answer(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        made.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield made
        server.shutdown()


def test_ledger_and_sidecar_name_every_address_on_the_way(store: Store, web: Web) -> None:
    web.redirects |= {"/a": "/b/../c", "/c": "/d"}
    made = web.refresh(store, "/a", "/e")
    (row, plain) = pq.read_table(store.file(made.raw.artifact, LEDGER)).to_pylist()
    hops = [f"{web.address}/c", f"{web.address}/d"]
    assert (row["hops"], row["final_url"], row["final_host"]) == (hops, hops[-1], "127.0.0.1")
    assert (plain["hops"], plain["final_url"], plain["final_host"]) == (None, None, None)
    stored = {one["url"]: one for one in pq.read_table(store.file(made.raw.artifact, SIDECAR)).to_pylist()}
    assert stored[f"{web.address}/a"]["hops"] == hops
    assert stored[f"{web.address}/e"]["hops"] is None


def test_a_picture_that_stays_is_known_by_the_way_it_comes_now(store: Store, web: Web) -> None:
    web.redirects["/a"] = "/b"
    web.refresh(store, "/a", "/c")
    web.redirects |= {"/a": "/d", "/d": "/b"}
    second = web.refresh(store, "/a", "/c", "/e")
    assert second.raw.details["changes"]["unchanged"] == 2
    stored = {one["url"]: one for one in pq.read_table(store.file(second.raw.artifact, SIDECAR)).to_pylist()}
    assert stored[f"{web.address}/a"]["hops"] == [f"{web.address}/d", f"{web.address}/b"]


def test_forgetting_the_address_that_served_a_picture_takes_the_picture_back(store: Store, web: Web) -> None:
    web.redirects["/a"] = "/b"
    web.refresh(store, "/a", "/c")
    bury(store, tombstone("url", f"{web.address}/b", "asked for by its owner"))
    second = web.refresh(store, "/a", "/c")
    assert (second.raw.drops, web.asked["/a"], web.asked["/b"]) == ({"forgotten": 1}, 0, 0)


@pytest.mark.parametrize(("kind", "value"), [("url", "{}/b"), ("domain", "127.0.0.1")])
def test_no_redirect_is_followed_to_what_is_to_be_forgotten(store: Store, web: Web, kind: str, value: str) -> None:
    web.redirects["/a"] = f"{web.address}/b"
    bury(store, tombstone(kind, value.format(web.address), "asked for by its owner"))  # type: ignore[arg-type]
    elsewhere = web.address.replace("127.0.0.1", "localhost")
    web.address = elsewhere if kind == "domain" else web.address
    made = web.refresh(store, "/a", "/c")
    assert (made.raw.drops, web.asked["/a"], web.asked["/b"]) == ({"forgotten": 1}, 1, 0)


def test_an_address_that_opted_out_is_not_asked_again_by_way_of_another(store: Store, web: Web) -> None:
    web.opted_out.add("/b")
    web.redirects["/a"] = "/b"
    assert web.refresh(store, "/b", "/c").raw.drops == {"opted_out": 1}
    second = web.refresh(store, "/a", "/b", "/c")
    assert (second.raw.drops, web.asked["/a"], web.asked["/b"]) == ({"opted_out": 2}, 1, 0)


def test_the_address_behind_a_redirect_that_opted_out_is_not_asked_directly(store: Store, web: Web) -> None:
    web.opted_out.add("/b")
    web.redirects["/a"] = "/b"
    assert web.refresh(store, "/a", "/c").raw.drops == {"opted_out": 1}
    second = web.refresh(store, "/a", "/b", "/c")
    assert (second.raw.drops, web.asked["/a"], web.asked["/b"]) == ({"opted_out": 2}, 0, 0)


def test_a_picture_that_came_by_an_address_which_opts_out_later_is_dropped(store: Store, web: Web) -> None:
    web.redirects["/a"] = "/b"
    web.refresh(store, "/a", "/c")
    web.opted_out.add("/b")
    web.refresh(store, "/b", "/c")
    web.opted_out.clear()
    third = web.refresh(store, "/a", "/b", "/c")
    assert (third.raw.drops, web.asked["/b"]) == ({"opted_out": 2}, 0)


def test_several_captions_of_one_address_are_all_kept_and_it_is_asked_once(store: Store, web: Web) -> None:
    rows = [("/a", "a red circle"), ("/b", "a square"), ("/a", "something round"), ("/a", "a red circle")]
    first = web.refresh(store, *rows)
    assert (first.raw.rows_out, first.raw.drops, web.asked["/a"]) == (3, {"duplicate_url": 1}, 1)
    stored = pq.read_table(store.file(first.raw.artifact, SIDECAR)).to_pylist()
    of_a = [row for row in stored if row["url"].endswith("/a")]
    assert [row["caption"] for row in of_a] == ["a red circle", "something round"]
    assert len({row["key"] for row in stored}) == 3
    assert len({row["sha256"] for row in of_a}) == 1
    second = web.refresh(store, *rows, ("/a", "a third caption"))
    assert (second.raw.rows_out, web.asked["/a"], web.asked["/b"]) == (4, 1, 1)
    assert second.changes == {"added": 1, "removed": 0, "changed": 0}


def test_a_failure_counts_for_every_caption_of_its_address(store: Store, web: Web) -> None:
    web.opted_out.add("/a")
    made = web.refresh(store, ("/a", "one"), ("/a", "another"), "/b")
    assert (made.raw.drops, web.asked["/a"]) == ({"opted_out": 2}, 1)


def test_a_caption_to_be_forgotten_does_not_cost_the_others(store: Store, web: Web) -> None:
    bury(store, tombstone("caption", "Jane Doe", "asked for by her"))
    made = web.refresh(store, ("/a", "Jane Doe smiles"), ("/a", "a woman"), ("/a", "a smile"))
    assert (made.raw.rows_out, made.raw.drops) == (2, {"forgotten": 1})


def test_a_domain_is_forgotten_as_people_write_it(store: Store) -> None:
    assert tombstone("domain", "Straße.Example.", "test").value == "xn--strae-oqa.example"
    assert tombstone("url", "http://Straße.Example/a/../b c.jpg#x", "test").value == (
        "http://xn--strae-oqa.example/b%20c.jpg"
    )
