"""Questions with short answers: VQA v2, OK-VQA, VizWiz, A-OKVQA, GQA, OCR-VQA; and VSR's statements."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field

from tinygptv.data.annotations.fields import Id, Number, Part, Record, RejectedError, Texts, as_number, missing
from tinygptv.data.annotations.images import with_folder
from tinygptv.data.annotations.records import ONE_FILE, Layout, Reading, begins_with, each, index
from tinygptv.sample import Sample, Turn

_OCRVQA_SPLITS = {1: "train", 2: "val", 3: "test"}


# VQA


class _Answer(Part):
    ignored = frozenset({"answer_confidence", "answer_id", "raw_answer"})

    answer: str


def _as_answers(given: Any) -> Any:
    """Convert a string or a list of strings to the answer objects that VQA publishes."""
    given = [given] if isinstance(given, str) else given
    return [{"answer": each} if isinstance(each, str) else each for each in given] if isinstance(given, list) else given


class _VqaQuestion(Part):
    ignored = frozenset({"image_id"})

    question_id: Id
    question: str


class _VqaRecord(Record):
    """An annotation of VQA v2, or a record that includes the question: OK-VQA as evaluated by MiniGPT-v2, VizWiz."""

    ignored = frozenset({"answer_type", "answerable"})
    needed = ("image",)

    answers: Annotated[list[_Answer], BeforeValidator(_as_answers)] = Field(
        validation_alias=AliasChoices("answers", "answer")
    )
    question_id: Id | None = None
    question: str | None = None
    image: str | None = None
    image_id: Id | None = None
    multiple_choice_answer: str | None = None
    question_type: str = ""


def _vqa_records(reading: Reading) -> Iterator[_VqaRecord | RejectedError]:
    """Either the official pair of files, or one file whose records include question and answers."""
    if "questions" not in reading.files:
        yield from reading.records(_VqaRecord)
        return
    questions = reading.member("questions", "questions", _VqaQuestion)
    asked, rejected = index(questions, lambda one: one.question_id, lambda one: one.question)
    yield from rejected

    def joined(record: _VqaRecord) -> _VqaRecord:
        record.question = asked.get(record.question_id or "")
        return record

    yield from each(reading.member("annotations", "annotations", _VqaRecord), joined)


def _vqa(record: _VqaRecord, reading: Reading) -> Sample:
    answers = _answers([given.answer for given in record.answers])
    turn = _turn(record.question, record.multiple_choice_answer or _commonest(answers))
    if record.image is not None:
        image = reading.images.find(*with_folder(record.image))
    elif record.image_id is None:
        raise missing(record, "image")
    elif (number := as_number(record.image_id)) is not None:
        image = reading.images.find_coco(number)
    else:
        image = reading.images.find(record.image_id)
    key = record.question_id or f"{record.image or record.image_id}/{record.question}"
    return Sample(key, (image,), (turn,), group=record.question_type, answers=answers)


# A-OKVQA


class _AokvqaRecord(Record):
    ignored = frozenset({"choices", "correct_choice_idx", "difficult_direct_answer", "rationales", "dataset"})

    question_id: Id
    image_id: Number
    question: str
    direct_answers: list[str] = Field(default_factory=list)  # the test split publishes none
    image: str | None = None


def _aokvqa(record: _AokvqaRecord, reading: Reading) -> Sample:
    answers = _answers(record.direct_answers)
    turn = _turn(record.question, _commonest(answers))
    names = with_folder(record.image) if record.image is not None else ()
    return Sample(record.question_id, (reading.images.find_coco(record.image_id, *names),), (turn,), answers=answers)


# GQA and OCR-VQA


@dataclass
class _Asked:
    """One question, whatever layout lists it."""

    key: str
    image: tuple[str, ...]
    question: str
    answers: list[str]
    split: str | None = None


class _GqaQuestion(Record):
    ignored = frozenset(
        (
            *("fullAnswer", "isBalanced", "groups", "types", "semantic", "semanticStr", "annotations"),
            *("entailed", "equivalent"),
        )
    )

    imageId: Id  # noqa: N815
    question: str
    answer: str


class _GqaListed(Record):
    ignored = frozenset({"dataset", "fullAnswer"})

    question_id: Id
    image: str
    question: str
    answer: Texts


def _gqa_records(reading: Reading) -> Iterator[_Asked | RejectedError]:
    """GQA's own object of questions by id, or the list that LAVIS made of it."""
    if begins_with(reading.files["annotations"], "["):
        yield from each(
            reading.records(_GqaListed),
            lambda one: _Asked(one.question_id, with_folder(one.image), one.question, one.answer, one.split),
        )
        return

    def asked(item: tuple[str, Any]) -> _Asked:
        one = reading.part(_GqaQuestion, item[1])
        return _Asked(item[0], (f"{one.imageId}.jpg",), one.question, [one.answer], one.split)

    yield from each(reading.members("annotations"), asked)


