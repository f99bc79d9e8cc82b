"""A local web server for the embedded corpus, so that the real download path runs without the web."""

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tinygptv.errors import DataError


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive: thousands of small images over a few connections
    disable_nagle_algorithm = True  # head and body are written separately; the second must not wait for an ACK

    def log_message(self, *_: object) -> None:
        """Log nothing: the downloader counts results."""

    def list_directory(self, path: object) -> None:
        self.send_error(404)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect early."""


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the files of `folder` on a free port of 127.0.0.1 within the context; yields `http://127.0.0.1:<port>`.

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
