"""One picture, one question, one answer."""

from pathlib import Path

from tinygptv.errors import DataError
from tinygptv.sample import ImageReference, Sample, Turn

MAX_NEW_TOKENS = 96


def answer(folder: Path, image_path: Path, question: str) -> str:
    """What the released model in `folder` says. Task tags such as `[vqa]` or `[refer]` may begin the question.

    Raises DataError if folder or picture cannot be used.
    """
    from tinygptv.evaluate.answers import answer_all
    from tinygptv.release.folder import load_release

    if not image_path.is_file():
        raise DataError(f"{image_path}: no such picture")
    sample = Sample("chat", (ImageReference(str(image_path), upright=True),), (Turn(question, ""),))
    (said,) = answer_all(load_release(folder), [sample], "conversation", MAX_NEW_TOKENS)
    if isinstance(said, DataError):
        raise said
    return said
