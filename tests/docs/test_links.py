"""Links between documents, and the files that documents name."""

import posixpath
import re

import pytest

from tests.docs.reading import CHECKOUT, anchors, documents, exists, links, prose

PATH = re.compile(r"`((?:tinygptv|flows|datasets|infra|tests|docs|benchmarks|examples|\.github)/[\w./-]*\w)`")


@pytest.mark.parametrize("document", documents())
def test_every_link_leads_to_a_page_and_a_heading_that_exist(document: str) -> None:
    broken = []
    for link in links(document):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(document), path)) if path else document
        if not exists(target) or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("document", documents())
def test_every_file_and_folder_that_is_named_exists(document: str) -> None:
    named = PATH.findall(prose(document))
    ours = [path for path in named if not re.search(r"\btest_\w+\.py$", path)]
    assert [path for path in ours if not (CHECKOUT / path).exists()] == []


@pytest.mark.parametrize("document", documents())
def test_every_file_of_tests_that_is_named_exists(document: str) -> None:
    named = re.findall(r"[\w./]*\btest_\w+\.py", prose(document))
    below = [CHECKOUT / "tests" / path.removeprefix("tests/") for path in named]
    assert [str(path) for path in below if not path.is_file()] == []


def test_a_broken_anchor_would_be_seen() -> None:
    assert "stop-and-resume" in anchors("docs/quickstart.md")
    assert "stop-and-go" not in anchors("docs/quickstart.md")
    assert "download" in anchors("docs/reference/source.md")
