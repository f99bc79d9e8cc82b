"""The documentation site and the pages that belong on it."""

from typing import Any

import yaml

from infra.reference import pages
from tests.docs.reading import CHECKOUT

SITE = yaml.safe_load((CHECKOUT / "mkdocs.yml").read_text())


def listed(entries: list[Any]) -> list[str]:
    """The pages of a navigation, flat."""
    found = []
    for entry in entries:
        if isinstance(entry, dict):
            (below,) = entry.values()
            found += [below] if isinstance(below, str) else listed(below)
        else:
            found.append(entry)
    return found


def test_the_navigation_lists_every_page_once() -> None:
    written = {path.name for path in (CHECKOUT / "docs").glob("*.md")}
    made = {f"reference/{name}" for name in pages()}
    assert sorted(listed(SITE["nav"])) == sorted(written | made)


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len((CHECKOUT / "README.md").read_bytes()) <= 8192


def test_pictures_in_the_documentation_are_small() -> None:
    assert sum(path.stat().st_size for path in (CHECKOUT / "docs" / "images").iterdir()) < 300_000
