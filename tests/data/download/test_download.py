"""From tables to raw shards: every row is accounted for, a killed fetch goes on, the same web gives the same bytes."""

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.data.sources import pairs_source, pairs_table
from tests.web.pages import page, redirect, status
from tests.web.server import Web, serving
from tinygptv.data.download.download import download
from tinygptv.data.shards.shards import read_image, sidecar_rows
from tinygptv.definitions.source import PairsSource
from tinygptv.errors import DataError, DefinitionError
from tinygptv.shapes.server import serve
from tinygptv.store.artifacts import Manifest, Store

SIDE = 64


def source_of(folder: Path, rows: list[tuple[str, str]], **download_options: Any) -> PairsSource:
    """A source over rows of URL and caption."""
    return source_at(
        pairs_table(folder, [{"url": url, "caption": caption} for url, caption in rows]), **download_options
    )


def source_at(table: Path, **download_options: Any) -> PairsSource:
    options = {"image_size": SIDE, "threads": 4, "timeout_seconds": 2, "retries": 0, "samples_per_shard": 8}
    return pairs_source(table, options | download_options)


def sideways(picture: Callable[..., bytes]) -> bytes:
    """A photograph taken with the camera turned: 60 x 40 stored, 40 x 60 meant; it says where it was taken."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    return picture(60, 40, 3, exif=exif)


def deep() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 48 * 48).reshape(48, 48).astype(np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def deep_colour() -> bytes:
    """A 16-bit RGB PNG, which Pillow cannot write: one row of 40 pixels growing brighter, 40 times."""
    row = b"\0" + b"".join(struct.pack(">3H", *[level * 1600] * 3) for level in range(40))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">2I5B", 40, 40, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * 40)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bomb() -> bytes:
    stream = io.BytesIO()
    Image.new("1", (9000, 9000)).save(stream, "PNG")
    return stream.getvalue()


def outcomes(store: Store, made: Manifest) -> dict[str, str]:
    rows = pq.read_table(store.folder(made.artifact) / "ledger.parquet").to_pylist()
    return {f"{row['table_row']} {row['url'].rpartition('/')[2]}": row["outcome"] for row in rows}


def stored(store: Store, made: Manifest) -> dict[str, Image.Image]:
    """URL's last part → the stored picture."""
    folder = store.folder(made.artifact)
    return {
        row["url"].rpartition("/")[2]: Image.open(io.BytesIO(read_image(folder, row))) for row in sidecar_rows(folder)
    }


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    """One web for all tests of this file, most of which look at the same download."""
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def good_and_bad(web: Web, picture: Callable[..., bytes]) -> Iterator[list[tuple[str, str]]]:
    """The rows of a table whose URLs answer in every way that matters."""
    web.pages |= {
        "/small.jpg": page(picture(60, 50, 1)),
        "/wide.jpg": page(picture(300, 100, 2)),
        "/sideways.jpg": page(sideways(picture)),
        "/deep.png": page(deep()),
        "/deep_colour.png": page(deep_colour()),
        "/alpha.webp": page(picture(80, 80, 4, kind="WEBP")),
        "/moved.jpg": redirect("/small.jpg"),
        "/page.jpg": page(b"<html>gone</html>"),
        "/empty.jpg": page(b""),
        "/cut.jpg": page(picture(60, 50, 5)[:150]),
        "/short.jpg": page(b"half", declared=8),
        "/bomb.png": page(bomb()),
        "/broken.jpg": status(500),
        "/noai.jpg": page(picture(60, 50, 6), X_Robots_Tag="noai"),
    }
    paths = [*web.pages, "/absent.jpg"]
    rows = [(f"__BASE_URL__{path}", f"a picture called {path[1:]}") for path in paths]
    rows += [rows[0], ("", "no address"), ("__BASE_URL__/mute.jpg", " ")]
    yield [*rows, ("file:///etc/passwd", "not the web"), ("http://nowhere.invalid/x.jpg", "no such host")]


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, web: Web, good_and_bad: list[tuple[str, str]]
) -> tuple[Store, PairsSource, Manifest]:
    folder = tmp_path_factory.mktemp("made")
    store, source = Store(str(folder / "workdir")), source_of(folder, good_and_bad)
    return store, source, download(store, "pairs", source, base_url=web.address)


def test_every_row_is_a_sample_or_counted_by_reason(made: tuple[Store, PairsSource, Manifest]) -> None:
    store, _, manifest = made
    assert outcomes(store, manifest) == {
        "0 small.jpg": "kept",
        "1 wide.jpg": "kept",
        "2 sideways.jpg": "kept",
        "3 deep.png": "kept",
        "4 deep_colour.png": "kept",
        "5 alpha.webp": "kept",
        "6 moved.jpg": "kept",
        "7 page.jpg": "not_image",
        "8 empty.jpg": "empty",
        "9 cut.jpg": "truncated_image",
        "10 short.jpg": "truncated",
        "11 bomb.png": "too_many_pixels",
        "12 broken.jpg": "http_5xx",
        "13 noai.jpg": "opted_out",
        "14 absent.jpg": "http_404",
        "15 small.jpg": "duplicate_url",
        "16 ": "no_url",
        "17 mute.jpg": "empty_caption",
        "18 passwd": "not_http",
        "19 x.jpg": "dns",
    }
    assert manifest.rows_in == 20
    assert manifest.rows_out + sum(manifest.drops.values()) == 20


