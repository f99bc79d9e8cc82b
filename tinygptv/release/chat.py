"""One picture, one question, one answer."""

from pathlib import Path

from tinygptv.errors import DataError
from tinygptv.sample import ImageReference, Sample, Turn

MAX_NEW_TOKENS = 96


def answer(folder: Path, image_path: Path, question: str) -> str:
    """What the released model in `folder` says. Task tags such as `[vqa]` or `[refer]` may begin the question.

    Raises DataError if folder, picture or question cannot be used.
    """
    from tinygptv.release.answering import answer_all
    from tinygptv.release.folder import load_release

    if not image_path.is_file():
        raise DataError(f"{image_path}: no such picture")
    try:
        question.encode()
    except UnicodeEncodeError:
        raise DataError(f"the question {question!r} is not UTF-8; write it in UTF-8") from None
    sample = Sample("chat", (ImageReference(str(image_path), upright=True),), (Turn(question, ""),))
    (said,) = answer_all(load_release(folder), [sample], "conversation", MAX_NEW_TOKENS)
    if isinstance(said, DataError):
        raise said
    return said
