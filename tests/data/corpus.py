"""A corpus that changes from one refresh to the next: a table of addresses, and the web that answers them."""

import json
from pathlib import Path

from tests.data.raw import pixels
from tests.web.pages import conditional
from tests.web.server import Page, Web
from tinygptv.data.versions.refresh import Refreshed, refresh
from tinygptv.definitions.source import Download, PairsSource, Table
from tinygptv.store.artifacts import Store


def picture_of(seed: str, **headers: str) -> Page:
    """A picture with an ETag; both follow from `seed`."""
    return conditional(pixels(seed, 32), f'"{seed}"', **headers)


class Corpus:
    """The table's folder and the web; pictures are asked about again after `recheck_days`."""

    def __init__(self, folder: Path, store: Store, web: Web) -> None:
        self.web, self.recheck_days = web, 0.0
        self._table, self._store = folder / "pairs.jsonl", store

    def refresh(self, *rows: str | tuple[str, str]) -> Refreshed:
        """Refresh from a table of these paths, given with or without a caption; the web's requests are of this refresh.

        All pairs pass the filter, and no benchmark is cleared from them.
        """
        pairs = [(row, f"a picture of {row}") if isinstance(row, str) else row for row in rows]
        lines = [json.dumps({"url": self.web.address + path, "caption": caption}) for path, caption in pairs]
        self._table.write_text("\n".join(lines) + "\n")
        source = PairsSource(
            kind="pairs",
            about="test",
            licence="CC0-1.0",
            tables=[Table(location=str(self._table))],
            filter="everything",
            allow_private=True,
            download=Download(image_size=32, threads=4, retries=0, recheck_days=self.recheck_days),
        )
        self.web.clear()
        return refresh(self._store, "web", source, benchmarks={})