def test_pictures_are_stored_whole_upright_and_without_metadata(
    made: tuple[Store, PairsSource, Manifest], web: Web
) -> None:
    pictures = stored(made[0], made[2])
    assert {name: image.size for name, image in pictures.items()} == {
        "small.jpg": (60, 50),
        "wide.jpg": (192, 64),
        "sideways.jpg": (40, 60),
        "deep.png": (48, 48),
        "deep_colour.png": (40, 40),
        "alpha.webp": (64, 64),
        "moved.jpg": (60, 50),
    }
    assert not any(image.getexif() for image in pictures.values())
    for name, darkest, brightest in (("deep.png", 10, 245), ("deep_colour.png", 10, 235)):
        greys = np.asarray(pictures[name].convert("L"))
        assert greys.min() < darkest
        assert greys.max() > brightest
        assert 100 < greys.mean() < 150
    assert np.asarray(pictures["wide.jpg"])[0, :8].min() < 200, "a letter-box would be white"


def test_a_small_jpeg_is_stored_as_it_came(
    made: tuple[Store, PairsSource, Manifest], picture: Callable[..., bytes]
) -> None:
    store, _, manifest = made
    folder = store.folder(manifest.artifact)
    row = next(row for row in sidecar_rows(folder) if row["url"].endswith("/small.jpg"))
    assert read_image(folder, row) == picture(60, 50, 1)


def test_nothing_of_the_fetch_is_left_and_nothing_names_the_server(
    made: tuple[Store, PairsSource, Manifest], web: Web
) -> None:
    store, _, manifest = made
    assert sorted(manifest.files) == ["00000.tar", "ledger.parquet", "quarantine.parquet", "sidecar.parquet"]
    port = web.address.rsplit(":", 1)[1].encode()
    assert not any(port in (store.folder(manifest.artifact) / name).read_bytes() for name in manifest.files)


def test_a_second_download_asks_nobody(made: tuple[Store, PairsSource, Manifest], web: Web) -> None:
    store, source, manifest = made
    before = len(web.requests)
    assert download(store, "pairs", source) == manifest
    assert len(web.requests) == before


def test_a_foreign_file_in_the_workdir_disturbs_nobody(
    web: Web, tmp_path: Path, good_and_bad: list[tuple[str, str]]
) -> None:
    for folder in ("workdir", "workdir/raw", "workdir/.drafts/raw"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "card.json").write_text("no manifest")
    source = source_of(tmp_path, good_and_bad)
    assert download(Store(str(tmp_path / "workdir")), "pairs", source, base_url=web.address).rows_in == 20


def test_another_workdir_and_other_parallelism_give_the_same_bytes(
    made: tuple[Store, PairsSource, Manifest], web: Web, tmp_path: Path, good_and_bad: list[tuple[str, str]]
) -> None:
    source = source_of(tmp_path, good_and_bad, threads=2)
    again = download(Store(str(tmp_path / "other")), "pairs", source, base_url=f"{web.address}/")
    assert (again.artifact, again.drops) == (made[2].artifact, made[2].drops)
    for name in ("00000.tar", "sidecar.parquet", "quarantine.parquet"):
        assert again.files[name] == made[2].files[name]


def test_a_table_that_needs_a_base_url_says_so(store: Store, tmp_path: Path) -> None:
    source = source_of(tmp_path, [("__BASE_URL__/a.jpg", "a small picture")])
    with pytest.raises(DefinitionError, match=r"table pairs, row 0 .*set TINYGPTV_BASE_URL"):
        download(store, "pairs", source)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:9", r"\(private_address\); set TINYGPTV_ALLOW_PRIVATE=1, or `allow"),
        ("http://nowhere.invalid", r"cannot fetch from its host \(dns\)"),
        ("127.0.0.1:9", r"not_http; want http://host:port"),
    ],
)
def test_a_base_url_that_cannot_be_used_is_refused(store: Store, tmp_path: Path, address: str, message: str) -> None:
    source = source_of(tmp_path, [("__BASE_URL__/a.jpg", "a small picture")])
    with pytest.raises(DefinitionError, match=message):
        download(store, "pairs", source.model_copy(update={"allow_private": False}), base_url=address)


def test_private_urls_are_dropped_without_being_asked_for(store: Store, tmp_path: Path, web: Web) -> None:
    source = source_of(tmp_path, [(f"{web.address}/untouched.jpg", "a small picture")])
    with pytest.raises(DataError, match=r"none of 1 rows gave an image \(private_address 1\).*ALLOW_PRIVATE"):
        download(store, "pairs", source.model_copy(update={"allow_private": False}))
    assert web.count("/untouched.jpg") == 0


def test_real_photographs_arrive_and_dead_links_are_counted(shared: Path, store: Store, tmp_path: Path) -> None:
    data = shared / "data"
    chats = json.loads((data / "annotations/llava/blip_laion_cc_sbu_2k.json").read_text())
    there = [chat for chat in chats if (data / "images/llava_pretrain" / chat["image"]).exists()]
    dead = [chat for chat in chats if chat not in there]
    table = tmp_path / "chat.json"
    table.write_text(json.dumps(there[:40] + dead[:20]))
    with serve(data / "images/llava_pretrain") as address:
        made = download(store, "chat", source_at(table, image_size=224), base_url=address)
    assert (made.rows_in, made.rows_out, made.drops) == (60, 40, {"http_404": 20})
    for name, image in stored(store, made).items():
        chat = next(chat for chat in there if chat["image"].endswith(name))
        with Image.open(data / "images/llava_pretrain" / chat["image"]) as original:
            aspect = original.width / original.height
        assert abs(image.width / image.height - aspect) < 0.02 * aspect
        assert min(image.size) <= 224
