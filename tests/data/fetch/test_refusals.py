"""Addresses that no redirect may lead to."""

from pathlib import Path

from tinygptv.data.fetch.refusals import Refusals


def test_addresses_and_whole_domains_are_refused_under_their_reasons(tmp_path: Path) -> None:
    listed = [("http://a.example/gone.jpg", "http_410"), ("http://b.example/private.jpg", "opted_out")]
    Refusals.of(listed, ["forgotten.example"]).write(tmp_path)
    refuse = Refusals.read(tmp_path)
    assert refuse("http://a.example/gone.jpg") == "http_410"
    assert refuse("http://b.example/private.jpg") == "opted_out"
    assert refuse("https://img.forgotten.example/x") == "forgotten"
    assert refuse("http://forgotten.example:8080/x") == "forgotten"
    assert refuse("http://notforgotten.example/x") is None
    assert refuse("http://a.example/other.jpg") is None


def test_nothing_is_refused_where_nothing_is_written(tmp_path: Path) -> None:
    assert Refusals.read(tmp_path)("http://a.example/") is None
    Refusals.of([]).write(tmp_path)
    assert Refusals.read(tmp_path)("http://a.example/") is None
