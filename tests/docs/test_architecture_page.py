"""The page on architecture shows the import table that the architecture test holds the code to."""

import re

from tests.docs.reading import read
from tests.test_architecture import ROOMS

PAGE = "docs/architecture.md"


def test_the_page_shows_the_import_table_of_the_test() -> None:
    table = read(PAGE).partition("| room | holds | may import |\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]
    shown = {room.strip("`"): set(re.findall(r"`([\w.]+)`", imports)) for room, _, imports in rows}
    assert shown == ROOMS, f"{PAGE}: write the table of tests/test_architecture.py there"
    assert list(shown) == list(ROOMS)
    assert all(holds for _, holds, _ in rows)
