"""An S3 that has a bad day: moto's, behind faults that a test chooses."""

import itertools
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from moto.server import DomainDispatcherApplication, create_backend_app

Start = Callable[..., Any]


@dataclass
class Weather:
    """What goes wrong: a request's `METHOD name` → how often it still fails, and as what; any other as `storm` says.

    Every request goes through the words of the storm, again and again, on its own and from a place of its own: so how
    often one fails in a row does not depend on which others are made at the same time.
    """

    failing: dict[str, list[str]] = field(default_factory=dict)
    storm: Sequence[str] = ()
    hidden: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    _storms: dict[str, Iterator[str]] = field(default_factory=dict)

    def fault(self, request: str) -> str | None:
        """The next fault of a request, used up by asking."""
        waiting = next((faults for name, faults in self.failing.items() if request.endswith(name)), [])
        if waiting or not self.storm:
            return waiting.pop(0) if waiting else None
        start = zlib.crc32(request.encode()) % len(self.storm)
        words = itertools.islice(itertools.cycle(self.storm), start, None)
        return next(self._storms.setdefault(request, words))


class StormyS3:
    """moto's S3 as a WSGI application, behind the weather."""

    def __init__(self) -> None:
        self.weather = Weather()
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO'].partition('/workdir/')[2]}"
        self.weather.asked.append(request)
        match self.weather.fault(request):
            case "500":
                start("500 Internal Server Error", [("Content-Length", "0")])
                return [b""]
            case "answer lost":
                b"".join(self._moto(environ, lambda *_: None))
                start("500 Internal Server Error", [("Content-Length", "0")])
                return [b""]
            case "cut":
                body = b"".join(self._moto(environ, start))
                return [body[: len(body) // 2]]
            case "held":
                self.weather.held.set()
                self.weather.released.wait(30)
        return self._listing(environ, start) if "list-type" in environ["QUERY_STRING"] else self._moto(environ, start)

    def _listing(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """What was written lately is missing from a listing that lags."""
        answered: list[Any] = []
        body = b"".join(self._moto(environ, lambda *head: answered.extend(head))).decode()
        for name in map(quote, self.weather.hidden):
            before, found, after = body.partition(f"{name}</Key>")
            if found:
                body = before[: before.rindex("<Contents>")] + after.partition("</Contents>")[2]
        headers = [(key, value) for key, value in answered[1] if key.lower() != "content-length"]
        start(answered[0], [*headers, ("Content-Length", str(len(body.encode())))])
        return [body.encode()]
