"""Fetching on a Ray cluster of two machines gives the very shards that one machine makes."""

import functools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.data.raw import pixels
from tests.data.sources import pairs_source, pairs_table
from tests.web.pages import page
from tests.web.server import Web
from tinygptv.data.download.download import download
from tinygptv.data.download.ledger import Outcomes
from tinygptv.data.fetch import ray
from tinygptv.data.fetch.ray import ADDRESS, RayFetch, worker_limits
from tinygptv.data.fetch.results import FetchRequest
from tinygptv.definitions.source import Download, PairsSource
from tinygptv.errors import LaunchError, SetupError
from tinygptv.store.artifacts import Manifest, Store

NAMES = [f"p{number}" for number in range(14)]


class WorkerError(Exception):
    """As Ray's: the text ends with what happened on the worker."""


class FakeRay:
    """Ray's few functions in one process; what was begun last arrives first."""

    exceptions = SimpleNamespace(RayError=WorkerError)

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.most_under_way = 0

    def is_initialized(self) -> bool:
        return False

    def init(self, **given: Any) -> None:
        self.begun.append(given)

    def shutdown(self) -> None:
        """Nothing to stop."""

    def remote(self, **_: Any) -> Callable[[Callable[..., bytes]], Any]:
        return lambda function: SimpleNamespace(remote=lambda *given: functools.partial(function, *given))

    def wait(self, under_way: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        self.most_under_way = max(self.most_under_way, len(under_way))
        return under_way[-num_returns:], under_way[:-num_returns]

    def get(self, task: Callable[[], bytes]) -> bytes:
        try:
            return task()
        except Exception as error:
            raise WorkerError(f"task failed on a worker\n{type(error).__name__}: {error}") from error


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch, engine_in_this_process: None) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


@pytest.fixture
def two_machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real cluster of two nodes with one core each, on loopback and in a folder of its own."""
    from ray._private import services
    from ray.cluster_utils import Cluster

    # Ray takes loopback for a mistake and puts this machine's public address in its place.
    monkeypatch.setattr(services, "resolve_ip_for_localhost", lambda host: host)
    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
    # Not in tmp_path: the paths of its sockets may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
        nodes.add_node(**node)
        monkeypatch.setenv(ADDRESS, nodes.address)
        yield
        nodes.shutdown()


def source_of(folder: Path, web: Web, **given: Any) -> PairsSource:
    """Fourteen addresses in four shards; two have no picture."""
    web.pages |= {f"/{name}": page(pixels(name, 40)) for name in NAMES[:12]}
    web.pages["/p12"] = page(b"<html>")
    rows = [{"url": f"{web.address}/{name}", "caption": f"a picture of {name}"} for name in NAMES]
    options = {"image_size": 32, "threads": 4, "retries": 0, "samples_per_shard": 4}
    return pairs_source(pairs_table(folder, rows), options | {"requests_per_second_per_host": 1000.0} | given)


def lasting(made: Manifest) -> dict[str, str]:
    """Every file's hash but the ledger's, which says when each URL was asked for."""
    return {name: entry.sha256 for name, entry in made.files.items() if name != "ledger.parquet"}


def check_alike(tmp_path: Path, web: Web) -> None:
    alone = download(Store(str(tmp_path / "alone")), "web", source_of(tmp_path, web))
    together = download(Store(str(tmp_path / "together")), "web", source_of(tmp_path, web, ray_workers=2))
    assert together.artifact == alone.artifact
    assert (together.rows_out, together.drops) == (12, {"http_404": 1, "not_image": 1}) == (alone.rows_out, alone.drops)
    assert lasting(together) == lasting(alone)
    assert len([name for name in alone.files if name.endswith(".tar")]) == 3


def test_a_cluster_of_two_machines_makes_the_shards_that_one_machine_makes(
    two_machines: None, tmp_path: Path, web: Web
) -> None:
    check_alike(tmp_path, web)


def test_shards_that_arrive_out_of_order_are_written_in_order(fake_ray: FakeRay, tmp_path: Path, web: Web) -> None:
    check_alike(tmp_path, web)
    assert fake_ray.most_under_way == 2


def test_a_download_that_was_interrupted_goes_on_with_the_shards_it_has(
    fake_ray: FakeRay, tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settle(*_: Any) -> None:
        raise RuntimeError("stopped here")

    store, source = Store(str(tmp_path / "work")), source_of(tmp_path, web, ray_workers=2)
    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="stopped here"):
        broken.setattr(Outcomes, "write_ledger", settle)
        download(store, "web", source)
    web.clear()
    assert download(store, "web", source).rows_out == 12
    assert not web.requests
    assert len(fake_ray.begun) == 1


def test_a_failure_on_a_machine_is_named(
    fake_ray: FakeRay, tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ray, "fetch_shard", fail)
    with pytest.raises(LaunchError, match=r"shard 0 could not be fetched on the Ray cluster: OSError: \[Errno 28\]"):
        download(Store(str(tmp_path / "work")), "web", source_of(tmp_path, web, ray_workers=1))


@pytest.mark.parametrize(("address", "begun"), [("10.0.0.1:6379", ("10.0.0.1:6379", None)), ("", ("local", 3))])
def test_the_cluster_is_the_one_that_is_named_or_one_of_this_machine(
    address: str, begun: tuple[str, int | None], fake_ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS, address)
    monkeypatch.setattr(ray, "fetch_shard", lambda *_: b"")
    fetch = RayFetch(tmp_path, Download(ray_workers=3), allow_private=True)
    fetch.request([FetchRequest(0, "http://a/1")])
    assert [len(results) for results in fetch.shards()] == [0]
    assert [(given["address"], given["num_cpus"]) for given in fake_ray.begun] == [begun]


def test_without_ray_the_extra_is_named(tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SetupError, match=r"needs Ray: pip install 'tinygptv\[ray\]'"):
        download(Store(str(tmp_path / "work")), "web", source_of(tmp_path, web, ray_workers=2))


@pytest.mark.parametrize(
    ("given", "workers", "rate", "connections"),
    [({}, 4, 5.0, 2), ({"requests_per_second_per_host": 3.0, "connections_per_host": 1}, 3, 1.0, 1)],
)
def test_machines_share_what_a_site_is_to_bear(
    given: dict[str, Any], workers: int, rate: float, connections: int
) -> None:
    share = worker_limits(Download(**given, ray_workers=workers), workers)
    assert (share.requests_per_second_per_host, share.connections_per_host) == (rate, connections)
    assert share.ray_workers is None
