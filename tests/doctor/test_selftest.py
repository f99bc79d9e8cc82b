"""Self-tests: the shipped decoder knows its language, and a release that sees nothing is found."""

from pathlib import Path

import pytest

from tests.release.tiny import adapted_model, write_release
from tinygptv.doctor import selftest
from tinygptv.errors import SetupError
from tinygptv.models.lora import merge_lora
from tinygptv.release import answering as answers
from tinygptv.sample import Sample


@pytest.fixture
def release(tmp_path: Path) -> Path:
    model = adapted_model()
    merge_lora(model.language_model)
    return write_release(tmp_path / "release", model)


def test_the_shipped_language_model_tells_sentences_from_shuffled_words() -> None:
    assert selftest.backbones_know_their_language().startswith("likelier than shuffled words")


def test_a_language_model_that_does_not_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest.random.Random, "shuffle", lambda self, words: None)
    with pytest.raises(SetupError, match="only 0 of 20 sentences"):
        selftest.backbones_know_their_language()


def test_an_untrained_release_answers_and_is_found_to_see_nothing(release: Path) -> None:
    with pytest.raises(SetupError, match="none of 6 answers about drawn shapes was right"):
        selftest.release_sees(release)


def test_a_release_that_sees_passes(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def knowing(release: object, samples: list[Sample], *task: object, **options: object) -> list[str]:
        return [f"It is {sample.turns[0].answer.title()}." for sample in samples]

    monkeypatch.setattr(answers, "answer_all", knowing)
    assert selftest.release_sees(release).startswith("6 of 6 answers right")
