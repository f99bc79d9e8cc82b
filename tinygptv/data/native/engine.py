"""The native engine: `python -m tinygptv.data.native.engine FOLDER SETTINGS` (see `engine_process`).

The same threads fetch and make pictures: network code holds the interpreter for a fraction of a millisecond per picture
and decoding not at all, so one process keeps every core busy. On SIGTERM no request is begun any more, those under way
are finished, and the exit code is 143.
"""

import hashlib
import os
import queue
import resource
import signal
from dataclasses import fields
from pathlib import Path

from tinygptv.data.engine_process import InHand, Progress, Settings, run_engine
from tinygptv.data.guard import FetchError
from tinygptv.data.native.crawler import Crawler, facts
from tinygptv.data.native.politeness import Request
from tinygptv.data.native.session import NOT_MODIFIED, Answer
from tinygptv.data.pictures import PictureError, store_picture
from tinygptv.data.results import Asked, Result, ResultLog, read_request

_OPEN_SHARDS = 2  # so that the last slow sites of one shard leave no thread idle


class ShardFetch:
    """Fetches the shards of one folder; `ended` gets None for each whole shard, or what went wrong."""

    def __init__(self, folder: Path, settings: Settings, ended: "queue.SimpleQueue[BaseException | None]") -> None:
        self._folder, self._settings, self._ended = folder, settings, ended
        self._progress = Progress(folder)
        # One more than there are cores: while one thread waits for the interpreter, another decodes without it.
        self._in_hand = InHand(folder, (os.cpu_count() or 1) + 1, settings.suspects)

    def submit(self, crawler: Crawler, path: Path) -> None:
        """Have every URL of a shard asked for that has no result yet."""
        asked = read_request(path)
        log = ResultLog(self._folder / "done" / f"{path.stem}.results", len(asked))
        if log.is_whole:
            self._ended.put(None)
        for one in asked:
            if one.position not in log.known:
                self._submit(crawler, one, log)

    def _submit(self, crawler: Crawler, asked: Asked, log: ResultLog) -> None:
        def keep(result: Result) -> None:
            is_last = log.append(result)
            self._progress.add()
            if is_last:
                self._ended.put(None)

        if asked.position in self._settings.guilty:
            keep(Result(asked.position, "engine_crash"))
            return

        def take(request: Request, answer: Answer | FetchError) -> None:
            keep(self._result(asked, request, answer))

        crawler.submit(Request(asked.url, take, asked.etag, asked.last_modified))

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
        described = {field.name: getattr(picture, field.name) for field in fields(picture)}
        return Result(asked.position, **heard, **described)


def fetch_all(folder: Path, settings: Settings) -> None:
    """Fetch every shard in `todo/`, a few at a time. Raises what went wrong first."""
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    signal.signal(signal.SIGTERM, lambda *_: ended.put(SystemExit(128 + signal.SIGTERM)))
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    paths = sorted((folder / "todo").glob("*.jsonl"))
    fetch = ShardFetch(folder, settings, ended)
    failure: BaseException | None = None
    with Crawler(settings.download, settings.allow_private, ended) as crawler:
        for number in range(len(paths) + _OPEN_SHARDS):
            if number >= _OPEN_SHARDS:
                failure = ended.get()
            if isinstance(failure, SystemExit):
                break
            if failure is not None:
                raise failure
            if number < len(paths):
                fetch.submit(crawler, paths[number])
    if failure is not None:
        raise failure


if __name__ == "__main__":
    run_engine(fetch_all)
