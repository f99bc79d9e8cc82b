"""Tombstones: requests to forget samples, each written down once and never taken away.

One names an address, a domain, a content hash, a pattern of captions, or an image file of an annotated set. It works in
two places: readers of finished mixtures mask what it names, at once; and whatever is made later leaves it out, counted
as `forgotten`. A run that is under way keeps the data it began with, masked; so what is made for a run says how many
tombstones it knew: `first`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tinygptv.data.columns.urls import host_of, normalise_url
from tinygptv.errors import DefinitionError
from tinygptv.store.artifacts import Store

TOMBSTONES = "tombstones.jsonl"
Kind = Literal["url", "domain", "sha256", "caption", "image"]


class Tombstone(BaseModel):
    """One request. `caption` is a regular expression (RE2), `domain` covers its subdomains, `sha256` is of the image as
    served or as stored, `image` the end of the path of an annotated image."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Kind
    value: str = Field(min_length=1)
    why: str = Field(min_length=1)
    created: str


def tombstone(kind: Kind, value: str, why: str) -> Tombstone:
    """A request of now, in its one spelling. Raises DefinitionError if it cannot be meant."""
    spelling = {"url": normalise_url, "domain": _domain, "sha256": _sha256, "caption": _pattern, "image": _image}
    spelled = spelling[kind](value)
    if not why.strip():
        raise DefinitionError("forget: say why, so that others can tell later; --why 'asked for by the owner'")
    return Tombstone(kind=kind, value=spelled, why=why.strip(), created=datetime.now(UTC).isoformat(timespec="seconds"))


def tombstones(store: Store, first: int | None = None) -> list[Tombstone]:
    """All tombstones of a workdir in the order they came, or only the `first` ones."""
    lines = (store.read(TOMBSTONES) or "").splitlines()
    return [Tombstone.model_validate_json(line) for line in lines[:first]]


def bury(store: Store, added: Tombstone) -> int:
    """Write a tombstone down; how many there are now. One that says the same as an earlier one is not repeated."""

    def append(text: str | None) -> str:
        known = [Tombstone.model_validate_json(line) for line in (text or "").splitlines()]
        if any((one.kind, one.value) == (added.kind, added.value) for one in known):
            return text or ""
        return f"{text or ''}{added.model_dump_json()}\n"

    store.update(TOMBSTONES, append)
    return len(tombstones(store))


def caption_patterns(wanted: Iterable[Tombstone]) -> list[str]:
    """The patterns among tombstones; they and `image_endings` are all that can name a sample without address."""
    return [one.value for one in wanted if one.kind == "caption"]


def image_endings(wanted: Iterable[Tombstone]) -> tuple[str, ...]:
    """What the places of annotated images end with that tombstones name, each a whole file name or more.

    A place is `/root/path`, in which the colon of a root such as `data:coco` counts as a slash as well.
    """
    return tuple(f"/{one.value}".replace(":", "/") for one in wanted if one.kind == "image")


def matching_texts(texts: Sequence[str], patterns: Iterable[str]) -> NDArray[np.bool_]:
    """Which texts have one of the patterns somewhere; Arrow and DuckDB read patterns alike."""
    column = pa.array(texts, pa.string())
    found = np.zeros(len(texts), dtype=np.bool_)
    for pattern in patterns:
        found |= np.asarray(pc.match_substring_regex(column, pattern), dtype=np.bool_)
    return found


def _domain(value: str) -> str:
    domain = value.strip().strip(".")
    spelled = host_of(f"http://{domain}/")
    if not domain or not spelled or any(sign in domain for sign in "/:@?#\\"):
        raise DefinitionError(f"forget: '{value}' is no domain; write it like example.org, without scheme or path")
    return spelled


def _sha256(value: str) -> str:
    digest = value.strip().lower()
    if len(digest) != hashlib.sha256().digest_size * 2 or set(digest) - set("0123456789abcdef"):
        raise DefinitionError(f"forget: '{value}' is no SHA-256; it has 64 hexadecimal digits")
    return digest


def _image(value: str) -> str:
    path = value.strip().lstrip("/")
    if not path or path.endswith("/") or "\n" in path:
        raise DefinitionError(f"forget: '{value}' is no image file; write the end of its path, as val2014/000042.jpg")
    return path


def _pattern(value: str) -> str:
    try:
        matches_all = matching_texts([""], [value]).all()
    except pa.ArrowInvalid as error:
        raise DefinitionError(f"forget: the pattern '{value}' cannot be read: {error}") from error
    if matches_all:
        raise DefinitionError(f"forget: the pattern '{value}' matches every caption; be more precise")
    return value
