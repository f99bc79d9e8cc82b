"""The native engine: `python -m tinygptv.data.fetch.native.engine FOLDER SETTINGS` (see `engine_process`).

One thread fetches and a few make pictures; the work of either is done without the interpreter, so one process keeps
every core busy. All shards are fetched at a time, in an order that spreads each site's requests (see `fetch_order`). On
SIGTERM no request is begun any more, those under way are finished, and the exit code is 143.
"""

import hashlib
import os
import queue
import signal
from collections.abc import Iterator
from pathlib import Path

from tinygptv.data.fetch.engine_process import InHand, Progress, Settings, run_engine
from tinygptv.data.fetch.guard import FetchError
from tinygptv.data.fetch.native.crawler import Crawler, facts
from tinygptv.data.fetch.native.politeness import Request
from tinygptv.data.fetch.native.response import NOT_MODIFIED, Answer
from tinygptv.data.fetch.native.todo import Todo
from tinygptv.data.fetch.refusals import Refusals
from tinygptv.data.fetch.results import Asked, Result, ResultLog
from tinygptv.data.pictures.storing import PictureError, StoredPicture, store_picture


class Fetching:
    """What is asked for in one folder, and what becomes of it; `ended` gets None when all of it has a result."""

    def __init__(self, folder: Path, settings: Settings, ended: "queue.SimpleQueue[BaseException | None]") -> None:
        self._settings, self._ended = settings, ended
        self._progress = Progress(folder)
        self._in_hand = InHand(folder, os.cpu_count() or 1, settings.suspects)
        self._todo = Todo(sorted((folder / "todo").glob("*.jsonl")))
        self._logs = {
            path.stem: ResultLog(folder / "done" / f"{path.stem}.results", size)
            for path, size in zip(self._todo.paths, self._todo.sizes, strict=True)
        }
        self._missing = sum(not log.is_whole for log in self._logs.values())
        if not self._missing:
            ended.put(None)

    def requests(self) -> Iterator[Request]:
        """What has no result yet, in the order of asking."""
        answered = {position for log in self._logs.values() for position in log.taken_known()}
        for shard, asked in self._todo:
            if self._logs[shard].is_whole or asked.position in answered:
                continue
            if asked.position in self._settings.guilty:
                self._keep(shard, Result(asked.position, "engine_crash"))
            else:
                yield self._request(shard, asked)

    def _request(self, shard: str, asked: Asked) -> Request:
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
        """How many shards were not whole when this began: as many Nones will come."""
        return self._missing

    def _result(self, asked: Asked, request: Request, answer: Answer | FetchError) -> Result:
        heard = facts(request, answer)
        if isinstance(answer, FetchError):
            return Result(asked.position, answer.failure, **heard)
        is_unchanged = answer.status == NOT_MODIFIED
        heard["content_sha256"] = asked.content_sha256 if is_unchanged else hashlib.sha256(answer.body).hexdigest()
        if is_unchanged or heard["content_sha256"] == asked.content_sha256:
            return Result(asked.position, is_unchanged=True, **heard)
        try:
            with self._in_hand.decoding(asked.position):
                picture = store_picture(answer.body, self._settings.download)
        except PictureError as error:
            return Result(asked.position, error.reason, **heard)
        described = {name: getattr(picture, name) for name in StoredPicture.__slots__}
        return Result(asked.position, **heard, **described)


def fetch_all(folder: Path, settings: Settings) -> None:
    """Fetch every shard in `todo/`. Raises what went wrong first."""
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    refuse = Refusals.read(folder)
    fetching = Fetching(folder, settings, ended)
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
