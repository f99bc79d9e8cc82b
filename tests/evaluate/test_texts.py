"""Texts that look the same to a reader get the same score, in any script and spelling."""

import unicodedata
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygptv.evaluate.metric import Truth
from tinygptv.evaluate.scoring import mark
from tinygptv.evaluate.texts import comparable, folded, words_apart

ANYTHING = settings(derandomize=True, deadline=None, database=None, max_examples=300)
FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")

ALIKE = [
    ("café", "cafe\u0301"),
    ("café", "cafe\u200d\u0301"),
    ("개가 달린다", unicodedata.normalize("NFD", "개가 달린다")),
    ("một con chó", unicodedata.normalize("NFD", "một con chó")),
    ("2 red dogs", "２ ｒｅｄ　ｄｏｇｓ"),
    ("カメラ", "ｶﾒﾗ"),
    ("STRASSE", "straße"),
    ("İstanbul", "istanbul"),
    ("ΟΔΟΣ", "οδός".replace("ό", "ο")),
    ("3 كلاب", "٣ كلاب"),
    ("१२ कुत्ते", "12 कुत्ते"),
    ("كلب", "كَلْبـ"),
    ("שלום", "שָׁלוֹם"),
    ("می\u200cخواهم", "میخواهم"),
    ("naive", "na\u00adive"),
    ("red", "\ufeffred\u200b"),
    ("❤", "❤\ufe0f"),
    ("ﬁne", "fine"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
@pytest.mark.parametrize("metric", ["exact_match", "vqa_accuracy", "caption_bleu"])
def test_two_spellings_of_one_text_match(metric: str, one: str, other: str) -> None:
    for said, right in ((one, other), (other, one)):
        truth = Truth((right.lower(),) * 10)  # the official VQA script compares lower-case answers
        assert mark(metric, said, truth).strict == pytest.approx(1)


@pytest.mark.parametrize(
    ("one", "other"), [("resume", "résumé"), ("狗", "猫"), ("٣", "٤"), ("سلام", "شلام"), ("い", "ぃ")]
)
def test_letters_that_differ_stay_different(one: str, other: str) -> None:
    assert folded(one) != folded(other)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("红色。", "红色"),
        ("“红色”", '"红色"'),
        ("كلب؟", "كلب?"),
        ("कुत्ता।", "कुत्ता"),
        ("it’s red", "it's red"),
        ("ja！", "ja!"),
    ],
)
def test_punctuation_of_other_scripts_is_that_of_english(answer: str, right: str) -> None:
    assert mark("exact_match", answer, Truth((right,))).strict == 1
    bare = right.strip('"?!')
    assert mark("vqa_accuracy", answer, Truth((*[bare] * 9, "another"))).strict == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a black dog", "a black dog"),
        ("一只狗， two 猫。", "一 只 狗 , two 猫 。"),
        ("สุนัขวิ่ง", "สุ นั ข วิ่ ง"),
        ("ドッグ", "ド ッ グ"),
        ("གཞོན་ནུ་", "གཞོན ནུ"),
        ("검은 개", "검은 개"),
    ],
)
def test_letters_of_scripts_without_spaces_are_words(text: str, words: str) -> None:
    assert words_apart(text).split() == words.split()


@given(st.text(alphabet=st.characters(max_codepoint=127)))
@ANYTHING
def test_ascii_is_only_lower_cased(text: str) -> None:
    assert folded(text) == comparable(text) == words_apart(text) == text.lower()


@given(st.text())
@ANYTHING
def test_folding_does_not_depend_on_the_form_and_changes_nothing_twice(text: str) -> None:
    for form in FORMS:
        assert folded(unicodedata.normalize(form, text)) == folded(text)
    assert folded(folded(text)) == folded(text)
    assert comparable(comparable(text)) == comparable(text)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
@ANYTHING
def test_every_text_matches_itself(text: str) -> None:
    if comparable(text).strip(" ."):
        assert mark("exact_match", text, Truth((text,))).strict == 1
    if any(sign.isalnum() for sign in words_apart(text)):
        assert mark("caption_bleu", text, Truth((text,))).strict == pytest.approx(1)
