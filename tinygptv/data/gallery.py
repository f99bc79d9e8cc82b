"""A few pictures of what a filter dropped and kept, so that people judge thresholds by looking."""

import io
import json
from pathlib import Path

import duckdb
from PIL import Image

from tinygptv.data.shards import read_image

INDEX = "index.json"
_PICTURES = 24
_SIDE = 128
_QUALITY = 85

_CHOOSE = """
SELECT key, reason, caption, width, height, shard, "offset", length, sha256
FROM judged WHERE {side}
ORDER BY row_number() OVER (PARTITION BY reason ORDER BY key), reason, key
LIMIT {pictures}
"""


def write_gallery(folder: Path, database: duckdb.DuckDBPyConnection, raw: Path) -> None:
    """Thumbnails of at most 24 dropped and 24 kept images of the table `judged`, every reason in turn.

    `index.json` lists them: file, key, reason (null: kept), caption, width, height (px, of the stored image). Keys are
    hashes, so their order is an arbitrary but repeatable sample.
    """
    folder.mkdir(exist_ok=True)
    index = []
    for side, condition in (("dropped", "reason IS NOT NULL"), ("kept", "reason IS NULL")):
        chosen = database.execute(_CHOOSE.format(side=condition, pictures=_PICTURES))
        names = [column[0] for column in chosen.description or []]
        for number, values in enumerate(chosen.fetchall()):
            row = dict(zip(names, values, strict=True))
            file = f"{side}-{number:02d}.jpg"
            (folder / file).write_bytes(_thumbnail(read_image(raw, row)))
            index.append({"file": file} | {name: row[name] for name in ("key", "reason", "caption", "width", "height")})
    (folder / INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False))


def _thumbnail(image: bytes) -> bytes:
    with Image.open(io.BytesIO(image)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
