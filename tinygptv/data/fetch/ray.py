"""Shards of URLs → shards of results, on many machines: Ray carries each to one that fetches it as `fetching` does.

What comes back lies where an engine on this machine would have left it, so an interrupted download goes on, here or
there, and the same answers from the web give the same shards. The limits of a site hold for the machines together: each
keeps to its share. Ray itself runs a shard again whose machine is lost.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Self

from tinygptv.data.fetch.fetching import Fetch
from tinygptv.data.fetch.native.conduct import PUBLIC_REQUESTS_PER_SECOND
from tinygptv.data.fetch.refusals import Refusals
from tinygptv.data.fetch.results import Asked, Results, read_request, write_request
from tinygptv.definitions.source import Download
from tinygptv.errors import LaunchError, SetupError

logger = logging.getLogger(__name__)

ADDRESS = "RAY_ADDRESS"
"""The cluster to use; without it one is started on this machine, for the while."""

_TIMES_LOST = 3


class RayFetch:
    """What `Fetch` is, with `download.ray_workers` shards under way at a time, wherever Ray puts them."""

    def __init__(self, folder: Path, download: Download, allow_private: bool, refusals: Refusals | None = None) -> None:
        assert download.ray_workers
        self._workers = download.ray_workers
        self._share, self._allow_private, self._refusals = shared(download, self._workers), allow_private, refusals
        self._todo, self._done = folder / "todo", folder / "done"
        self._count = 0
        for wanted in (self._todo, self._done):
            wanted.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Workers end with their shards."""

    def request(self, asked: list[Asked]) -> None:
        """Ask for the next shard, unless it is there already."""
        write_request(self._request(self._count), asked)
        self._count += 1

    def shards(self) -> Generator[Results]:
        """The results of what was requested, by row position, shard after shard, while others are under way.

        Raises LaunchError if a shard cannot be fetched, SetupError without Ray.
        """
        missing = [number for number in range(self._count) if not self._result(number).exists()]
        with self._cluster() if missing else contextlib.nullcontext() as ray:
            waiting, under_way = iter(missing), dict[Any, int]()
            for number in range(self._count):
                while not self._result(number).exists():
                    while len(under_way) < self._workers and (following := next(waiting, None)) is not None:
                        under_way[self._submit(ray, following)] = following
                    self._keep(ray, under_way)
                yield Results(self._result(number))

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[Any]:
        try:
            import ray
        except ImportError:
            raise SetupError("download.ray_workers needs Ray: pip install 'tinygptv[ray]', or leave it out") from None
        begun_here = not ray.is_initialized()
        if begun_here:
            ray.init(
                address=os.environ.get(ADDRESS) or "local",
                num_cpus=None if os.environ.get(ADDRESS) else self._workers,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        try:
            yield ray
        finally:
            if begun_here:
                ray.shutdown()

    def _submit(self, ray: Any, number: int) -> Any:
        asked = read_request(self._request(number))
        logger.info("shard %d of %d: %d URLs to fetch", number + 1, self._count, len(asked))
        task = ray.remote(num_cpus=1, max_retries=_TIMES_LOST)(fetch_shard)
        return task.remote(asked, self._share, self._allow_private, self._refusals)

    def _keep(self, ray: Any, under_way: dict[Any, int]) -> None:
        """Store what has arrived next; complete or absent."""
        arrived, _ = ray.wait(list(under_way), num_returns=1)
        for reference in arrived:
            number = under_way.pop(reference)
            try:
                content = ray.get(reference)
            except ray.exceptions.RayError as error:
                raise LaunchError(
                    f"shard {number} could not be fetched on the Ray cluster: {_cause(error)}; "
                    "start the same command again: what was fetched is kept"
                ) from error
            partial = self._result(number).with_suffix(".partial")
            partial.write_bytes(content)
            partial.rename(self._result(number))

    def results(self, shard: int) -> Results:
        """Those of a shard that `shards` has given."""
        return Results(self._result(shard))

    def _request(self, shard: int) -> Path:
        return self._todo / f"{shard:05d}.jsonl"

    def _result(self, shard: int) -> Path:
        return self._done / f"{shard:05d}.results"


def shared(download: Download, workers: int) -> Download:
    """The settings of one of several machines that fetch at a time: a share of what a site is to bear from all."""
    rate = download.requests_per_second_per_host or PUBLIC_REQUESTS_PER_SECOND
    share = {
        "connections_per_host": max(1, download.connections_per_host // workers),
        "requests_per_second_per_host": rate / workers,
        "ray_workers": None,
    }
    return download.model_copy(update=share)


def fetch_shard(asked: list[Asked], download: Download, allow_private: bool, refusals: Refusals | None) -> bytes:
    """Fetch one shard on this machine; its results as a file's bytes. What Ray runs on a worker."""
    with tempfile.TemporaryDirectory(prefix="fetch-") as folder:
        fetch = Fetch(Path(folder), download, allow_private, refusals)
        fetch.request(asked)
        for _ in fetch.shards():
            """One shard: when it is whole, its file is."""
        return (Path(folder) / "done" / "00000.results").read_bytes()


def _cause(error: Exception) -> str:
    """The last line of what Ray tells, which is the error itself."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
