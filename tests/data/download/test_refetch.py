"""A damaged picture is asked for once more where it came from, and taken only if it is the same to the bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.sources import pairs_source, pairs_table
from tests.web.pages import page
from tests.web.server import Web
from tinygptv.data.download.download import BASE_URL_VARIABLE, download
from tinygptv.data.download.refetch import refetch
from tinygptv.data.shards.shards import sidecar_rows
from tinygptv.data.upkeep.repair import repair
from tinygptv.data.upkeep.verify import verify
from tinygptv.store.artifacts import Store


@pytest.fixture
def raw(web: Web, picture: Callable[..., bytes], store: Store, tmp_path: Path) -> Path:
    """Two downloaded pictures, of which the second was scaled; damaged both."""
    web.pages |= {"/small.jpg": page(picture(60, 50, 1)), "/wide.jpg": page(picture(300, 100, 2))}
    rows = [{"url": f"__BASE_URL__/{name}.jpg", "caption": f"something {name}"} for name in ("small", "wide")]
    options = {"engine": "native", "image_size": 64, "threads": 2, "retries": 0}
    source = pairs_source(pairs_table(tmp_path, rows), options)
    made = download(store, "pairs", source, base_url=web.address)
    folder = store.folder(made.artifact)
    content = bytearray((folder / "00000.tar").read_bytes())
    for row in sidecar_rows(folder):
        content[row["offset"] + 20] ^= 1
    (folder / "00000.tar").write_bytes(content)
    assert len(verify(str(folder)).damages[0].keys) == 2
    return folder


def test_what_the_web_still_gives_is_restored(raw: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BASE_URL_VARIABLE, web.address)
    (done,) = repair(str(raw))
    assert (done.samples, done.given_up) == (2, None)
    assert verify(str(raw)).damages == []
    assert web.count("/wide.jpg") == 2


def test_another_picture_at_the_same_address_is_not_taken(
    raw: Path, web: Web, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BASE_URL_VARIABLE, web.address)
    web.pages["/wide.jpg"] = page(picture(300, 100, 7))
    (done,) = repair(str(raw))
    assert done.given_up is not None and "1 of 2 pictures of 00000.tar are nowhere else" in done.given_up


def test_without_the_address_of_its_server_nothing_is_asked(raw: Path, web: Web) -> None:
    (done,) = repair(str(raw))
    assert done.given_up is not None and "2 of 2 pictures" in done.given_up
    assert web.count("/wide.jpg") == 1


def test_what_was_not_downloaded_is_not_asked_for(store: Store, pairs: Any) -> None:
    rows = [{"url": "http://a.example/1.jpg", "sha256": "0" * 64}]
    assert refetch(store, pairs, rows) == {}
