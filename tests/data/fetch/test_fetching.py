"""The engine's process: it goes on where it was killed, is started again when it dies, and is ended when it stands
still; no result is lost or fetched twice."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.web.pages import Held, page
from tests.web.server import Web
from tinygptv.data.fetch import fetching
from tinygptv.data.fetch.fetching import Fetch
from tinygptv.data.fetch.results import FetchRequest
from tinygptv.definitions.source import Download
from tinygptv.errors import LaunchError

MANY = 400
QUICK = {"image_size": 64, "threads": 1, "retries": 0, "timeout_seconds": 5.0}

_CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tinygptv.data.fetch.fetching import Fetch
from tinygptv.data.fetch.results import FetchRequest
from tinygptv.definitions.source import Download

fetch = Fetch(Path(sys.argv[2]), Download(image_size=64, threads=1, timeout_seconds=60.0), True)
for shard in range(3):
    fetch.request([FetchRequest(shard, f"{sys.argv[3]}/{shard}.jpg")])
for _ in fetch.shards():
    pass
"""


def engine_process() -> psutil.Process:
    """The engine that this process started last; other tests may have left it other children."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    engines = [child for child in alive if any("engine" in word for word in child.cmdline())]
    return max(engines, key=lambda child: child.create_time())


def shards_of(fetch: Fetch) -> list[dict[int, str | None]]:
    return [{position: result.failure for position, result in shard.items()} for shard in fetch.shards()]


def test_a_killed_fetch_leaves_no_process_and_goes_on_with_the_unfinished(
    web: Web, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    web.pages |= {f"/{shard}.jpg": page(picture(60, 50, shard)) for shard in range(3)}
    held = web.pages["/1.jpg"] = Held(web.pages["/1.jpg"])
    checkout = Path(fetching.__file__).parents[3]
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(checkout), str(tmp_path), web.address])
    assert held.arrived.wait(60)
    engines = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGKILL)
    child.wait()
    _, left = psutil.wait_procs(engines, timeout=20)
    assert len(engines) == 1
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in left)
    held.released.set()
    fetch = Fetch(tmp_path, Download(**QUICK), True)
    for shard in range(3):
        fetch.request([FetchRequest(shard, f"{web.address}/{shard}.jpg")])
    assert shards_of(fetch) == [{0: None}, {1: None}, {2: None}]
    assert [web.count(f"/{shard}.jpg") for shard in range(3)] == [1, 2, 1]


def killing_the_engine(held: Held) -> threading.Thread:
    """Kills it once it waits for a page, which is then released."""

    def kill_once() -> None:
        assert held.arrived.wait(60)
        engine_process().kill()
        held.released.set()

    killer = threading.Thread(target=kill_once)
    killer.start()
    return killer


def test_an_engine_that_is_killed_is_started_again_and_repeats_no_answered_url(
    web: Web, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    web.pages |= {f"/{number}.jpg": page(picture(60, 50, number)) for number in range(4)}
    held = web.pages["/2.jpg"] = Held(web.pages["/2.jpg"])

    killer = killing_the_engine(held)
    fetch = Fetch(tmp_path, Download(**QUICK), True)
    fetch.request([FetchRequest(number, f"{web.address}/{number}.jpg") for number in range(4)])
    assert shards_of(fetch) == [dict.fromkeys(range(4))]
    killer.join()
    assert [web.count(f"/{number}.jpg") for number in range(4)] == [1, 1, 2, 1]


def test_an_engine_that_is_started_again_leaves_whole_shards_alone(
    web: Web, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    web.pages |= {f"/{number}.jpg": page(picture(60, 50, number)) for number in range(3)}
    held = web.pages["/2.jpg"] = Held(web.pages["/2.jpg"])

    killer = killing_the_engine(held)
    fetch = Fetch(tmp_path, Download(**QUICK), True)
    for shard in ((0, 1), (2,)):
        fetch.request([FetchRequest(number, f"{web.address}/{number}.jpg") for number in shard])
    assert shards_of(fetch) == [{0: None, 1: None}, {2: None}]
    killer.join()
    assert [web.count(f"/{number}.jpg") for number in range(3)] == [1, 1, 2]


def test_a_terminated_engine_finishes_what_it_is_doing_and_begins_nothing_more(
    web: Web, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    web.pages |= {f"/{number}.jpg": page(picture(60, 50)) for number in range(MANY)}
    held = web.pages["/1.jpg"] = Held(web.pages["/1.jpg"])

    def terminate() -> None:
        assert held.arrived.wait(60)
        engine_process().terminate()
        held.released.set()

    terminator = threading.Thread(target=terminate)
    terminator.start()
    fetch = Fetch(tmp_path, Download(**QUICK), True)
    fetch.request([FetchRequest(number, f"{web.address}/{number}.jpg") for number in range(MANY)])
    with pytest.raises(LaunchError, match="exit code 143 and 1 of 1 shards missing"):
        list(fetch.shards())
    terminator.join()
    again = Fetch(tmp_path, Download(**QUICK), True)
    again.request([FetchRequest(number, f"{web.address}/{number}.jpg") for number in range(MANY)])
    assert shards_of(again) == [dict.fromkeys(range(MANY))]
    assert sum(web.count(f"/{number}.jpg") for number in range(MANY)) == MANY


_FRAIL = """
import ctypes
from tinygptv.data.fetch.engine_process import run_engine
from tinygptv.data.fetch.native import engine

store_picture = engine.store_picture

def crash(body, download):
    if body.startswith(b"poison"):
        ctypes.string_at(0)
    return store_picture(body, download)

