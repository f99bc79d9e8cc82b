"""An S3 on loopback that fails as a test says: moto's, with faults in front of it."""

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
class Faults:
    """What fails, and what was asked for.

    `failing`: a request, as `METHOD name` or the end of it → its next faults, each of which is used once.
    `others`: the faults of all other requests, as a cycle. Each request goes through it on its own, from a place that
    follows from its name: how often it fails in a row does not depend on what else is asked at the same time.
    `hidden`: names that listings leave out, as if they had been written a moment ago.
    `held` is set when a request is held back, until `released` is set.

    A fault is `500`, `answer lost` (done, but answered 500), `cut` (half of the body) or `held`; other words are none.
    """

    failing: dict[str, list[str]] = field(default_factory=dict)
    others: Sequence[str] = ()
    hidden: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    _cycles: dict[str, Iterator[str]] = field(default_factory=dict)

    def fault(self, request: str) -> str | None:
        """The next fault of a request, used up by asking."""
        waiting = next((left for name, left in self.failing.items() if request.endswith(name)), [])
        if waiting or not self.others:
            return waiting.pop(0) if waiting else None
        start = zlib.crc32(request.encode()) % len(self.others)
        cycle = itertools.islice(itertools.cycle(self.others), start, None)
        return next(self._cycles.setdefault(request, cycle))


class FaultyS3:
    """moto's S3 as a WSGI application with faults in front of it."""

    def __init__(self) -> None:
        self.faults = Faults()
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO'].partition('/workdir/')[2]}"
        self.faults.asked.append(request)
        match self.faults.fault(request):
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
                self.faults.held.set()
                self.faults.released.wait(30)
        return self._listing(environ, start) if "list-type" in environ["QUERY_STRING"] else self._moto(environ, start)

    def _listing(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        """The listing without what is hidden."""
        answered: list[Any] = []
        body = b"".join(self._moto(environ, lambda *head: answered.extend(head))).decode()
        for name in map(quote, self.faults.hidden):
            before, found, after = body.partition(f"{name}</Key>")
            if found:
                body = before[: before.rindex("<Contents>")] + after.partition("</Contents>")[2]
        headers = [(key, value) for key, value in answered[1] if key.lower() != "content-length"]
        start(answered[0], [*headers, ("Content-Length", str(len(body.encode())))])
        return [body.encode()]
