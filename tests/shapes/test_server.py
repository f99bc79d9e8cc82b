"""The small web server that stands in for the web."""

import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from tinygptv.errors import DataError
from tinygptv.shapes.server import serve


def test_files_are_served_on_loopback_and_only_inside_the_context(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"bytes")
    with serve(tmp_path) as base_url:
        assert base_url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{base_url}/images/a.jpg") as answer:
            assert (answer.read(), answer.headers["Content-Type"]) == (b"bytes", "image/jpeg")
    with pytest.raises(URLError):
        urllib.request.urlopen(f"{base_url}/images/a.jpg")


@pytest.mark.parametrize("path", ["gone.jpg", "", "images", "../secret.txt", "%2e%2e/secret.txt"])
def test_what_is_not_a_file_of_the_folder_is_not_found(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "web" / "images").mkdir(parents=True)
    with serve(tmp_path / "web") as base_url, pytest.raises(HTTPError, match="404"):
        urllib.request.urlopen(f"{base_url}/{path}")


def test_many_clients_are_served_at_once_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x" * 10_000)
    with serve(tmp_path) as base_url, ThreadPoolExecutor(16) as clients:
        sizes = clients.map(lambda _: len(urllib.request.urlopen(f"{base_url}/a.jpg").read()), range(100))
        assert set(sizes) == {10_000}
    assert capfd.readouterr() == ("", "")


def test_two_servers_get_two_ports_and_leave_no_thread_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    with serve(tmp_path) as one, serve(tmp_path) as other:
        assert one != other
    assert threading.active_count() == before


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder to serve"), serve(tmp_path / "missing"):
        pass