engine.store_picture = crash
run_engine(engine.fetch_all)
"""


def test_pictures_that_crash_the_decoder_are_given_up_one_by_one(
    web: Web, picture: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of them, of which two may be decoded at a time, among others that must not suffer for it."""
    poisonous = {5, 6, 30}
    web.pages |= {
        f"/{number}.jpg": page(b"poison" if number in poisonous else picture(60, 50, number)) for number in range(40)
    }
    (tmp_path / "frail_engine.py").write_text(_FRAIL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setitem(fetching.ENGINES, "native", "frail_engine")
    fetch = Fetch(tmp_path, Download(**QUICK | {"threads": 4}), True)
    fetch.request([FetchRequest(number, f"{web.address}/{number}.jpg") for number in range(40)])
    expected = {number: "engine_crash" if number in poisonous else None for number in range(40)}
    assert [dict(sorted(shard.items())) for shard in shards_of(fetch)] == [expected]


_WITHOUT_PLUGINS = """
import sys
from tinygptv.data.fetch.engine_process import run_engine
from tinygptv.data.fetch.native import engine

sys.modules["pillow_heif"] = None
run_engine(engine.fetch_all)
"""


def test_a_format_that_needs_an_extra_is_named_once(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    web.pages |= {f"/{number}.heic": page(heic) for number in range(3)}
    (tmp_path / "bare_engine.py").write_text(_WITHOUT_PLUGINS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setitem(fetching.ENGINES, "native", "bare_engine")
    fetch = Fetch(tmp_path, Download(**QUICK), True)
    fetch.request([FetchRequest(number, f"{web.address}/{number}.heic") for number in range(3)])
    assert shards_of(fetch) == [dict.fromkeys(range(3), "unsupported_format")]
    assert sum("pip install 'tinygptv[heic]'" in record.getMessage() for record in caplog.records) == 1


def test_results_can_be_had_before_their_shard_is_whole(
    web: Web, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    web.pages |= {f"/{number}.jpg": page(picture(60, 50, number)) for number in range(2)}
    held = web.pages["/1.jpg"] = Held(web.pages["/1.jpg"])
    with Fetch(tmp_path, Download(**QUICK), True) as fetch:
        fetch.request([FetchRequest(number, f"{web.address}/{number}.jpg") for number in range(2)])
        for results in fetch.shards():
            assert results[0].jpeg
            held.released.set()
            assert len(results) == 2
            with pytest.raises(KeyError):
                results[2]


def test_an_engine_that_is_not_needed_is_ended(tmp_path: Path) -> None:
    with Fetch(tmp_path, Download(**QUICK), True) as fetch:
        engine = engine_process()
        assert list(fetch.shards()) == []
    assert not engine.is_running()


def engine_that(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> Fetch:
    program = folder / "engine"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(fetching.sys, "executable", str(program))
    fetch = Fetch(folder / "fetch", Download(), True)
    fetch.request([FetchRequest(0, "http://a.example/0")])
    return fetch


def test_an_engine_that_fails_is_reported_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetch = engine_that(monkeypatch, tmp_path, "echo out of luck; exit 3")
    with pytest.raises(LaunchError, match=r"exit code 3 and 1 of 1 shards.*out of luck.*Start the same command again"):
        list(fetch.shards())


def test_an_engine_that_dies_every_time_is_not_started_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fetch = engine_that(monkeypatch, tmp_path, f"echo started >> {tmp_path}/starts; kill -9 $$")
    with pytest.raises(LaunchError, match="exit code -9"):
        list(fetch.shards())
    assert (tmp_path / "starts").read_text().splitlines() == ["started"] * 3


def test_an_engine_that_loses_a_shard_is_not_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetch = engine_that(monkeypatch, tmp_path, "exit 0")
    with pytest.raises(LaunchError, match="exit code 0 and 1 of 1 shards missing"):
        list(fetch.shards())


def test_an_engine_that_stands_still_is_ended_with_its_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fetching, "_START_SECONDS", 0.5)
    monkeypatch.setattr(fetching, "_MAX_WAIT_SECONDS", -70.0)
    fetch = engine_that(monkeypatch, tmp_path, f"sleep 600 & echo $! > {tmp_path}/worker; wait")
    with pytest.raises(LaunchError, match="answered no URL for"):
        list(fetch.shards())
    worker = int((tmp_path / "worker").read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        _, left = psutil.wait_procs([psutil.Process(worker)], timeout=20)
        assert all(process.status() == psutil.STATUS_ZOMBIE for process in left)


@pytest.mark.parametrize(("engine", "processes"), [("native", 1), ("img2dataset", 2)])
def test_a_full_disk_ends_the_fetch_at_once_and_is_said_to_be_one(
    engine: str, processes: int, web: Web, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    """A limit on the size of files stands for the full disk."""
    web.pages |= {f"/noise{number}.jpg": page(picture(900, 900, number, quality=100)) for number in range(40)}
    fetch = Fetch(tmp_path, Download(**QUICK | {"image_size": 900}, engine=engine, processes=processes), True)
    fetch.request([FetchRequest(number, f"{web.address}/noise{number}.jpg") for number in range(40)])
    limited = psutil.Process()
    before = limited.rlimit(psutil.RLIMIT_FSIZE)
    limited.rlimit(psutil.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            list(fetch.shards())
    finally:
        limited.rlimit(psutil.RLIMIT_FSIZE, before)
    assert 0 < sum(web.count(f"/noise{number}.jpg") for number in range(40)) < 20
