"""What a stage cannot learn from is left out of its mixture, counted, and never drawn; the rest is read as text."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.data.mixtures.test_mixing import write_mixture
from tinygptv import catalog
from tinygptv.data.batches.batching import Loader, load_tokenizer
from tinygptv.data.batches.usable import check, find_checked, measure, summary_lines
from tinygptv.data.mixtures.mixing import MixedSamples, mix
from tinygptv.data.prompting.prompts import renderings
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Inputs, Stage
from tinygptv.errors import DataError
from tinygptv.sample import Sample, Turn
from tinygptv.store.artifacts import Manifest, Store
from tinygptv.store.locations import local_path

MODEL = catalog.recipe("tinygptv_tiny").model
INPUTS = Inputs(image_size=64, max_text_tokens=40, template="###Human: {} ###Assistant: ", end_symbol="###")
TOKENIZER = load_tokenizer(local_path(MODEL.language_model.tokenizer))
IMAGE_TOKENS = MODEL.num_image_tokens(64)


def with_positions(count: int) -> Model:
    return MODEL.model_copy(update={"language_model": MODEL.language_model.model_copy(update={"max_positions": count})})


@pytest.fixture
def talks(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes a mixture of conversations of one turn, each of which shows the same picture; its name."""
    define = tmp_path / "definitions"
    for folder in ("sources", "mixtures", "files/image"):
        (define / folder).mkdir(parents=True)
    monkeypatch.setenv(catalog.OWN_DEFINITIONS, str(define))
    monkeypatch.setenv("TINYGPTV_DATA", str(define / "files"))
    Image.new("RGB", (16, 16)).save(define / "files" / "image" / "a.png")

    def make(*turns: tuple[str, str]) -> str:
        records = [
            {
                "id": str(number),
                "image": "a.png",
                "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": told}],
            }
            for number, (asked, told) in enumerate(turns)
        ]
        (define / "files" / "talks.json").write_text(json.dumps(records))
        definition = {"kind": "annotations", "about": "made up", "licence": "none", "format": "llava_conversation"}
        places = {"files": {"annotations": "data:talks.json"}, "images": "data:image"}
        (define / "sources" / "talks.yaml").write_text(yaml.safe_dump(definition | places))
        write_mixture(define, {"source": "talks", "task": "conversation", "weight": 1.0})
        return mix(store, "blend", None).artifact

    return make


def test_what_does_not_fit_the_decoder_is_left_out_and_the_longest_that_does_is_counted(
    store: Store, talks: Callable[..., str]
) -> None:
    mixture = talks(("what? " * 300, "no"), ("how many? " * 8, "two"), ("what?", "a cat"))
    found = check(store, mixture, INPUTS, MODEL)
    assert (found.rows_in, found.rows_out, found.drops) == (3, 2, {"talks: prompt_too_long": 1})
    assert found.details["samples"] == [2]
    (longest,) = (
        Sequences(TOKENIZER, INPUTS, IMAGE_TOKENS).length(*renderings(sample, "conversation", INPUTS))
        for sample in MixedSamples(store, mixture).samples([(0, 1)])
    )
    assert found.details["longest_sequence"] == longest
    fits, too_long = (check(store, mixture, INPUTS, with_positions(longest - less)) for less in (0, 1))
    assert [found.rows_out for found in (fits, too_long)] == [2, 1]


@pytest.mark.parametrize(
    "answer", ["Two parts.\n### Shape\nA square.", "###", "### a", "a###b", "F#", "C##", "a ###Human: b"]
)
def test_an_answer_that_would_end_early_is_left_out(store: Store, talks: Callable[..., str], answer: str) -> None:
    mixture = talks(("what?", answer), ("what?", "a cat # or ## a dog  "))
    assert check(store, mixture, INPUTS, MODEL).drops == {"talks: end_symbol_in_answer": 1}
    other_end = INPUTS.model_copy(update={"end_symbol": "<|endoftext|>"})
    assert check(store, mixture, other_end, MODEL).drops == {}


