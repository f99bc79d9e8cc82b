"""Conversations as people write them: other names for the same things, turns out of order, marks without images."""

from pathlib import Path
from typing import Any

import pytest

from tests.data.annotations.made import read, talk
from tinygptv.sample import Turn
from tinygptv.store.artifacts import Store

ASKED = [Turn("What is it?", "A dog.")]
CHAT = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A dog."}]
PIECES = [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]


@pytest.mark.parametrize(
    "record",
    [
        talk("<image>\nWhat is it?", "A dog.", image=["1.jpg"]),
        talk("<image>\nWhat is it?", "A dog.", images=["1.jpg"]),
        talk("<image>\nWhat is it?", "A dog.", images="1.jpg"),
        talk("<image>\nWhat is it?", "A dog.", image=None, images=["1.jpg"]),
        talk("<IMAGE>\nWhat is it?", "A dog.", image="1.jpg"),
        talk("<Img><ImageHere></Img> What is it?", "A dog.", image="1.jpg"),
        {"messages": CHAT, "images": ["1.jpg"]},
        {"conversations": CHAT, "image": "1.jpg"},
        {"messages": [{"role": "user", "content": PIECES}, CHAT[1]], "images": ["1.jpg"]},
        {"query": "<image>What is it?", "response": "A dog.", "images": ["1.jpg"], "videos": [], "history": None},
        {"conversations": [{"from": "User", "value": "What is it?"}, {"from": "ASSISTANT", "value": "A dog."}]}
        | {"image": "1.jpg"},
    ],
)
def test_the_same_record_under_other_names_is_the_same_sample(
    store: Store, tmp_path: Path, record: dict[str, Any]
) -> None:
    (sample,) = read(store, tmp_path, "llava_conversation", record).samples
    assert ([*sample.turns], [Path(image.path).name for image in sample.images]) == (ASKED, ["1.jpg"])


def test_a_history_comes_before_the_query(store: Store, tmp_path: Path) -> None:
    record = {"query": "q3", "response": "a3", "history": [["q1", "a1"], ["q2", "a2"]], "system": "Be polite."}
    (sample,) = read(store, tmp_path, "llava_conversation", record).samples
    assert sample.turns == (Turn("Be polite.\nq1", "a1"), Turn("q2", "a2"), Turn("q3", "a3"))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"messages": CHAT, "conversations": CHAT, "image": "1.jpg"}, "unknown_key_messages"),
        (talk("q", "a", image="1.jpg", images=["2.jpg"]), "unknown_key_images"),
        (talk("q", "a", query="q", response="a"), "unknown_key_query"),
        ({"query": "q"}, "malformed_record: no conversations"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, CHAT[1]]},
            "malformed_record: messages[].content",
        ),
        ({"messages": [CHAT[0], {"role": "tool", "content": "7"}], "images": ["1.jpg"]}, "unknown_speaker"),
        (
            {"messages": [{"role": "user", "content": "q"}, CHAT[1] | {"tool_calls": []}], "tools": ["t"]},
            "unknown_key_tools",
        ),
    ],
)
def test_what_could_mean_two_things_is_dropped_under_its_name(
    store: Store, tmp_path: Path, record: dict[str, Any], reason: str
) -> None:
    assert read(store, tmp_path, "llava_conversation", record).drops == {reason: 1}


def test_a_question_may_be_the_image_alone(store: Store, tmp_path: Path) -> None:
    shown, words, later = talk("<image>", "a", image="1.jpg"), talk(" ", "a", id="2"), talk("q", "a", "", "a", id="3")
    found = read(store, tmp_path, "llava_conversation", shown, words, later)
    assert ([sample.key for sample in found.samples], found.drops) == (["1"], {"no_question": 2})


def test_a_record_without_an_id_has_the_key_of_its_content(store: Store, tmp_path: Path) -> None:
    first, second = talk("q", "a"), talk("q", "b")
    del first["id"], second["id"]
    keys = [sample.key for sample in read(store, tmp_path, "llava_conversation", first, second).samples]
    again = [sample.key for sample in read(store, tmp_path, "llava_conversation", second, first).samples]
    assert (len(set(keys)), keys) == (2, again[::-1])
    assert read(store, tmp_path, "llava_conversation", first, first).drops == {"duplicate_key": 1}


def test_several_talks_may_have_one_id_and_only_the_same_talk_again_is_dropped(store: Store, tmp_path: Path) -> None:
    first, second = talk("q", "a"), talk("q", "b")
    found = read(store, tmp_path, "llava_conversation", first, second, first, second)
    assert found.drops == {"duplicate_key": 2}
    assert [sample.turns[0].answer for sample in found.samples] == ["a", "b"]
    one, other = (sample.key for sample in found.samples)
    assert other.startswith(f"{one}/")


def said(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"id": "1", "image": "1.jpg", "conversations": [{"from": who, "value": text} for who, text in turns]}


HUMAN, GPT, SYSTEM = ("human", "<image>\nq"), ("gpt", "a"), ("system", "Be polite.")


