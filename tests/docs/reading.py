"""Markdown as the tests of the documentation read it: documents, fenced blocks, links and anchors."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
REFERENCE = "docs/reference/"
"""Pages below this are made when the site is built."""

_FENCE = re.compile(r"^(?P<mark>`{3,})(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=mark)$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its text, and why its commands are not run, if a comment says."""

    document: str
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def documents() -> list[str]:
    """The project's Markdown for readers, relative to the checkout."""
    folders = ("", "docs", "datasets", "examples")
    return sorted(str(path.relative_to(CHECKOUT)) for folder in folders for path in (CHECKOUT / folder).glob("*.md"))


def read(document: str) -> str:
    """A document; pages of the reference are made."""
    if document.startswith(REFERENCE):
        from infra.reference import pages

        return pages()[document.removeprefix(REFERENCE)]
    return (CHECKOUT / document).read_text()


def exists(document: str) -> bool:
    if document.startswith(REFERENCE):
        from infra.reference import pages

        return document.removeprefix(REFERENCE) in pages()
    return (CHECKOUT / document).exists()


def blocks(document: str) -> Iterator[Block]:
    """The fenced blocks of a document, in order."""
    text = read(document)
    for found in _FENCE.finditer(text):
        before = text[: found.start()]
        reason = _NOT_RUN.search(before)
        yield Block(document, before.count("\n") + 1, found["language"], found["text"], reason and reason[1])


def prose(document: str) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", read(document))


def links(document: str) -> list[str]:
    """Targets of the links and pictures in a document's prose."""
    text = re.sub(r"`[^`\n]*`", "", prose(document))
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"<img[^>]*\bsrc=\"([^\"]+)\"", text)


def anchors(document: str) -> set[str]:
    """What the headings of a document may be linked by: the same on forges and on the site."""
    titles = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower().replace("`", "")).strip().replace(" ", "-") for title in titles}
