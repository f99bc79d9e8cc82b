"""A corpus that changes from one refresh to the next: a table of addresses, and the web that answers them."""

from pathlib import Path

from tests.data.raw import pixels
from tests.data.sources import pairs_source, pairs_table
from tests.web.pages import conditional
from tests.web.server import Page, Web
from tinygptv.data.versions.refresh import Refreshed, refresh
from tinygptv.store.artifacts import Store


def picture_of(seed: str, **headers: str) -> Page:
    """A picture with an ETag; both follow from `seed`."""
    return conditional(pixels(seed, 32), f'"{seed}"', **headers)


class Corpus:
    """The table's folder and the web; pictures are asked about again after `recheck_days`."""

    def __init__(self, folder: Path, store: Store, web: Web) -> None:
        self.web, self.recheck_days = web, 0.0
        self._folder, self._store = folder, store

    def refresh(self, *rows: str | tuple[str, str]) -> Refreshed:
        """Refresh from a table of these paths, given with or without a caption; the web's requests are of this refresh.

        All pairs pass the filter, and no benchmark is cleared from them.
        """
        pairs = [(row, f"a picture of {row}") if isinstance(row, str) else row for row in rows]
        table = pairs_table(
            self._folder, [{"url": self.web.address + path, "caption": caption} for path, caption in pairs]
        )
        options = {"image_size": 32, "threads": 4, "retries": 0, "recheck_days": self.recheck_days}
        source = pairs_source(table, options, filter="everything")
        self.web.clear()
        return refresh(self._store, "web", source, benchmarks={})