@pytest.mark.parametrize(
    ("turns", "kept", "not_read"),
    [
        ((GPT, HUMAN, GPT), [Turn("q", "a")], {"turn of gpt before the first question": 1}),
        ((HUMAN, GPT, ("human", "Thanks!")), [Turn("q", "a")], {"question after the last answer": 1}),
        ((SYSTEM, HUMAN, GPT), [Turn("Be polite.\n\nq", "a")], {}),
        ((SYSTEM, GPT, HUMAN, GPT), [Turn("Be polite.\n\nq", "a")], {"turn of gpt before the first question": 1}),
    ],
)
def test_turns_that_teach_nothing_are_left_out_and_counted(
    store: Store, tmp_path: Path, turns: tuple[tuple[str, str], ...], kept: list[Turn], not_read: dict[str, int]
) -> None:
    found = read(store, tmp_path, "llava_conversation", said(*turns))
    assert ([list(sample.turns) for sample in found.samples], found.not_read) == ([kept], not_read)


@pytest.mark.parametrize(
    "turns",
    [
        (HUMAN, HUMAN, GPT),
        (HUMAN, GPT, GPT),
        (GPT, GPT, HUMAN, GPT),
        (HUMAN, SYSTEM, GPT),
        (HUMAN,),
        (GPT,),
        (),
        (SYSTEM,),
        (("human", "q"), GPT, HUMAN),  # the picture is in the turn that would be left out
    ],
)
def test_turns_in_any_other_order_are_dropped(store: Store, tmp_path: Path, turns: tuple[tuple[str, str], ...]) -> None:
    assert read(store, tmp_path, "llava_conversation", said(*turns)).drops == {"turns_do_not_alternate": 1}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (talk("<image>\nq", "a"), "images_and_marks_differ"),
        (talk("<image>\nq", "a", image=""), "images_and_marks_differ"),
        (talk("<image>\nq", "a", image=[]), "images_and_marks_differ"),
        (talk("<ImageHere>q", "a"), "images_and_marks_differ"),
        (talk("<image><image>q", "a", image="1.jpg"), "images_and_marks_differ"),
        (talk("<image>q", "a", "<image>q", "a", image="1.jpg"), "images_and_marks_differ"),
        (talk("<image>q", "a", image=["1.jpg", "1.jpg"]), "images_and_marks_differ"),
        (talk("q", "<image>", image="1.jpg"), "image_mark_in_answer"),
        (talk("q", "a <ImageHere>"), "image_mark_in_answer"),
        (talk("at <box>?", "a", image="1.jpg"), "boxes_and_marks_differ"),
        (talk("q", "<box>", image="1.jpg", boxes=[]), "boxes_and_marks_differ"),
        (talk("q", "<box>", image="1.jpg", boxes=[[0.1, 0.1, 0.1, 0.9]]), "box_outside_image"),
        (talk("q", "<box>", image="1.jpg", boxes=[[0.101, 0.1, 0.109, 0.9]]), "box_too_small"),
        (talk("q", "at {<10><20><130><40>}", image="1.jpg"), "box_outside_image"),
        (talk("<video>q", "a"), "unknown_mark_video"),
        (talk("<audio>q", "a", image="1.jpg"), "unknown_mark_audio"),
        (talk("Picture 1: <img>1.jpg</img>\nq", "a"), "unknown_mark_img"),
        (talk("<|image_1|>q", "a", image="1.jpg"), "unknown_mark_image"),
        (talk("<image 1>q", "a", image="1.jpg"), "unknown_mark_image"),
        (talk("the <bbox>", "a", image="1.jpg"), "unknown_mark_bbox"),
    ],
)
def test_marks_and_what_they_stand_for_are_compared(
    store: Store, tmp_path: Path, record: dict[str, Any], reason: str
) -> None:
    assert read(store, tmp_path, "llava_conversation", record).drops == {reason: 1}


@pytest.mark.parametrize("asked", ["Who wrote <Emma>?", "What does <img src='x'> do?", "How old is <name>?"])
def test_other_words_in_angle_brackets_are_words(store: Store, tmp_path: Path, asked: str) -> None:
    (sample,) = read(store, tmp_path, "llava_conversation", talk(asked, "a")).samples
    assert sample.turns == (Turn(asked, "a"),)


def test_a_mark_is_compared_in_every_layout(store: Store, tmp_path: Path) -> None:
    """A place of an image in a question would move the image."""
    asked = {"question_id": 1, "image": "1.jpg", "answers": ["a"]}
    records = [{**asked, "question": "<ImageHere><ImageHere>what?"}, {**asked, "question": "<image>what?"}]
    found = read(store, tmp_path, "vqav2", *records)
    assert found.drops == {"images_and_marks_differ": 1}
    assert [sample.turns for sample in found.samples] == [(Turn("what?", "a"),)]


def test_multitask_turns_may_say_who_speaks(store: Store, tmp_path: Path) -> None:
    records = said(GPT, HUMAN, GPT), {**said(GPT, GPT), "id": "2"}
    found = read(store, tmp_path, "multitask_conversation", *records)
    assert [sample.turns for sample in found.samples] == [(Turn("q", "a"),)]
    assert found.drops == {"turns_do_not_alternate": 1}
