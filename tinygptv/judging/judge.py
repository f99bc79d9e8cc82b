"""What every scorer does: pictures and captions in, columns out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from tinygptv.definitions.scorer import Blip2Scorer, OpenClipScorer


class Judge(ABC):
    """A scorer with its weights loaded."""

    @abstractmethod
    def score(self, images: Sequence[bytes], captions: Sequence[str]) -> dict[str, Any]:
        """Columns of a scores table by name, one value per pair; those that are not there stay NULL.

        Raises DataError for an image that does not decode.
        """


def open_judge(scorer: Blip2Scorer | OpenClipScorer) -> Judge:
    """Load what the definition names. Raises SetupError if the library it needs is not installed."""
    match scorer:
        case Blip2Scorer():
            from tinygptv.judging.blip2 import Blip2Judge

            return Blip2Judge(scorer)
        case OpenClipScorer():
            from tinygptv.judging.open_clip import OpenClipJudge

            return OpenClipJudge(scorer)
