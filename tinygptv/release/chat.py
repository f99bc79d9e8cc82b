"""One image, one question, one answer."""

from pathlib import Path

from tinygptv.errors import DataError
from tinygptv.sample import ImageReference, Sample, Turn

MAX_NEW_TOKENS = 96


def answer(folder: Path, image_path: Path, question: str) -> str:
    """Ask the released model in `folder`. The question may begin with a task tag such as `[vqa]` or `[refer]`.

    Raises DataError if the folder, image or question is unusable.
    """
    from tinygptv.release.answering import answer_all
    from tinygptv.release.folder import load_release

    if not image_path.is_file():
        raise DataError(f"{image_path}: no such image")
    try:
        question.encode()
    except UnicodeEncodeError:
        raise DataError(f"the question {question!r} is not valid UTF-8") from None
    sample = Sample("chat", (ImageReference(str(image_path), upright=True),), (Turn(question, ""),))
    (reply,) = answer_all(load_release(folder), [sample], "conversation", MAX_NEW_TOKENS)
    if isinstance(reply, DataError):
        raise reply
    return reply
