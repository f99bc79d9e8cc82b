"""Addresses that no redirect may lead to: those an earlier answer put out of reach for good, and those to be forgotten.

There may be millions, so they are kept as hashes.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tinygptv.data.columns.urls import host_of
from tinygptv.definitions.reasons import FORGOTTEN

_FILE = "refusals.npz"


class Refusals:
    """Says of an address why it must not be asked for, or None."""

    def __init__(self, hashes: NDArray[np.uint64], reasons: NDArray[np.str_], domains: frozenset[str]) -> None:
        order = np.argsort(hashes)
        self._hashes, self._reasons, self._domains = hashes[order], reasons[order], domains

    @classmethod
    def of(cls, addresses: Iterable[tuple[str, str]], domains: Iterable[str] = ()) -> Self:
        """From (address, reason) pairs, and domains of which everything is to be forgotten."""
        listed = list(addresses)
        hashes = np.array([_hash(address) for address, _ in listed], np.uint64)
        return cls(hashes, np.array([reason for _, reason in listed], "U32"), frozenset(domains))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What lies in an engine's folder; nothing is refused without it."""
        path = folder / _FILE
        if not path.exists():
            return cls.of([])
        with np.load(path) as stored:
            return cls(stored["hashes"], stored["reasons"], frozenset(stored["domains"].tolist()))

    def write(self, folder: Path) -> None:
        """Put it into an engine's folder, complete or absent."""
        partial = folder / f"partial-{_FILE}"
        domains = np.array(sorted(self._domains), "U253")
        np.savez(partial, hashes=self._hashes, reasons=self._reasons, domains=domains)
        partial.rename(folder / _FILE)

    def __call__(self, address: str) -> str | None:
        wanted = _hash(address)
        place = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        if place < len(self._hashes) and int(self._hashes[place]) == wanted:
            return str(self._reasons[place])
        labels = host_of(address).split(".")
        suffixes = (".".join(labels[start:]) for start in range(len(labels)))
        return FORGOTTEN if self._domains and any(suffix in self._domains for suffix in suffixes) else None


def _hash(address: str) -> int:
    digest = hashlib.blake2b(address.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
