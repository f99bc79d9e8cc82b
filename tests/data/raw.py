"""Raw artifacts that no download made: with the rows and the pictures that a test says."""

import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tinygptv.data.download.ledger import LEDGER
from tinygptv.data.shards.shards import ShardWriter, content_hash
from tinygptv.definitions.filters import SIDECAR_COLUMNS
from tinygptv.definitions.source import PairsSource
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name


def pixels(seed: str, side: int = 16) -> bytes:
    """A small picture whose colour is a function of `seed`."""
    stream = io.BytesIO()
    red, green, blue, *_ = hashlib.sha256(seed.encode()).digest()
    Image.new("RGB", (side, side), (red, green, blue)).save(stream, "JPEG")
    return stream.getvalue()


def build_raw(
    store: Store,
    name: str,
    rows: Mapping[str, Mapping[str, Any]],
    parents: list[str] | None = None,
    dropped: Sequence[tuple[str, str]] = (),
    **details: Any,
) -> Manifest:
    """A raw artifact: key → what its sidecar row says, as far as it matters; `picture` seeds the pixels. `dropped` are
    the reason and key of rows that did not become samples."""

    def build(draft: Path) -> Outcome:
        with ShardWriter(draft, 8) as shards:
            for number, (key, row) in enumerate(sorted(rows.items())):
                image = pixels(str(row.get("picture", key)))
                common = {"url": f"http://web/{key}.jpg", "host": "web", "caption": f"a picture of {key}"}
                common |= {"key": key, "table_name": "t", "table_row": number, "licence": "CC0-1.0"}
                stored = {"width": 16, "height": 16, "sha256": content_hash(image), "bytes": len(image)}
                said = {column: value for column, value in row.items() if column in SIDECAR_COLUMNS}
                shards.write(dict.fromkeys(SIDECAR_COLUMNS) | common | stored | said, image)
        outcomes = [("kept", key) for key in rows] + list(dropped)
        ledger = [
            {"table_name": "t", "url": f"http://web/{key}.jpg", "host": "web", "outcome": outcome}
            for outcome, key in outcomes
        ]
        pq.write_table(pa.Table.from_pylist(ledger), draft / LEDGER)
        drops = Counter(outcome for outcome, _ in dropped)
        return Outcome(rows_in=len(outcomes), rows_out=len(rows), drops=dict(drops), details=details)

    return store.make(name, "download", {}, parents or [], build)


@dataclass
class Upstream:
    """Takes the place of a source: what its tables and the web hold today. `asked` are the raw artifacts that each
    download went on from."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str | None] = field(default_factory=list)

    def download(
        self, store: Store, source_name: str, source: PairsSource, previous: Manifest | None = None
    ) -> Manifest:
        """As `tinygptv.data.download.download.download`."""
        self.asked.append(previous and previous.artifact)
        parents = [previous.artifact] if previous else []
        return build_raw(store, artifact_name(f"raw/{source_name}", {"rows": self.rows}, parents), self.rows, parents)
