"""Phrases are found word by word, in many texts at once, never across two of them."""

import pyarrow as pa

from tinygptv.data.columns.phrases import Phrases, words_of


def find(phrases: list[str], texts: list[str | None]) -> set[tuple[int, str]]:
    text, phrase = Phrases(phrases).find(pa.array(texts, pa.string()))
    return {(int(one), phrases[int(other)]) for one, other in zip(text, phrase, strict=True)}


def test_words_are_runs_of_letters_and_digits_in_lower_case() -> None:
    words, owner = words_of(pa.array(["It's a DOG!", None, "日本 2"]))
    assert words.to_pylist() == ["it", "s", "a", "dog", "", "日", "本", "2"]
    assert owner.tolist() == [0, 0, 0, 0, 1, 2, 2, 2]


def test_phrases_of_all_lengths_are_found() -> None:
    texts = ["A hot dog, and a dog", "hotdog", "ice cream cone", None, ""]
    assert find(["dog", "hot dog", "ice cream cone"], texts) == {(0, "dog"), (0, "hot dog"), (2, "ice cream cone")}


def test_a_phrase_does_not_span_two_texts_nor_skip_words() -> None:
    assert find(["hot dog"], ["very hot", "dog days", "hot big dog"]) == set()


def test_each_occurrence_is_found() -> None:
    text, _ = Phrases(["dog"]).find(pa.array(["dog eats dog", "dog"]))
    assert sorted(text.tolist()) == [0, 0, 1]


def test_no_phrases_and_no_texts_give_nothing() -> None:
    assert find([], ["a dog"]) == set()
    assert find(["a dog"], []) == set()
    assert find(["!"], ["a dog"]) == set()
