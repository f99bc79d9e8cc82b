"""What every test may use: workdirs on disk and on S3, a web, the small corpus, and the reference data if it is there.

What takes seconds to import is imported by the fixtures that need it, so that a test of a pure function starts at once.
"""

import os
import threading
import uuid
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import quick
from tests.web.server import Web, serving
from tinygptv.shapes import layouts, tables
from tinygptv.shapes.files import draw_corpus
from tinygptv.store.artifacts import Store

if TYPE_CHECKING:
    from tests.faulty_s3 import Faults, FaultyS3

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `quick`."""
    config.addinivalue_line(
        "markers", "quick: starts no process or server and takes well under a second; see tests/quick.py"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m quick`, do not even import slow files."""
    return True if config.getoption("markexpr") == "quick" and quick.is_slow(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the quick tests, and run slow files first."""
    items[:] = quick.mark(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let no quick test, nor a fixture of one, start a process."""
    with quick.no_process() if item.get_closest_marker("quick") else nullcontext():
        return (yield)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs, annotations and golden tensors, which lie beside the checkout and are never part of it."""
    folder = Path(__file__).resolve().parent.parent.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the reference data in {folder}")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty local workdir."""
    return Store(str(tmp_path / "workdir"))


@pytest.fixture
def web() -> Iterator[Web]:
    """A web on loopback of the test's own: `web.pages` says what it answers, see `tests/web/`."""
    with serving() as served:
        yield served


def _draw_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SIZES", {"laion": 130, "cc3m": 100, "sbu": 97})
    little = {split: dict.fromkeys(sizes, 36) for split, sizes in layouts.SIZES.items()}
    monkeypatch.setattr(layouts, "SIZES", little)


@pytest.fixture(scope="session")
def little_drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with the small corpus in it, drawn once for all tests."""
    workdir = tmp_path_factory.mktemp("little")
    with pytest.MonkeyPatch.context() as monkeypatch:
        _draw_little(monkeypatch)
        draw_corpus(Store(str(workdir)))
    return workdir


@pytest.fixture
def small_corpus(store: Store, little_drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the length of a test the embedded corpus is small, and `store` has it already."""
    _draw_little(monkeypatch)
    store.local_root.mkdir(parents=True, exist_ok=True)
    (store.local_root / "corpus").symlink_to(little_drawn / "corpus")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3-compatible server on loopback; its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_workdir(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty `s3://bucket/…` workdir on the loopback server, with a local cache of its own."""
    return _empty_workdir(s3_server, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def faulty_s3() -> Iterator[tuple["FaultyS3", str]]:
    """An S3 on loopback that fails as it is told to, and its address."""
    from werkzeug.serving import make_server

    from tests.faulty_s3 import FaultyS3

    application = FaultyS3()
    server = make_server("127.0.0.1", 0, application, threaded=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield application, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def faulty_s3_workdir(faulty_s3: tuple["FaultyS3", str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """As `s3_workdir`, on the S3 that fails as `faults` says; retries do not wait."""
    from tests.faulty_s3 import Faults
    from tinygptv.store import s3

    application, address = faulty_s3
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3, "_FIRST_PAUSE_SECONDS", 0.001)
    application.faults = Faults()
    return _empty_workdir(address, tmp_path, monkeypatch)


@pytest.fixture
def faults(faulty_s3_workdir: str, faulty_s3: tuple["FaultyS3", str]) -> "Faults":
    """What fails, and what was asked for."""
    return faulty_s3[0].faults


def _empty_workdir(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "TINYGPTV_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/workdir"
