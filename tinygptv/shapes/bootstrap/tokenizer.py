"""A byte-level BPE for the world's small language, so that a sentence costs tens of tokens and any text works."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tinygptv.shapes.bootstrap.corpus import rng_of
from tinygptv.shapes.bootstrap.texts import exchange
from tinygptv.shapes.scenes import scene

END_OF_TEXT = "<|endoftext|>"  # begins, ends and pads, as in Phi-2; its id is 0


def train_tokenizer(vocabulary: int, texts: int) -> PreTrainedTokenizerFast:
    """Fit the merges on `texts` scenes' worth of everything that is ever said about them.

    `###` and each digit always stand alone: answers then end in one recognisable token, and a coordinate is read
    digit by digit.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("###|[0-9]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    said = ("".join(exchange(scene("pretrain", index), rng_of("tokenizer", index)).words()) for index in range(texts))
    tokenizer.train_from_iterator(said, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a bootstrap result."""
    return PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
