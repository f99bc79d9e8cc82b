"""Heads of responses, line by line."""

import pytest

from tinygptv.data.fetch.native.response import Fields, Head


def head(*lines: bytes) -> Head:
    made = Head()
    for line in (*lines, b"\r\n"):
        made.add(line)
    return made


def test_names_have_no_case_and_values_keep_their_order() -> None:
    fields = Fields()
    for line in ("X-Robots-Tag: noai", "ETag: 'a'", "x-robots-tag:none", "Folded: a", "  b", "no colon"):
        fields.add(line)
    assert fields.get_all("X-ROBOTS-TAG") == ["noai", "none"]
    assert (fields.get("etag"), fields.get("Folded"), fields.get("absent")) == ("'a'", "a b", None)


def test_a_status_line_begins_a_new_head() -> None:
    made = head(b"HTTP/1.1 103 Early Hints\r\n", b"X-Robots-Tag: noai\r\n")
    assert made.is_interim
    made.add(b"HTTP/1.1 200 OK\r\n")
    assert (made.status, made.is_complete, made.fields.get("X-Robots-Tag")) == (200, False, None)


@pytest.mark.parametrize(
    ("line", "status", "version"),
    [
        (b"HTTP/1.1 200 OK\r\n", 200, "1.1"),
        (b"http/1.0 404\n", 404, "1.0"),
        (b"HTTP/2 204 \r\n", 204, "2"),
        (b"HTTP/1.1 1000 X\r\n", 0, ""),
    ],
)
def test_status_lines_are_read_as_they_come(line: bytes, status: int, version: str) -> None:
    assert (head(line).status, head(line).version) == (status, version)


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ([b"Content-Length: 7"], 7),
        ([b"Content-Length: 7", b"Content-Length: 7"], 7),
        ([b"Content-Length: 7, 7"], 7),
        ([b"Content-Length: 7, 8"], None),
        ([b"Content-Length: +7"], None),
        ([b"Content-Length: 7", b"Transfer-Encoding: chunked"], None),
        ([b"Content-Length: 7", b"Transfer-Encoding: identity"], 7),
        ([], None),
    ],
)
def test_a_length_counts_if_all_agree_on_it(lines: list[bytes], length: int | None) -> None:
    assert head(b"HTTP/1.1 200 OK", *lines).length == length


@pytest.mark.parametrize(
    ("lines", "ends"),
    [
        ([b"HTTP/1.1 200 OK", b"Content-Length: 7"], True),
        ([b"HTTP/1.1 404 Not Found", b"Transfer-Encoding: gzip, chunked"], True),
        ([b"HTTP/2 302"], True),
        ([b"HTTP/1.1 200 OK"], False),
        ([b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip"], False),
        ([b"HTTP/1.1 204 No Content", b"Content-Length: 7"], False),
        ([b"HTTP/1.1 304 Not Modified", b"Content-Length: 7"], False),
    ],
)
def test_a_connection_can_be_kept_where_an_answer_says_its_end(lines: list[bytes], ends: bool) -> None:
    assert head(*lines).ends_where_it_says is ends


@pytest.mark.parametrize(
    ("lines", "counted"),
    [
        ([b"Content-Length: 7"], False),
        ([b"Content-Length : 7"], True),
        ([b"Content-Length: 7", b"Transfer-Encoding: identity"], True),
        ([b"Transfer-Encoding: identity"], False),
    ],
)
def test_lengths_that_libcurl_overlooks_are_counted_here(lines: list[bytes], counted: bool) -> None:
    assert head(b"HTTP/1.1 200 OK", *lines).is_counted_by_us is counted
