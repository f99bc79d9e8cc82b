"""The embedded corpus's own small web, so that the real download path runs without one."""

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tinygptv.errors import DataError


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open: thousands of small images come over a few of them
    disable_nagle_algorithm = True  # head and body leave in two writes; the second must not wait for an ACK

    def log_message(self, *_: object) -> None:
        """Say nothing: the downloader counts what it got."""

    def list_directory(self, path: object) -> None:
        self.send_error(404)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that hangs up early is not worth a traceback."""


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the files of `folder` on a free port of 127.0.0.1 while the context lasts; yields `http://127.0.0.1:<port>`.

    Raises DataError if the folder does not exist.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder to serve")
    with _Server(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
