"""Boxes as text: written as each family writes them, read back as what they were."""

import pytest

from tinygptv.data.prompting.boxes import CODECS, Box, box_text, read_box, respell
from tinygptv.definitions.template import BoxForm


def test_boxes_are_truncated_never_rounded() -> None:
    assert box_text((0.0, 0.129, 0.5, 1.0)) == "{<0><12><50><100>}"


@pytest.mark.parametrize("edges", [(0, 0, 100, 100), (12, 3, 99, 56), (7, 29, 58, 97)])
def test_a_written_box_is_read_back_as_it_was(edges: tuple[int, int, int, int]) -> None:
    text = "{" + "".join(f"<{edge}>" for edge in edges) + "}"
    box = read_box(text)
    assert box == tuple(edge / 100 for edge in edges)


@pytest.mark.parametrize(
    ("answer", "box"),
    [
        ("{ <1> <2> <30> <40> } and more", (0.01, 0.02, 0.3, 0.4)),
        ("it is at {<1><2><3><4>}{<5><6><7><8>}", (0.01, 0.02, 0.03, 0.04)),
        ("at [[010,020,300,400;000,000,100,100]]", (0.01, 0.02, 0.3, 0.4)),
        ("<ref>it</ref><box>(0,333),(666,999)</box>", (0.0, 1 / 3, 2 / 3, 1.0)),
        ("[0.01, 0.2, 1.0, 0.4]", (0.01, 0.2, 1.0, 0.4)),
        ("[1, 2, 30, 40] or [0.1, 0.2]", None),
        ("{<1><2><3>}", None),
        ("{<1><2><3><4000>}", None),
        ("<1><2><3><4>", None),
        ("", None),
    ],
)
def test_the_first_well_formed_box_of_an_answer_counts(
    answer: str, box: tuple[float, float, float, float] | None
) -> None:
    assert read_box(answer) == (box and pytest.approx(box))


@pytest.mark.parametrize("form", CODECS)
@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.1295, 0.25, 0.5001, 0.9999), (0.005, 0.0005, 0.5, 0.7)])
def test_every_family_reads_what_it_writes_to_within_a_cell(form: BoxForm, box: Box) -> None:
    codec = CODECS[form]
    (read,) = codec.read(f"it is at {codec.write(box)}.")
    assert read == pytest.approx(box, abs=1.001 / max(codec.unit, 100))
    assert codec.write(read) == codec.write(*codec.read(codec.write(read)))
    assert len(list(codec.read(codec.write(box, box)))) == 2
    text = f"a {codec.write(box, box)} b {codec.write(box)}"
    assert [text[begin:end] for begin, end in codec.spans(text)] == [codec.write(box, box), codec.write(box)]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("percent", "{<12><50><50><100>}"),
        ("cogvlm", "[[129,500,500,999]]"),
        ("qwen_vl", "<box>(129,500),(500,999)</box>"),
        ("fractions", "[0.13, 0.5, 0.5, 1.0]"),
    ],
)
def test_boxes_look_as_published(form: BoxForm, text: str) -> None:
    assert CODECS[form].write((0.1295, 0.5005, 0.5009, 1.0)) == text


def test_texts_with_boxes_of_their_own_are_respelled_from_what_they_say() -> None:
    assert respell(["{<10><20><30><40>}"], (), "cogvlm") == ["[[100,200,300,400]]"]
    assert respell(["{<10><20><30><40>}"], [(0.1009, 0.2, 0.3, 0.4)], "cogvlm") == ["[[100,200,300,400]]"]
    assert respell(["no box"], [(0.1, 0.2, 0.3, 0.4)], "qwen_vl") == ["no box"]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("percent", "<p>A man</p> {<10><20><30><40>} waits."),
        ("cogvlm", "A man [[100,200,300,400]] waits."),
        ("qwen_vl", "<ref>A man</ref><box>(100,200),(300,400)</box> waits."),
        ("fractions", "A man [0.1, 0.2, 0.3, 0.4] waits."),
    ],
)
def test_a_phrase_in_front_of_its_box_is_marked_as_the_family_marks_it(form: BoxForm, text: str) -> None:
    assert respell(["<p>A man</p> {<10><20><30><40>} waits."], (), form) == [text]


@pytest.mark.parametrize("form", sorted(CODECS))
def test_a_paragraph_is_no_phrase(form: BoxForm) -> None:
    grounded, box = "<p>a cat</p> {<10><20><30><40>}", (0.1, 0.2, 0.3, 0.4)
    (expected,) = respell([grounded], [box], form)
    written = respell([f"<p>Hello.</p> {grounded}", "<p>a page</p>"], [box], form)
    assert written == [f"<p>Hello.</p> {expected}", "<p>a page</p>"]
