"""What is said about scenes is true, what is asked has one answer, and words alone do not give it away."""

import random
from collections import Counter

import pytest

from tinygptv.shapes import language
from tinygptv.shapes.scenes import Scene, SceneObject, scene

SCENES = [scene("train", index) for index in range(200)]


def holds(picture: Scene, words: str) -> bool:
    """Whether a phrase like `small red circle` fits some object."""
    return any(set(words.split()) <= set(language.name(thing).split()) for thing in picture.objects)


def test_an_attribute_statement_is_true_exactly_when_it_says_so() -> None:
    for index, picture in enumerate(SCENES):
        for truth in (True, False):
            statement = language.attribute_statement(picture, random.Random(index), truth)
            claimed = statement.text.removeprefix("there is ").split(" ", 1)[1]
            assert holds(picture, claimed) == truth == statement.truth, statement


def test_a_false_attribute_statement_is_one_word_away_from_a_true_one() -> None:
    for index, picture in enumerate(SCENES):
        statement = language.attribute_statement(picture, random.Random(index), truth=False)
        claimed = statement.text.split()[3:]
        assert any(len(set(claimed) - set(language.name(thing).split())) == 1 for thing in picture.objects), statement


def test_a_count_statement_is_true_exactly_when_it_says_so() -> None:
    for index, picture in enumerate(SCENES):
        for truth in (True, False):
            words = language.count_statement(picture, random.Random(index), truth).text.split()
            number = language.NUMBERS.index(words[2].replace("no", "zero"))
            nouns = [language.plural(noun, number) for noun in ("shape", *language.CHOICES["kind"])]
            kinds = dict(zip(nouns, ("", *language.CHOICES["kind"]), strict=True))
            colour = words[3] if len(words) == 5 else ""
            matching = [o for o in picture.objects if colour in ("", o.colour) and kinds[words[-1]] in ("", o.kind)]
            assert (len(matching) == number) == truth, words


def test_a_spatial_statement_and_its_opposite_differ_in_truth() -> None:
    said = [language.spatial_statement(picture, random.Random(1), True) for picture in SCENES]
    assert all(one is None for one, picture in zip(said, SCENES, strict=True) if len(picture.objects) == 1)
    checked = 0
    for picture in SCENES:
        for truth in (True, False):
            statement = language.spatial_statement(picture, random.Random(2), truth)
            if statement is None:
                continue
            (relation,) = statement.claim
            first, second = statement.text.split(f" is {relation} the ")
            a, b = (one_that_fits(picture, words.removeprefix("the ")) for words in (first, second))
            real = {
                "left of": a.column < b.column,
                "right of": a.column > b.column,
                "above": a.row < b.row,
                "below": a.row > b.row,
            }[relation]
            assert real == truth, statement
            checked += 1
    assert checked > 200


def one_that_fits(picture: Scene, words: str) -> SceneObject:
    """The only object that has all these attributes."""
    fitting = [thing for thing in picture.objects if set(words.split()) <= set(language.name(thing).split())]
    assert len(fitting) == 1, (words, fitting)
    return fitting[0]


@pytest.mark.parametrize("kind", ["colour", "kind", "position"])
def test_a_question_about_an_object_fits_exactly_one_and_hides_its_answer(kind: str) -> None:
    for index, picture in enumerate(SCENES):
        question = language.ASKING[kind](picture, random.Random(index))
        if question is None:
            continue
        assert question.answer in language.ANSWERS[kind]
        assert kind == "position" or question.answer not in question.text.split()
        said = (
            question.text.rstrip("?").split(" the ", 1)[1].removeprefix("color of the ").removeprefix("shape of the ")
        )
        words = [word for word in said.split() if word in sum(language.CHOICES.values(), ())]
        if words:
            thing = one_that_fits(picture, " ".join(words))
            assert (
                question.answer == {"colour": thing.colour, "kind": thing.kind, "position": language.place(thing)}[kind]
            )


def test_count_questions_count() -> None:
    for index, picture in enumerate(SCENES):
        question = language.count_question(picture, random.Random(index))
        if "how many shapes" in question.text:
            assert question.answer == language.NUMBERS[len(picture.objects)]


def test_a_reference_fits_its_target_only() -> None:
    for index, picture in enumerate(SCENES):
        reference = language.reference(picture, random.Random(index))
        fitting = [
            thing
            for thing in picture.objects
            if set(reference.phrase.split()) <= {*language.name(thing).split(), *language.at_place(thing).split()}
        ]
        assert reference.target in fitting
        assert len(fitting) == 1 or " at the " in reference.phrase or " on the " in reference.phrase


def test_a_full_caption_names_every_object_and_place() -> None:
    for index, picture in enumerate(SCENES):
        parts = set(language.full_caption(picture, random.Random(index)).split(", "))
        assert parts == {f"a {language.name(thing)} {language.at_place(thing)}" for thing in picture.objects}


def test_conversations_ask_different_things() -> None:
    for index, picture in enumerate(SCENES):
        texts = [question.text for question in language.conversation(picture, random.Random(index))]
        assert 2 <= len(texts) <= 3
        assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("kind", sorted(language.ASKING))
def test_balanced_questions_have_every_answer_equally_often(kind: str) -> None:
    asked = [question for _, question in language.balanced_questions(kind, "heldout", 180)]
    for aspect in {question.aspect for question in asked}:
        counts = Counter(question.answer for question in asked if question.aspect == aspect)
        assert max(counts.values()) - min(counts.values()) <= 2
        assert aspect == "all" or len(counts) == len(language.ANSWERS[kind])


@pytest.mark.parametrize("kind", sorted(language.STATING))
def test_balanced_statements_claim_the_same_things_truly_and_falsely(kind: str) -> None:
    said = [statement for _, statement in language.balanced_statements(kind, "heldout", 168)]
    assert Counter(statement.truth for statement in said) == {True: 84, False: 84}
    claims = Counter((statement.claim, statement.truth) for statement in said)
    assert all(abs(claims[claim, True] - claims[claim, False]) <= 2 for claim, _ in claims)


def test_balanced_samplers_repeat_and_differ_by_seed() -> None:
    first, again, other = (
        [question.text for _, question in language.balanced_questions("colour", "train", 30, seed)]
        for seed in (0, 0, 1)
    )
    assert first == again != other
