"""BLEU of captions in any script, and of captions too short for BLEU-4."""

from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU

from tinygptv.evaluate.metric import Truth
from tinygptv.evaluate.metrics.caption_bleu import ORDER, bleu, count, order
from tinygptv.evaluate.scoring import chance, score

CHINESE = ["一只黑色的狗在草地上跑", "两个孩子坐在红色的长椅上", "桌子上有一杯咖啡和三本书"]
WRITTEN = ["一只黑狗在草地上跑步", "两个孩子坐在长椅上", "桌子上有三本书"]


def corpus_bleu(answers: list[str], references: list[str]) -> float:
    return bleu(count(*pair) for pair in zip(answers, ([one] for one in references), strict=True))


@pytest.mark.parametrize(
    "caption",
    [
        "一只黑色的狗在草地上跑。",
        "黒い犬が草の上を走っている",
        "หมาสีดำวิ่งบนหญ้า",
        "검은 개가 풀밭 위를 달린다",
        "एक काला कुत्ता घास पर दौड़ रहा है",
        "كلب أسود يركض على العشب",
    ],
)
def test_a_right_caption_scores_one_in_every_script_and_a_wrong_one_less(caption: str) -> None:
    assert corpus_bleu([caption], [caption]) == pytest.approx(1)
    assert 0 < corpus_bleu([caption[: len(caption) // 2]], [caption]) < 0.7


def test_chinese_scores_equal_sacrebleu() -> None:
    assert corpus_bleu(WRITTEN, CHINESE) == pytest.approx(
        BLEU(tokenize="zh").corpus_score(WRITTEN, [CHINESE]).score / 100
    )


def test_english_scores_equal_sacrebleu_exactly(shared: Path) -> None:
    folder = shared / "data/oracles/nlg_eval"
    answers, first, second = ((folder / f"{name}.txt").read_text().splitlines() for name in ("hyp", "ref1", "ref2"))
    counts = [count(*row) for row in zip(answers, zip(first, second, strict=True), strict=True)]
    assert bleu(counts) == BLEU(lowercase=True).corpus_score(answers, [first, second]).score / 100
    assert order(counts) == ORDER


@pytest.mark.parametrize(("caption", "order"), [("dog", 1), ("a dog", 2), ("a black dog", 3), ("狗", 1)])
def test_correct_captions_too_short_for_bleu_4_score_one(caption: str, order: int) -> None:
    found = score("caption_bleu", [caption] * 3, [Truth((caption,))] * 3)
    assert found.value == pytest.approx(1)
    assert found.extra == {"ngram_order": order}


def test_one_long_caption_makes_it_bleu_4() -> None:
    answers = ["a dog", "two cats on a red sofa"]
    found = score("caption_bleu", answers, [Truth((answer,)) for answer in answers])
    assert (found.value, found.extra) == (pytest.approx(1), {})


def test_short_answers_to_long_references_are_penalised() -> None:
    assert corpus_bleu(["dog"], ["a black dog runs over the grass"]) < 0.01


def test_empty_captions_score_zero() -> None:
    found = score("caption_bleu", ["", " "], [Truth(("a dog",))] * 2)
    assert (found.value, found.extra) == (0, {})
    assert chance("caption_bleu", [Truth(("狗在跑",))] * 3) == pytest.approx(1)


def test_a_corpus_of_right_captions_scores_one_and_of_empty_ones_zero() -> None:
    truths = [Truth(("a small red circle at the top", "a red circle")), Truth(("two blue stars on the left",))]
    assert score("caption_bleu", [truth.answers[0] for truth in truths], truths).value == pytest.approx(1.0)
    empty = score("caption_bleu", ["", ""], truths)
    assert (empty.value, empty.unparsed, empty.lenient) == (0, 2, None)


def test_summed_counts_give_the_library_corpus_score(shared: Path) -> None:
    folder = shared / "data/oracles/nlg_eval"
    answers, first, second = ((folder / f"{name}.txt").read_text().splitlines() for name in ("hyp", "ref1", "ref2"))
    ours = bleu(count(*row) for row in zip(answers, zip(first, second, strict=True), strict=True))
    assert ours == pytest.approx(BLEU(lowercase=True).corpus_score(answers, [first, second]).score / 100)
