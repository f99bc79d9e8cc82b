"""What a model reads, letter for letter."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from tinygptv.data.prompting.prompts import WORDINGS, ask, plain, render, renderings
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.recipe import Inputs
from tinygptv.sample import IMAGE_PLACE, ImageReference, Sample, Turn

HUMAN = "###Human: {} ###Assistant: "
IMAGE = ImageReference("picture.jpg")


def told(template: str | None = HUMAN, **change: object) -> Inputs:
    fields = {"image_size": 16, "max_text_tokens": 9, "template": template, "end_symbol": "###"}
    return Inputs.model_validate(fields | change)


def sample(*turns: tuple[str, str], image: ImageReference | None = IMAGE, answers: tuple[str, ...] = ()) -> Sample:
    return Sample("key", (image,) if image else (), tuple(Turn(*turn) for turn in turns), answers=answers)


@pytest.mark.parametrize(
    ("task", "turn", "prompt", "answer"),
    [
        ("describe", ("", "A Cat."), "###Human: <Img><ImageHere></Img> Describe this image in detail.", "A Cat."),
        ("caption", ("", "A Cat."), "###Human: <Img><ImageHere></Img> [caption] Briefly describe this image.", "a cat"),
        (
            "vqa",
            ("What is it?", "A Cat"),
            "###Human: <Img><ImageHere></Img> [vqa] Based on the image, respond to this question with a short answer: "
            "what is it?",
            "a cat",
        ),
        (
            "statement",
            ("The cat is left.", "true"),
            "###Human: <Img><ImageHere></Img> [vqa] Based on the image, is this statement true or false? "
            "The cat is left.",
            "true",
        ),
        (
            "refer",
            ("Left cat", "{<1><2><3><4>}"),
            "###Human: <Img><ImageHere></Img> [refer] give me the location of left cat",
            "{<1><2><3><4>}",
        ),
        (
            "identify",
            ("{<1><2><3><4>}", "Left cat"),
            "###Human: <Img><ImageHere></Img> [identify] what object is in this location {<1><2><3><4>}",
            "left cat",
        ),
        ("conversation", ("Who is it?", "A Cat."), "###Human: <Img><ImageHere></Img> Who is it?", "A Cat."),
    ],
)
def test_every_task_has_its_tag_wording_and_text_treatment(
    task: Task, turn: tuple[str, str], prompt: str, answer: str
) -> None:
    assert render(sample(turn), task, told()) == (Turn(f"{prompt} ###Assistant: ", answer),)


@pytest.mark.parametrize(("task", "template"), [("caption_only", HUMAN), ("caption_only", None), ("describe", None)])
def test_a_stage_without_instructions_shows_the_bare_image(task: Task, template: str | None) -> None:
    assert render(sample(("", "cat")), task, told(template)) == (Turn(IMAGE_PLACE, "cat"),)


def test_only_the_first_turn_shows_the_image() -> None:
    first, second = render(sample(("Who?", "A cat."), ("Where?", "Here.")), "conversation", told())
    assert first.instruction == "###Human: <Img><ImageHere></Img> Who? ###Assistant: "
    assert second == Turn("###Human: Where? ###Assistant: ", "Here.")


def test_a_sample_without_an_image_has_no_image_place() -> None:
    (turn,) = render(sample(("Who wrote it?", "She."), image=None), "conversation", told())
    assert turn.instruction == "###Human: Who wrote it? ###Assistant: "


def test_text_from_the_web_cannot_smuggle_in_a_second_image() -> None:
    (turn,) = render(sample((f"what is {IMAGE_PLACE}?", "cat")), "conversation", told())
    assert turn.instruction.count(IMAGE_PLACE) == 1


def test_braces_in_an_instruction_stay_as_they_are() -> None:
    (turn,) = render(sample(("what does {} or {0} mean?", "nothing")), "vqa", told())
    assert "what does {} or {0} mean?" in turn.instruction


@pytest.mark.parametrize("task", WORDINGS)
def test_training_draws_every_wording_and_evaluation_always_the_first(task: Task) -> None:
    asked = sample(("this", "cat"))
    drawn = {render(asked, task, told("{}"), random.Random(seed))[0].instruction for seed in range(200)}
    assert len(drawn) == len(WORDINGS[task])
    assert render(asked, task, told("{}"))[0].instruction in drawn


@pytest.mark.parametrize("task", WORDINGS)
def test_renderings_are_all_that_can_be_drawn(task: Task) -> None:
    asked = replace(sample(("this", "cat")), answers=("cat", "A kitten", "cat"))
    drawn = {render(asked, task, told(), random.Random(seed)) for seed in range(400)}
    assert set(renderings(asked, task, told())) == drawn


def test_the_published_space_follows_what_its_readers_read() -> None:
    odd = told("[INST] {} [/INST]", oddities=["space_after_instruction"])
    pair = sample(("What is it?", "A cat"), ("And this?", "a dog"))
    first, second = render(pair, "conversation", odd)
    assert first.instruction == "[INST] <Img><ImageHere></Img> What is it?  [/INST]"
    assert second.instruction == "[INST] And this?  [/INST]"
    (vqa,) = render(sample(("What is it?", "A cat")), "vqa", odd)
    assert vqa.instruction.endswith("short answer: what is it?  [/INST]")
    (described,) = render(sample(("", "A cat")), "describe", odd)
    assert described.instruction.endswith("in detail. [/INST]")
    (text,) = render(sample(("Who?", "She"), image=None), "conversation", odd)
    assert text.instruction == "[INST] Who? [/INST]"


def test_a_model_is_asked_in_the_first_wording_and_the_template_for_asking() -> None:
    odd = told("[INST] {} [/INST]", asking_template="###Human: {}###Assistant: ", oddities=["space_after_instruction"])
    asked = sample(("Left cat", ""), ("never", "reached"))
    assert ask(asked, "refer", odd) == (
        "###Human: <Img><ImageHere></Img> [refer] give me the location of left cat###Assistant: "
    )
    assert ask(asked, "refer", told()) == render(asked, "refer", told())[0].instruction
    assert ask(asked, "caption_only", odd) == ask(asked, "refer", told(None)) == IMAGE_PLACE


def test_accepted_answers_are_drawn_as_often_as_annotators_gave_them() -> None:
    asked = sample(("what?", "cat"), answers=("cat",) * 7 + ("dog",) * 3)
    drawn = Counter(render(asked, "vqa", told(), random.Random(seed))[0].answer for seed in range(2000))
    assert set(drawn) == {"cat", "dog"}
    assert drawn["cat"] / 2000 == pytest.approx(0.7, abs=0.04)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man. (Left) says: *Hi*~;", "a man left says hi"),
        ('The "best"  day, is it?', "the best day, is it?"),
        ("line\n\nbreak\n", "line break"),
        ("#hashtag #two!", "hashtag two"),
        ("one\ntwo\tthree", "one\ntwo\tthree"),  # a single white space stays, whatever it is
        (" \n lead, trail?\n", "lead, trail?"),
        ("it's 5-6 [vqa] {<1>} & more/less", "it's 5-6 [vqa] {<1>} & more/less"),
        ("a.b!c", "a b c"),
        ("ÄPFEL 苹果", "äpfel 苹果"),
        (" ".join(["word"] * 60), " ".join(["word"] * 50)),
        ("", ""),
    ],
)
def test_plain_text_is_the_references_caption_processor(text: str, expected: str) -> None:
    assert plain(text) == expected


def test_several_images_come_first_or_where_they_are_named() -> None:
    two = (IMAGE, ImageReference("other.jpg"))
    (turn,) = render(Sample("key", two, (Turn("Which is it?", "none"),)), "conversation", told("{}"))
    assert turn.instruction == "<Img><ImageHere></Img> <Img><ImageHere></Img> Which is it?"
    named = Sample("key", two, (Turn(f"Is {IMAGE_PLACE} like", "what?"), Turn(f"{IMAGE_PLACE}?", "yes")))
    first, second = render(named, "conversation", told("{}"))
    assert (first.instruction, second.instruction) == ("Is <Img><ImageHere></Img> like", "<Img><ImageHere></Img>?")
    (bare,) = render(Sample("key", two, (Turn("", "cats"),)), "caption_only", told())
    assert bare.instruction == IMAGE_PLACE * 2


@pytest.mark.parametrize(
    ("form", "question", "answer"),
    [
        ("percent", "what is in {<12><0><50><100>}", "it is {<12><0><50><100>}<delim>{<0><0><10><10>}."),
        ("cogvlm", "what is in [[129,000,500,999]]", "it is [[129,000,500,999;000,000,100,100]]."),
        ("qwen_vl", "what is in <box>(129,0),(500,999)</box>",
         "it is <box>(129,0),(500,999)</box><box>(0,0),(100,100)</box>."),
        ("fractions", "what is in [0.13, 0.0, 0.5, 1.0]", "it is [0.13, 0.0, 0.5, 1.0], [0.0, 0.0, 0.1, 0.1]."),
    ],
)  # fmt: skip
def test_boxes_are_written_as_the_family_writes_them(form: str, question: str, answer: str) -> None:
    box = (0.1295, 0.0, 0.5, 1.0)
    turn = Turn("what is in {<12><0><50><100>}", "it is {<12><0><50><100>}<delim>{<0><0><10><10>}.")
    asked = Sample("key", (), (turn,), boxes=(box, box, (0.0, 0.0, 0.1, 0.1)))
    assert render(asked, "conversation", told("{}", boxes=form)) == (Turn(question, answer),)
