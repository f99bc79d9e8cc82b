"""Questions with short answers: VQA v2 and OK-VQA, A-OKVQA, GQA, OCR-VQA; and VSR's statements."""

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from tinygptv.data.annotations.images import ImageFolder
from tinygptv.data.annotations.records import (
    ONE_FILE,
    Files,
    Layout,
    Record,
    RejectedError,
    begins_with,
    each,
    index,
    member,
    members,
    records,
)
from tinygptv.sample import Sample, Turn

_OCRVQA_SPLITS = {1: "train", 2: "val", 3: "test"}


def _vqa_records(files: Files) -> Iterator[Record | RejectedError]:
    """Either the official pair of files, or one file whose records hold question and answers together."""
    if "questions" not in files:
        yield from records(files)
        return
    asked, rejected = index(member(files["questions"], "questions"), "question_id", lambda item: item["question"])
    yield from rejected
    yield from each(
        member(files["annotations"], "annotations"),
        lambda annotation: {**annotation, "question": asked.get(annotation["question_id"])},
    )


def _vqa(record: Record, images: ImageFolder) -> Sample:
    given = record["answers"] if "answers" in record else record["answer"]
    answers = _answers([answer["answer"] if isinstance(answer, dict) else answer for answer in given])
    turn = _turn(record["question"], record.get("multiple_choice_answer") or _commonest(answers))
    image = images.find_coco(record["image_id"]) if "image" not in record else images.find(*_names(record["image"]))
    return Sample(str(record["question_id"]), (image,), (turn,), group=record.get("question_type", ""), answers=answers)


def _aokvqa(record: Record, images: ImageFolder) -> Sample:
    question = record["question"]
    answers = _answers(record.get("direct_answers") or [])  # the test split publishes none
    turn = _turn(question, _commonest(answers))
    image = images.find_coco(record["image_id"], *(_names(record["image"]) if "image" in record else ()))
    return Sample(str(record["question_id"]), (image,), (turn,), answers=answers)


def _gqa_records(files: Files) -> Iterator[Record | RejectedError]:
    """GQA's own object of questions by id, or the list that LAVIS made of it."""
    path = files["annotations"]
    if begins_with(path, "["):
        yield from records(files)
        return
    yield from each(
        members(path), lambda item: {**item[1], "question_id": item[0], "image": f"{item[1]['imageId']}.jpg"}
    )


def _gqa(record: Record, images: ImageFolder) -> Sample:
    given = record["answer"]
    answers = _answers([given] if isinstance(given, str) else given)
    image = images.find(*_names(record["image"]))
    return Sample(str(record["question_id"]), (image,), (_turn(record["question"], answers[0]),), answers=answers)


def _ocrvqa_records(files: Files) -> Iterator[Record | RejectedError]:
    """One record per question of a book; `imageURL` says what its cover, named by the book's id, ends in."""
    for book, record in members(files["annotations"]):
        try:
            image = book + PurePosixPath(record["imageURL"]).suffix
            split, asked = _OCRVQA_SPLITS[record["split"]], zip(record["questions"], record["answers"], strict=True)
            yield from (
                {"key": f"{book}/{number}", "image": image, "split": split, "question": question, "answer": answer}
                for number, (question, answer) in enumerate(asked)
            )
        except (KeyError, TypeError, ValueError):
            yield RejectedError("malformed_record")


def _ocrvqa(record: Record, images: ImageFolder) -> Sample:
    turn = _turn(record["question"], record["answer"])
    return Sample(record["key"], (images.find(record["image"]),), (turn,), answers=(record["answer"],))


def _statement(record: Record, images: ImageFolder) -> Sample:
    truth = {0: "false", 1: "true"}[record["label"]]
    key = f"{record['image']}/{record['caption']}"
    turn = Turn(record["caption"], truth)
    return Sample(key, (images.find(record["image"]),), (turn,), group=record["relation"], answers=(truth,))


def _names(image: str) -> tuple[str, str]:
    """Lists name images with folders that people who keep only one of them leave out."""
    return image, image.rpartition("/")[2]


def _turn(question: str | None, answer: str) -> Turn:
    if question is None or not question.strip():
        raise RejectedError("no_question")
    return Turn(question, answer)


def _answers(given: list[str]) -> tuple[str, ...]:
    """As often as annotators gave them; training draws among them."""
    answers = tuple(answer for answer in given if answer.strip())
    if not answers:
        raise RejectedError("empty_answer")
    return answers


def _commonest(answers: tuple[str, ...]) -> str:
    return Counter(answers).most_common(1)[0][0]


VQA = Layout(({"annotations", "questions"}, {"annotations"}), _vqa_records, _vqa)
AOKVQA = Layout(ONE_FILE, records, _aokvqa)
GQA = Layout(ONE_FILE, _gqa_records, _gqa)
OCRVQA = Layout(ONE_FILE, _ocrvqa_records, _ocrvqa)
VSR = Layout(ONE_FILE, records, _statement)
