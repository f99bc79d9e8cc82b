"""A prompt after load: a language model must know its language, a release must see."""

import random
import tempfile
from pathlib import Path

from tinygptv import catalog
from tinygptv.errors import SetupError
from tinygptv.journey import RECIPE

_PICTURES = 6
_SENTENCES = 20
_SIDE = 224


def backbones_know_their_language() -> str:
    """Load the shipped backbones and let their decoder read captions of its corpus, and the same words shuffled."""
    import torch

    from tinygptv.data.batches.batching import load_tokenizer
    from tinygptv.models.weights import empty_model, load_weights
    from tinygptv.shapes import language, scenes
    from tinygptv.store.locations import local_path

    definition = catalog.recipe(RECIPE).model
    decoder = definition.language_model.model_copy(update={"qk_norm": False, "attention_norm": False})
    # As it was pretrained: what TinyGPT-V adds to a decoder begins untrained.
    definition = definition.model_copy(update={"language_model": decoder})
    model = empty_model(definition, definition.vision_encoder.image_size)
    load_weights(model, definition)
    tokenizer = load_tokenizer(local_path(decoder.tokenizer))

    def surprise(text: str) -> float:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]])
        states = model.language_model.hidden_states(model.language_model.get_input_embeddings()(ids), None)
        logits = model.language_model.lm_head(states)[0, :-1]
        return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))

    rng, right = random.Random(0), 0
    with torch.no_grad():
        for index in range(_SENTENCES):
            sentence = language.full_caption(scenes.scene("heldout", index), rng)
            words = sentence.split()
            rng.shuffle(words)
            right += surprise(sentence) < surprise(" ".join(words))
    if right < 0.9 * _SENTENCES:
        raise SetupError(
            f"only {right} of {_SENTENCES} sentences of its corpus are likelier to the shipped language model than the "
            "same words shuffled; its files or the libraries are not what they were, restore them and run `make setup`"
        )
    return f"likelier than shuffled words: {right} of {_SENTENCES} sentences of its corpus"


def release_sees(folder: Path) -> str:
    """Ask a release for the colour of shapes drawn for it. Raises SetupError if it never says what is there."""
    from tinygptv.release.answering import answer_all
    from tinygptv.release.folder import load_release
    from tinygptv.sample import ImageReference, Sample, Turn
    from tinygptv.shapes import language, scenes

    with tempfile.TemporaryDirectory() as pictures:
        samples = []
        for number, (picture, question) in enumerate(language.balanced_questions("colour", "heldout", _PICTURES)):
            path = Path(pictures) / f"{number}.png"
            scenes.draw(picture, _SIDE).save(path)
            turn = Turn(question.text, question.answer)
            samples.append(Sample(str(number), (ImageReference(str(path)),), (turn,)))
        answers = answer_all(load_release(folder), samples, "vqa", max_new_tokens=12)
    expected = [sample.turns[0].answer for sample in samples]
    right = sum(wanted in str(answer).lower() for wanted, answer in zip(expected, answers, strict=True))
    told = f"{samples[0].turns[0].instruction!r} of a picture with the answer {expected[0]!r}: {answers[0]!r}"
    if not right:
        raise SetupError(f"{folder}: none of {_PICTURES} answers about drawn shapes was right; asked {told}")
    return f"{right} of {_PICTURES} answers right; asked {told}"
