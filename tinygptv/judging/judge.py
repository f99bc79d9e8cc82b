"""What every scorer does: pictures and captions in, columns out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class Judge(ABC):
    """A scorer with its weights loaded."""

    @abstractmethod
    def score(self, images: Sequence[bytes], captions: Sequence[str]) -> dict[str, Any]:
        """Columns of a scores table by name, one value per pair; those that are not there stay NULL.

        Raises DataError for an image that does not decode.
        """
