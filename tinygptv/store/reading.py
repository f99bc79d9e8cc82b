"""A store to ask what would be made, without making it."""

from collections.abc import Callable
from typing import Any

from tinygptv.store.artifacts import Manifest, Outcome, Store


class ReadingStore(Store):
    """A store that makes nothing: for an absent artifact it calls `missing` with name, definition and parents."""

    def __init__(self, workdir: str, missing: Callable[[str, dict[str, Any], list[str]], Manifest]) -> None:
        super().__init__(workdir)
        self._missing = missing

    def make(
        self,
        artifact: str,
        made_by: str,
        definition: dict[str, Any],
        parents: list[str],
        build: Callable[..., Outcome],
    ) -> Manifest:
        """The manifest if the artifact is complete, else whatever `missing` answers; never builds."""
        return self.find(artifact) or self._missing(artifact, definition, parents)

    def update(self, document: str, change: Callable[[str | None], str]) -> None:
        """Leave the document as it is."""
