"""The cache of contents holds no more than it may, and nothing that is not whole, whoever shares it or is killed."""

import hashlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tinygptv.data.shards import content_cache
from tinygptv.data.shards.content_cache import ContentCache
from tinygptv.errors import StorageError

ROOM = 16 * 1000


def content(number: int, size: int = 100) -> bytes:
    return number.to_bytes(4) * (size // 4)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(cache: ContentCache, data: bytes) -> str:
    cache.put(digest_of(data), data)
    return digest_of(data)


def size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def held(folder: Path) -> int:
    """Bytes of everything in the drawers, parts included."""
    return sum(
        size_of(Path(drawer) / file) for drawer, _, files in os.walk(folder) for file in files if drawer != str(folder)
    )


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path, ROOM)


def test_what_was_put_is_found_again_by_everybody(cache: ContentCache, tmp_path: Path) -> None:
    digests = [put(cache, content(number)) for number in range(20)]
    again = ContentCache(tmp_path, ROOM)
    assert [again.get(digest) for digest in digests] == [content(number) for number in range(20)]
    assert again.get(digest_of(b"never put")) is None


def test_the_bound_holds_after_every_content(cache: ContentCache, tmp_path: Path) -> None:
    for number in range(600):
        put(cache, content(number, 40 + number % 300))
        assert held(tmp_path) <= ROOM
    assert held(tmp_path) > 0.6 * ROOM


def test_what_was_used_lately_stays(cache: ContentCache, tmp_path: Path) -> None:
    loved = put(cache, content(0))
    for number in range(1, 600):
        put(cache, content(number))
        assert cache.get(loved) == content(0)


def test_a_smaller_bound_is_reached_with_the_next_content_of_a_drawer(cache: ContentCache, tmp_path: Path) -> None:
    for number in range(300):
        put(cache, content(number))
    smaller = ContentCache(tmp_path, ROOM // 4)
    for number in range(300, 500):
        put(smaller, content(number))
    assert held(tmp_path) <= ROOM // 4


@pytest.mark.parametrize("room", [0, 16 * 99])
def test_what_is_larger_than_a_drawer_is_not_kept(tmp_path: Path, room: int) -> None:
    cache = ContentCache(tmp_path, room)
    assert cache.get(put(cache, content(1))) is None
    assert held(tmp_path) == 0


def test_a_damaged_content_is_thrown_away_and_can_be_put_again(cache: ContentCache, tmp_path: Path) -> None:
    digest = put(cache, content(1))
    (tmp_path / digest[0] / digest).write_bytes(b"")
    assert cache.get(digest) is None
    put(cache, content(1))
    assert cache.get(digest) == content(1)


def test_a_disk_that_takes_nothing_is_named(
    cache: ContentCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="the disk is full"):
        put(cache, content(1))


def put_many(folder: Path, first: int) -> None:
    cache = ContentCache(folder, ROOM)
    for number in range(first, first + 400):
        assert cache.get(put(cache, content(number))) in (content(number), None)
    os._exit(0)  # a fork would otherwise wait at its end for threads that Prefect had in this process


def test_processes_that_share_it_keep_the_bound_and_what_is_in_it_whole(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    sharing = [context.Process(target=put_many, args=(tmp_path, 200 * number)) for number in range(3)]
    for process in sharing:
        process.start()
    while any(process.is_alive() for process in sharing):
        assert held(tmp_path) <= ROOM
    assert [process.exitcode for process in sharing] == [0, 0, 0]
    files = list(tmp_path.glob("?/*"))
    assert len(files) > 80
    assert all(digest_of(file.read_bytes()) == file.name for file in files)


def put_half(folder: Path, tell: Connection) -> None:
    """Write the first half of a content, say so, and hang."""

    def write_half(path: Path, data: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        tell.send("half")
        signal.pause()
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_half)
        put(ContentCache(folder, ROOM), content(7))


def test_a_process_killed_while_it_writes_leaves_no_part_that_is_seen_and_blocks_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=put_half, args=(tmp_path, theirs))
    process.start()
    assert ours.poll(30)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(10)
    cache, digest = ContentCache(tmp_path, ROOM), digest_of(content(7))
    assert cache.get(digest) is None
    put(cache, content(7))
    assert cache.get(digest) == content(7)
    assert not list(tmp_path.glob(f"?/{content_cache._PARTIAL}"))
    for number in range(600):
        put(cache, content(number))
        assert held(tmp_path) <= ROOM
