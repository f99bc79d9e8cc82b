"""Samples as a model sees them: every token of a step, learned or not, and the boxes on the pictures."""

import base64
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from PIL import ImageDraw, ImageOps
from transformers import PreTrainedTokenizerFast

from tinygptv import pages
from tinygptv.data.batches.batching import Drawn, Loader
from tinygptv.data.pictures.pixels import open_picture, read_bytes
from tinygptv.data.prompting.boxes import Box
from tinygptv.data.prompting.sequences import Texts
from tinygptv.errors import DataError, StorageError
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT, ImageReference

logger = logging.getLogger(__name__)

Kind = Literal["image", "masked", "learned"]

_ANSI: dict[Kind, str] = {"image": "\x1b[36m", "masked": "\x1b[2m", "learned": "\x1b[1;32m"}
_ANSI_END = "\x1b[0m"
_MARK: dict[Kind, tuple[str, str]] = {"image": ("<", ">"), "masked": ("", ""), "learned": ("«", "»")}
_BOX_COLOUR = "#e8730c"
_SIDE = 320


@dataclass(frozen=True)
class Piece:
    """Neighbouring tokens that are treated alike, as text with ⏎ for line breaks; of an image, how many there are."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Shown:
    """One sample of a step: where it comes from, what it was asked as, and all its tokens."""

    source: str
    task: str
    key: str
    pieces: list[Piece]
    images: tuple[ImageReference, ...]
    boxes: tuple[Box, ...]


def samples_of(loader: Loader, steps: Iterator[int], tokenizer: PreTrainedTokenizerFast) -> Iterator[Shown]:
    """The samples of some steps, in order, as training reads them."""
    for step in steps:
        drawn = loader.drawn(step, range(loader.batch_size(step)))
        for one in drawn:
            texts = loader.collator.sequences.training([one.turns])
            yield _shown(one, pieces(texts, tokenizer))


def _shown(drawn: Drawn, found: list[Piece]) -> Shown:
    sample = drawn.sample
    return Shown(sample.source, drawn.task, sample.key, found, sample.images, sample.boxes)


def pieces(texts: Texts, tokenizer: PreTrainedTokenizerFast) -> list[Piece]:
    """The first sequence of a batch, cut where the treatment of its tokens changes."""
    shown = int(texts.attention_mask[0].nonzero()[-1]) + 1
    ids, labels = texts.input_ids[0, :shown].tolist(), texts.labels[0, :shown].tolist()
    found = []
    for kind, run in groupby(zip(ids, labels, strict=True), key=lambda token: _kind(*token)):
        run_ids = [token for token, _ in run]
        image = kind == "image"
        text = f"{len(run_ids)} image tokens" if image else _in_one_line(str(tokenizer.decode(run_ids)))
        found.append(Piece(kind, text))
    return found


def _kind(token: int, label: int) -> Kind:
    if token == IMAGE_SLOT:
        return "image"
    return "masked" if label == IGNORE_INDEX else "learned"


def _in_one_line(text: str) -> str:
    return text.replace("\n", "⏎")


def line(shown: Shown, coloured: bool) -> str:
    """One sample for a terminal. Masked text is dim and learned text green, or in «», where there are no colours."""
    parts = []
    for piece in shown.pieces:
        before, after = _MARK[piece.kind]
        text = piece.text if coloured and piece.kind != "image" else f"{before}{piece.text}{after}"
        parts.append(f"{_ANSI[piece.kind]}{text}{_ANSI_END}" if coloured else text)
    return f"{shown.source} {shown.task} {_in_one_line(shown.key)}\n    {''.join(parts)}"


def write_gallery(path: Path, title: str, samples: list[Shown]) -> None:
    """All samples as one HTML page, every box drawn on the first image of its sample."""
    pictures = [
        [_picture(image, shown.key, shown.boxes if not place else ()) for place, image in enumerate(shown.images)]
        for shown in samples
    ]
    page = pages.render(__name__, "samples.html.j2", title=title, rows=list(zip(samples, pictures, strict=True)))
    path.write_text(page, encoding="utf-8")


def _picture(image: ImageReference, key: str, boxes: tuple[Box, ...]) -> str | None:
    """A `data:` address of a JPEG, at most 320 px wide and high; None for what cannot be decoded."""
    try:
        whole = open_picture(read_bytes(image, key), f"{image.path}, {key}")
    except StorageError:
        raise
    except DataError as error:
        logger.warning("not shown: %s", error)
        return None
    small = ImageOps.contain(whole, (_SIDE, _SIDE))
    pen = ImageDraw.Draw(small)
    for x0, y0, x1, y1 in boxes:
        corners = (x0 * small.width, y0 * small.height, x1 * (small.width - 1), y1 * (small.height - 1))
        pen.rectangle(corners, outline="black", width=4)
        pen.rectangle(corners, outline=_BOX_COLOUR, width=2)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