def test_line_breaks_at_the_end_of_an_answer_do_not_end_it_early() -> None:
    sequences = Sequences(TOKENIZER, INPUTS.model_copy(update={"end_symbol": "\n"}), IMAGE_TOKENS)
    assert [sequences.ends_early(text) for text in ("a\nb", "\na", "a\n", "a", "a\n \n")] == [True, True] + [False] * 3


def test_what_is_left_out_is_never_drawn(store: Store, talks: Callable[..., str]) -> None:
    mixture = talks(("what?", "a ### b"), *((f"what? {number}", "a cat") for number in range(5)))
    found = check(store, mixture, INPUTS, MODEL)
    options = {"num_image_tokens": IMAGE_TOKENS, "global_batch_size": 4, "seed": 1}
    whole, without = (
        Loader(store, mixture, INPUTS, TOKENIZER, **options, usable=artifact) for artifact in (None, found.artifact)
    )
    drawn, kept = ({key for step in range(6) for key in loader.batch(step).keys} for loader in (whole, without))
    assert drawn - kept == {"0"}
    with pytest.raises(DataError, match="masked"):
        without.mixed.samples([(0, 0)])


def test_special_tokens_and_turn_markers_are_kept_as_text_and_counted(store: Store, talks: Callable[..., str]) -> None:
    mixture = talks(("what is <|endoftext|>?", "an end"), ("what?", "<|EndOfText|>"), ("say ###Human: hi", "hi"))
    found = check(store, mixture, INPUTS, MODEL)
    assert found.rows_out == 3
    assert found.details["read_as_text"] == {"special_token_in_text": 2, "turn_marker_in_text": 1}
    assert "turn_marker_in_text 1: kept, read as text" in "\n".join(summary_lines(found))


def test_a_component_of_which_nothing_is_left_is_refused_with_a_remedy(store: Store, talks: Callable[..., str]) -> None:
    mixture = talks(("what?", "a ### b"), ("what? " * 300, "no"))
    with pytest.raises(DataError) as refused:
        check(store, mixture, INPUTS, MODEL)
    assert "no usable sample of talks is left (" in str(refused.value)
    for told in (
        "end_symbol_in_answer 1",
        "prompt_too_long 1",
        "another inputs.end_symbol than '###'",
        "512 positions",
    ):
        assert told in str(refused.value)
    assert find_checked(store, mixture, INPUTS, MODEL) is None


def test_stages_that_ask_alike_share_what_was_found_out(store: Store, talks: Callable[..., str]) -> None:
    mixture = talks(("what?", "a cat"))
    assert find_checked(store, mixture, INPUTS, MODEL) is None
    first = check(store, mixture, INPUTS, MODEL)
    assert find_checked(store, mixture, INPUTS.model_copy(update={"decoding": "fast"}), MODEL) == first
    changes = ({"max_text_tokens": 41}, {"end_symbol": "\n"}, {"template": "Q {} A"}, {"oddities": ["end_symbol_cut"]})
    for change in changes:
        assert find_checked(store, mixture, INPUTS.model_copy(update=change), MODEL) is None
    assert find_checked(store, mixture, INPUTS, with_positions(100)) is None


def test_one_accepted_answer_that_ends_early_is_enough() -> None:
    sample = Sample("key", (), (Turn("which?", "C"),), answers=("C", "C", "F#"))
    sequences = Sequences(TOKENIZER, INPUTS.model_copy(update={"plain": False}), IMAGE_TOKENS)
    assert measure(sample, "vqa", sequences)[1]
    assert not measure(sample, "vqa", Sequences(TOKENIZER, INPUTS, IMAGE_TOKENS))[1]  # plain answers lose their #


@pytest.mark.usefixtures("small_corpus")
@pytest.mark.parametrize("stage", catalog.recipe("tinygptv_tiny").stages, ids=lambda stage: stage.stage)
def test_everything_of_the_embedded_corpus_can_be_learned_from(store: Store, pairs: Manifest, stage: Stage) -> None:
    found = check(store, mix(store, stage.mixture, pairs).artifact, stage.inputs, MODEL)
    assert (found.rows_out, found.details["read_as_text"]) == (found.rows_in, {})
    assert found.details["longest_sequence"] < MODEL.language_model.max_positions
