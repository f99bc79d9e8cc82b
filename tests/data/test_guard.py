"""What may be asked for, of whom, for how long; and under which name each failure is counted."""

import socket
import threading
from typing import Any

import pytest

from tinygptv.data import guard
from tinygptv.data.guard import FetchError, GuardedOpener, normalise_url, refusal, resolve_hosts


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("  http://A.Example/x.jpg#top ", "http://a.example/x.jpg"),
        ("http://a.example/two words.jpg", "http://a.example/two%20words.jpg"),
        ("http://a.example/caf\u00e9.jpg?q=\u00e9", "http://a.example/caf%C3%A9.jpg?q=%C3%A9"),
        ("http://b\u00fccher.example:8080/x", "http://xn--bcher-kva.example:8080/x"),
        ("http://a.example/already%20quoted", "http://a.example/already%20quoted"),
        ("http://[broken/x", "http://[broken/x"),
    ],
)
def test_urls_get_one_spelling(url: str, expected: str) -> None:
    assert normalise_url(url) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a.example/x.jpg", None),
        ("https://a.example", None),
        ("file:///etc/passwd", "not_http"),
        ("data:image/png;base64,AAAA", "not_http"),
        ("ftp://a.example/x.jpg", "not_http"),
        ("a.example/x.jpg", "not_http"),
        ("http:///x.jpg", "bad_url"),
        ("http://a.example:port/x", "bad_url"),
        ("http://[broken/x", "bad_url"),
    ],
)
def test_only_http_urls_with_a_host_are_asked_for(url: str, reason: str | None) -> None:
    assert refusal(url) == reason


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "localhost", "0.0.0.0"])
def test_private_addresses_are_refused_unless_allowed(host: str) -> None:
    assert resolve_hosts([host], allow_private=False, deadline_seconds=10) == {host: "private_address"}
    assert resolve_hosts([host], allow_private=True, deadline_seconds=10) == {host: None}


def test_hosts_that_do_not_exist_or_answer_late_are_dns_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()

    def look_up(host: str, *_: Any, **__: Any) -> Any:
        if host == "gone.example":
            raise socket.gaierror(-2, "Name or service not known")
        if host == "slow.example":
            never.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    verdicts = resolve_hosts(["gone.example", "slow.example", "there.example"], False, deadline_seconds=0.5)
    never.set()
    assert verdicts == {"gone.example": "dns", "slow.example": "dns", "there.example": None}


def opener(allow_private: bool = True, retries: int = 0, timeout_seconds: float = 0.3) -> GuardedOpener:
    return GuardedOpener("tinygptv-test", timeout_seconds, retries, allow_private)


def failure(url: str, **options: Any) -> str:
    with pytest.raises(FetchError) as raised:
        opener(**options).open(url)
    return str(raised.value)


def test_a_picture_arrives_and_the_server_sees_who_asks(web: Any, answer: Any) -> None:
    web.answers["/good"] = answer(b"bytes")
    with opener().open(f"{web.address}/good") as response:
        assert response.read() == b"bytes"
    assert web.agents == {"tinygptv-test"}


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429])
def test_client_errors_keep_their_number(web: Any, answer: Any, status: int) -> None:
    web.answers["/refused"] = answer(status=status, headers={"Retry-After": "0"})
    assert failure(f"{web.address}/refused") == f"http_{status}"


def test_transient_failures_are_asked_again_and_answers_are_not(web: Any, answer: Any) -> None:
    web.answers["/busy"] = answer(status=503, headers={"Retry-After": "0"})
    web.answers["/no"] = answer(b"x", headers={"X-Robots-Tag": "noai"})
    assert failure(f"{web.address}/busy", retries=2) == "http_5xx"
    assert failure(f"{web.address}/absent", retries=2) == "http_404"
    assert failure(f"{web.address}/no", retries=2) == "opted_out"
    assert [web.asked[path] for path in ("/busy", "/absent", "/no")] == [3, 1, 1]


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({"X-Robots-Tag": "noimageai, nofollow"}, True),
        ({"X-Robots-Tag": "none"}, True),
        ({"X-Robots-Tag": "tinygptv-test: noai"}, True),
        ({"tdm-reservation": "1"}, True),
        ({"X-Robots-Tag": "otherbot: noai"}, False),
        ({"X-Robots-Tag": "nofollow"}, False),
    ],
)
def test_opt_outs_are_honoured(web: Any, answer: Any, headers: dict[str, str], refused: bool) -> None:
    web.answers["/page"] = answer(b"x", headers=headers)
    if refused:
        assert failure(f"{web.address}/page") == "opted_out"
    else:
        assert opener().open(f"{web.address}/page").read() == b"x"


def test_a_redirect_is_checked_like_the_first_address(web: Any, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`public.example` is made to look public and to lead to this machine, as a hostile host would."""
    port = web.address.rsplit(":", 1)[1]
    web.answers["/away"] = answer(status=302, headers={"Location": f"http://localhost:{port}/secret"})
    web.answers["/secret"] = answer(b"secret")
    checked = guard.addresses

    def addresses(host: str, allow_private: bool) -> tuple[str, ...]:
        return ("127.0.0.1",) if host == "public.example" else checked(host, allow_private)

    monkeypatch.setattr(guard, "addresses", addresses)
    assert failure(f"http://public.example:{port}/away", allow_private=False) == "private_address"
    assert web.asked["/away"] == 1
    assert web.asked["/secret"] == 0


def test_a_redirect_to_a_file_or_in_circles_is_refused(web: Any, answer: Any) -> None:
    web.answers["/file"] = answer(status=302, headers={"Location": "file:///etc/hostname"})
    web.answers["/loop"] = answer(status=302, headers={"Location": "/loop"})
    assert failure(f"{web.address}/file") == "redirect"
    assert failure(f"{web.address}/loop") == "redirect"
    assert failure("file:///etc/hostname") == "bad_url"


def test_a_short_body_a_silent_server_and_a_closed_port_have_names(web: Any, answer: Any) -> None:
    web.answers["/short"] = answer(b"half", declared=8)
    web.answers["/silent"] = answer(wait=threading.Event())
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    assert failure(f"{web.address}/short", timeout_seconds=2) == "truncated"
    assert failure(f"{web.address}/silent") == "timeout"
    assert failure(f"http://127.0.0.1:{closed}/x") == "connect"
    web.answers["/silent"].wait.set()


def test_a_body_beyond_the_cap_is_not_read_to_its_end(web: Any, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_MAX_BYTES", 1000)
    web.answers["/huge"] = answer(b"0" * 100_000)
    assert failure(f"{web.address}/huge") == "too_large"
