"""A scorer's definition → the judge it names, with its weights loaded."""

from tinygptv.definitions.scorer import Blip2Scorer, OpenClipScorer
from tinygptv.judging.judge import Judge


def open_judge(scorer: Blip2Scorer | OpenClipScorer) -> Judge:
    """Load what the definition names. Raises SetupError if the library it needs is not installed."""
    match scorer:
        case Blip2Scorer():
            from tinygptv.judging.blip2 import Blip2Judge

            return Blip2Judge(scorer)
        case OpenClipScorer():
            from tinygptv.judging.open_clip import OpenClipJudge

            return OpenClipJudge(scorer)