class _Book(Part):
    ignored = frozenset({"title", "authorName", "genre"})

    questions: list[str]
    answers: list[str]
    split: Literal[1, 2, 3]
    imageURL: str = ""  # noqa: N815


def _ocrvqa_records(reading: Reading) -> Iterator[_Asked | RejectedError]:
    """One record per question of a book; the cover is named after the book's id, with the extension of `imageURL`."""
    for book, content in reading.members("annotations"):
        try:
            given = reading.part(_Book, content)
            if len(given.questions) != len(given.answers):
                raise RejectedError("questions_and_answers_differ")
        except RejectedError as reason:
            yield reason
            continue
        names = (book + PurePosixPath(given.imageURL.partition("?")[0]).suffix, book)
        for number, (question, answer) in enumerate(zip(given.questions, given.answers, strict=True)):
            yield _Asked(f"{book}/{number}", names, question, [answer], _OCRVQA_SPLITS[given.split])


def _asked(record: _Asked, reading: Reading) -> Sample:
    answers = _answers(record.answers)
    turn = _turn(record.question, answers[0])
    return Sample(record.key, (reading.images.find(*record.image),), (turn,), answers=answers)


# VSR


class _Statement(Record):
    ignored = frozenset(
        (
            *("image_link", "annotator_id", "reference_frame", "subj", "obj"),
            *("vote_true_validator_id", "vote_false_validator_id"),
        )
    )

    image: str
    caption: str
    label: Literal[0, 1]
    relation: str = ""


def _statement(record: _Statement, reading: Reading) -> Sample:
    truth = ("false", "true")[record.label]
    key, image = f"{record.image}/{record.caption}", reading.images.find(record.image)
    return Sample(key, (image,), (Turn(record.caption, truth),), group=record.relation, answers=(truth,))


# Shared


def _turn(question: str | None, answer: str) -> Turn:
    if question is None or not question.strip():
        raise RejectedError("no_question")
    return Turn(question, answer)


def _answers(given: list[str]) -> tuple[str, ...]:
    """All answers including repeats, among which training draws."""
    answers = tuple(answer for answer in given if answer.strip())
    if not answers:
        raise RejectedError("empty_answer")
    return answers


def _commonest(answers: tuple[str, ...]) -> str:
    return Counter(answers).most_common(1)[0][0]


VQA = Layout(({"annotations", "questions"}, {"annotations"}), (_VqaRecord, _VqaQuestion), _vqa_records, _vqa)
AOKVQA = Layout(ONE_FILE, (_AokvqaRecord,), lambda reading: reading.records(_AokvqaRecord), _aokvqa)
GQA = Layout(ONE_FILE, (_GqaQuestion, _GqaListed), _gqa_records, _asked)
OCRVQA = Layout(ONE_FILE, (_Book,), _ocrvqa_records, _asked)
VSR = Layout(ONE_FILE, (_Statement,), lambda reading: reading.records(_Statement), _statement)
