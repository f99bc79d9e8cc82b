"""The native engine: `python -m tinygptv.data.fetch.native.engine FOLDER SETTINGS` (see `engine_process`).

One thread fetches and a few decode pictures; both release the GIL, so one process keeps every core busy. All shards are
fetched at once, in an order that spreads each site's requests (see `fetch_order`). On SIGTERM no new request starts,
open ones are finished, and the exit code is 143.
"""

import hashlib
import os
import queue
import signal
from collections.abc import Iterator
from pathlib import Path

from tinygptv.data.fetch.engine_process import DecodingSlots, Progress, Settings, run_engine
from tinygptv.data.fetch.guard import FetchError
from tinygptv.data.fetch.native.crawler import Crawler, facts
from tinygptv.data.fetch.native.politeness import Request
from tinygptv.data.fetch.native.request_queue import RequestQueue
from tinygptv.data.fetch.native.response import NOT_MODIFIED, Answer
from tinygptv.data.fetch.refusals import Refusals
from tinygptv.data.fetch.results import FetchRequest, Result, ResultLog
from tinygptv.data.pictures.storing import PictureError, StoredPicture, store_picture


class FetchJob:
    """All requests of one folder and their results; `ended` receives None for every completed shard."""

    def __init__(self, folder: Path, settings: Settings, ended: "queue.SimpleQueue[BaseException | None]") -> None:
        self._settings, self._ended = settings, ended
        self._progress = Progress(folder)
        self._decoding_slots = DecodingSlots(folder, os.cpu_count() or 1, settings.suspects)
        self._todo = RequestQueue(sorted((folder / "todo").glob("*.jsonl")))
        self._logs = {
            path.stem: ResultLog(folder / "done" / f"{path.stem}.results", size)
            for path, size in zip(self._todo.paths, self._todo.sizes, strict=True)
        }
        self._missing = sum(not log.is_complete for log in self._logs.values())
        if not self._missing:
            ended.put(None)

    def requests(self) -> Iterator[Request]:
        """The requests without a result, in fetch order."""
        answered = {position for log in self._logs.values() for position in log.take_known()}
        for shard, asked in self._todo:
            if self._logs[shard].is_complete or asked.position in answered:
                continue
            if asked.position in self._settings.guilty:
                self._keep(shard, Result(asked.position, "engine_crash"))
            else:
                yield self._request(shard, asked)

    def _request(self, shard: str, asked: FetchRequest) -> Request:
        def take(request: Request, answer: Answer | FetchError) -> None:
            self._keep(shard, self._result(asked, request, answer))

        return Request(asked.url, take, asked.etag, asked.last_modified)

    def _keep(self, shard: str, result: Result) -> None:
        is_last = self._logs[shard].append(result)
        self._progress.add()
        if is_last:
            self._ended.put(None)

    @property
    def shards_missing(self) -> int:
        """The number of incomplete shards at the start; `ended` receives None as many times."""
        return self._missing

    def _result(self, asked: FetchRequest, request: Request, answer: Answer | FetchError) -> Result:
        response = facts(request, answer)
        if isinstance(answer, FetchError):
            return Result(asked.position, answer.failure, **response)
        is_unchanged = answer.status == NOT_MODIFIED
        response["content_sha256"] = asked.content_sha256 if is_unchanged else hashlib.sha256(answer.body).hexdigest()
        if is_unchanged or response["content_sha256"] == asked.content_sha256:
            return Result(asked.position, is_unchanged=True, **response)
        try:
            with self._decoding_slots.decoding(asked.position):
                picture = store_picture(answer.body, self._settings.download)
        except PictureError as error:
            return Result(asked.position, error.reason, **response)
        described = {name: getattr(picture, name) for name in StoredPicture.__slots__}
        return Result(asked.position, **response, **described)


def fetch_all(folder: Path, settings: Settings) -> None:
    """Fetch every shard in `todo/`. Raises the first error."""
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    refuse = Refusals.read(folder)
    fetching = FetchJob(folder, settings, ended)
    failure: BaseException | None = None
    with Crawler(settings.download, settings.allow_private, ended, refuse) as crawler:

        def terminate(*_: object) -> None:
            ended.put(SystemExit(128 + signal.SIGTERM))
            crawler.stop()

        signal.signal(signal.SIGTERM, terminate)
        left = fetching.shards_missing
        requests = fetching.requests()
        while left and failure is None:
            request = next(requests, None)
            if request is not None:
                crawler.submit(request)
            while left and failure is None and (request is None or not ended.empty()):
                failure = ended.get()
                left -= failure is None
        if failure is not None and not isinstance(failure, SystemExit):
            raise failure
    if failure is not None:
        raise failure


if __name__ == "__main__":
    run_engine(fetch_all)
