"""Which rows show a picture that a benchmark asks about, or say what one of its texts says.

A benchmark's pictures are hashed once, as the download hashes what it fetches, and kept as an artifact.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tinygptv.data.annotations import contents_of, read_annotations
from tinygptv.data.columns.arrow import numbers
from tinygptv.data.columns.hamming import near_any
from tinygptv.data.columns.phrases import Phrases, words_of
from tinygptv.data.columns.scripts import LETTERS_PER_WORD, UNSPACED
from tinygptv.data.filters.duplicates import Fixed
from tinygptv.data.filters.rows import Positions, Rows
from tinygptv.data.pictures.likeness import COLOURS_BYTES, DETAIL_BYTES, LOOK_VERSION, is_like_any, look
from tinygptv.data.pictures.storing import PictureError, store_picture
from tinygptv.data.shards.shards import content_hash
from tinygptv.definitions.filters import Decontaminate
from tinygptv.definitions.source import AnnotationsSource, Download
from tinygptv.shapes.files import draw_corpus, draw_held_out, is_held_out
from tinygptv.store.artifacts import Manifest, Outcome, Store, artifact_name
from tinygptv.store.progress import Progress, reporting

logger = logging.getLogger(__name__)

PICTURES, TEXTS = "pictures.parquet", "texts.parquet"
_PICTURES = pa.schema(
    [("sha256", pa.string()), ("phash", pa.int64()), ("colours", pa.binary()), ("detail", pa.binary())]
)
_HASHES = "SELECT position, phash FROM rows WHERE phash IS NOT NULL AND NOT earlier"
_COMPARED_ROWS = 250_000
_AS_FETCHED = Download(min_side=1, max_aspect=1000.0)


def fingerprints(store: Store, name: str, source: AnnotationsSource) -> Manifest:
    """`fingerprints/<source>@<hash>`: hashes and look of every picture of a benchmark's source, and all its texts.

    Pictures that cannot be decoded are counted as dropped.
    """
    embedded = any(place.startswith("embedded:") for place in (*source.files.values(), source.images))
    draw = draw_held_out if is_held_out(source.images) else draw_corpus
    parents = [draw(store).artifact] if embedded else []
    about = source.model_dump(exclude={"about", "licence"})
    definition = {"source": about, "contents": contents_of(source), "look": LOOK_VERSION}

    def build(draft: Path) -> Outcome:
        samples = read_annotations(store, name, source, lambda: store.folder(draw(store).artifact)).samples
        texts = {
            text for one in samples for turn in one.turns for text in (turn.instruction, turn.answer, *one.answers)
        }
        pq.write_table(pa.table({"text": pa.array(sorted(texts), pa.string())}), draft / TEXTS)
        paths = sorted({image.path for one in samples for image in one.images})
        progress = Progress(f"fingerprints of {name}")
        with reporting(logger, progress.describe):
            looked_at = (_fingerprint(Path(path).read_bytes()) for path in progress.count("pictures", paths))
            rows = [row for row in looked_at if row is not None]
        pq.write_table(pa.Table.from_pylist(rows, _PICTURES), draft / PICTURES)
        drops = {"no_picture": len(paths) - len(rows)} if len(rows) < len(paths) else {}
        return Outcome(rows_in=len(paths), rows_out=len(rows), drops=drops, details={"texts": len(texts)})

    return store.make(
        artifact_name(f"fingerprints/{name}", definition, parents), "fingerprints", definition, parents, build
    )


def _fingerprint(body: bytes) -> dict[str, Any] | None:
    try:
        picture = store_picture(body, _AS_FETCHED)
    except PictureError:
        return None
    parts = {name: part.tobytes() for name, part in look(picture.jpeg)._asdict().items()}
    return {"sha256": content_hash(body), "phash": picture.phash, **parts}


class Contaminated(Fixed):
    """The rows that a benchmark holds too; `counts` says how many by their bytes, their look and their words."""

    def __init__(self, rows: Rows, step: Decontaminate, held_out: Sequence[Path]) -> None:
        """`held_out` are folders of `fingerprints`."""
        pictures = pa.concat_tables([_PICTURES.empty_table(), *(pq.read_table(each / PICTURES) for each in held_out)])
        found = {"bytes": _same_bytes(rows, pictures)}
        if step.within is not None:
            found["look"] = _same_look(rows, pictures, step.within)
        if step.words is not None:
            texts = [text for each in held_out for text in pq.read_table(each / TEXTS)["text"].to_pylist()]
            found["words"] = _same_words(rows, texts, step.words)
        self.counts = {how: len(positions) for how, positions in found.items()}
        super().__init__(np.unique(np.concatenate(list(found.values()))))


def _same_bytes(rows: Rows, pictures: pa.Table) -> Positions:
    rows.database.register("held_out", pictures)
    query = "SELECT position FROM rows WHERE {} IN (SELECT sha256 FROM held_out) AND NOT earlier"
    found = [rows.columns(query.format(column))["position"] for column in ("sha256", "content_sha256")]
    rows.database.unregister("held_out")
    return np.unique(np.concatenate(found))


def _same_look(rows: Rows, pictures: pa.Table, within: int) -> Positions:
    held_out = pictures["phash"].to_numpy().view(np.uint64)
    found = [(np.empty(0, np.int64), np.empty(0, np.uint64))]
    for batch in rows.batches(_HASHES, _COMPARED_ROWS):
        every = numbers(batch, "phash").view(np.uint64)
        is_near = near_any(every, held_out, within)
        found.append((numbers(batch, "position")[is_near], every[is_near]))
    positions, codes = map(np.concatenate, zip(*found, strict=True))
    colours, details = (
        np.frombuffer(b"".join(pictures[name].to_pylist()), np.uint8).reshape(-1, length)
        for name, length in (("colours", COLOURS_BYTES), ("detail", DETAIL_BYTES))
    )
    order = np.argsort(positions)
    is_same = []
    for code, image in zip(codes[order], rows.images(positions), strict=True):
        near = np.flatnonzero(np.bitwise_count(held_out ^ code) <= within)
        is_same.append(is_like_any(look(image), colours[near], details[near].__getitem__))
    return positions[order][np.array(is_same, np.bool_)]


def _same_words(rows: Rows, texts: list[str], words: int) -> Positions:
    phrases = Phrases(_successive(texts, words))
    found = [np.empty(0, np.int64)]
    for batch in rows.batches("SELECT position, caption FROM rows WHERE NOT earlier"):
        text, _ = phrases.find(batch["caption"])
        found.append(batch["position"].to_numpy()[np.unique(text)])
    return np.concatenate(found)


def _successive(texts: list[str], count: int) -> Iterator[str]:
    """Every run of `count` words of one text, `LETTERS_PER_WORD` letters counting as one in scripts without spaces.

    In those a text of half as many words is one run too: it has no articles, and as many letters say more.
    """
    found, owner = words_of(pa.array(texts, pa.string()))
    is_letter = pc.match_substring_regex(found, f"^{UNSPACED}").to_numpy(zero_copy_only=False)
    letters = np.concatenate([[0], np.cumsum(np.where(is_letter, 1, LETTERS_PER_WORD))])
    needed = count * LETTERS_PER_WORD
    last = np.searchsorted(owner, owner, side="right")  # where the text of each word ends
    ends = np.searchsorted(letters, letters[:-1] + needed)
    begins_text = np.diff(owner, prepend=-1) > 0
    is_short = begins_text & is_letter & (ends > last) & (letters[last] - letters[:-1] >= needed // 2)
    ends[is_short] = last[is_short]
    words = found.to_pylist()
    for first in np.flatnonzero(ends <= last).tolist():
        yield " ".join(words[first : ends[first]])
