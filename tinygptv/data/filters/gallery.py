"""A few pictures of what a filter dropped and kept, so that people judge thresholds by looking."""

import io
import json
from pathlib import Path

from PIL import Image

from tinygptv.data.columns.database import connect, literal
from tinygptv.data.shards.shards import SIDECAR, read_image

FOLDER, INDEX = "gallery", "index.json"
DROPPED = "dropped.parquet"
"""Beside a filtered artifact's sidecar: the rows that were dropped, with their `reason`."""

_PICTURES = 24
_SIDE = 128
_QUALITY = 85

_CHOOSE = """
WITH chosen AS (
    SELECT key, row_number() OVER (PARTITION BY {reason} ORDER BY key) AS turn FROM read_parquet({rows})
    QUALIFY turn <= {pictures} ORDER BY turn, {reason}, key LIMIT {pictures}
)
SELECT key, {reason} AS reason, caption, width, height, shard, "offset", length, sha256
FROM read_parquet({rows}) JOIN chosen USING (key) ORDER BY turn, reason, key
"""


def write_gallery(filtered: Path, raw: Path) -> None:
    """Thumbnails of at most 24 dropped and 24 kept images of a filtered artifact, every reason in turn.

    `gallery/index.json` lists them: file, key, reason (null: kept), caption, width, height (px, of the stored image).
    Keys are hashes, so their order is an arbitrary but repeatable sample.
    """
    gallery = filtered / FOLDER
    gallery.mkdir(exist_ok=True)
    index = []
    sides = (("dropped", DROPPED, "reason", raw), ("kept", SIDECAR, "NULL::VARCHAR", filtered))
    with connect(filtered) as database:
        for side, file, reason, images in sides:
            query = _CHOOSE.format(reason=reason, rows=literal(filtered / file), pictures=_PICTURES)
            chosen = database.sql(query)
            for number, values in enumerate(chosen.fetchall()):
                row = dict(zip(chosen.columns, values, strict=True))
                name = f"{side}-{number:02d}.jpg"
                (gallery / name).write_bytes(thumbnail(read_image(images, row)))
                shown = {column: row[column] for column in ("key", "reason", "caption", "width", "height")}
                index.append({"file": name} | shown)
    (gallery / INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False))


def thumbnail(image: bytes) -> bytes:
    """A JPEG of at most 128 px."""
    with Image.open(io.BytesIO(image)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
