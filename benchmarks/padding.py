"""How much of a batch is no padding, and what a step costs, with samples in rows of their own and in shared ones.

    python benchmarks/padding.py

Stage 1 reads web captions, stage 4 the tasks of its 22 sets in the shares of `stage4_by_sample`, each by records of a
real set of that task; boxes of grounded captions are other captions' boxes. Lengths are those of a vocabulary as large
as Phi-2's, learned from the records themselves. Pictures are blank.
"""

import csv
import itertools
import json
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import training_step
from comparison import PHOTOGRAPHS, in_turns, report
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tinygptv import catalog
from tinygptv.data.batches.packing import pack
from tinygptv.data.prompting.prompts import render
from tinygptv.data.prompting.sequences import Sequences, Texts
from tinygptv.definitions.mixture import Task
from tinygptv.sample import IMAGE_SLOT, ImageReference, Sample, Turn

ANNOTATIONS = PHOTOGRAPHS.parent / "annotations"
RECIPE = catalog.recipe("tinygptv")
IMAGE_TOKENS, VOCABULARY, BEGIN = 32, 51_200, "<|endoftext|>"
BATCHES, TIMED = 200, 3
MIXES: dict[str, tuple[str, int, dict[Task, float]]] = {
    "stage1": ("stage1", 16, {"caption_only": 1}),
    "stage4": (
        "stage4",
        6,
        {"conversation": 180, "explain": 400, "refer": 690, "identify": 180, "ground": 160, "detect": 320}
        | {"caption": 240, "vqa": 690},
    ),
}
"""The stage, samples at a time (those of a 24 GB GPU; of stage 4's largest sets), samples by task."""


def main() -> None:
    """One figure of padding and one of time for each mix."""
    torch.set_num_threads(1)
    records = {task: list(read()) for task, read in RECORDS.items()}
    tokenizer = learned_vocabulary([text for turns in records.values() for turn in turns for text in turn])
    for name in MIXES:
        measure(name, records, tokenizer)


def measure(name: str, records: dict[Task, list[tuple[str, str]]], tokenizer: PreTrainedTokenizerFast) -> None:
    """The share of tokens in random batches, and a step's time on some of them."""
    stage, size, tasks = MIXES[name]
    inputs = RECIPE.stage(stage).inputs
    sequences, rng = Sequences(tokenizer, inputs, IMAGE_TOKENS), random.Random(0)
    batches = []
    for _ in range(BATCHES):
        drawn = rng.choices(list(tasks), weights=list(tasks.values()), k=size)
        turns = [(task, rng.choice(records[task])) for task in drawn]
        samples = [Sample("", (ImageReference(""),), (Turn(*turn),)) for _, turn in turns]
        rendered = [render(sample, task, inputs, rng) for sample, task in zip(samples, drawn, strict=True)]
        batches.append(sequences.training(rendered))
    packed = [pack(texts) for texts in batches]
    shared, apart = (shares([one.texts for one in packed]), shares(batches))
    tokens = statistics.mean(int(texts.attention_mask.sum()) for texts in batches) / size
    details = {"micro_batch": size, "tokens_per_sample": round(tokens, 1), "least": round(min(shared), 4)}
    report(
        f"tokens that are no padding, {name}",
        statistics.mean(shared),
        statistics.mean(apart),
        "share",
        "ours >= 0.93",
        **details,
    )

    model = training_step.build("middle")

    def step(some: Sequence[tuple[Texts, Tensor | None]]) -> None:
        for texts, position_ids in some:
            pictures = int((texts.input_ids == IMAGE_SLOT).sum()) // IMAGE_TOKENS
            loss, _ = model(torch.zeros(pictures, 3, 224, 224), *texts, position_ids)
            loss.backward()
            model.zero_grad()

    ours, theirs = in_turns(
        lambda: step([(one.texts, one.position_ids) for one in packed[:TIMED]]),
        lambda: step([(texts, None) for texts in batches[:TIMED]]),
        rounds=3,
    )
    samples = size * TIMED
    report(f"step with shared rows, {name}", samples / ours, samples / theirs, "samples/CPU s", "ratio >= 1")


def shares(batches: Sequence[Texts]) -> list[float]:
    """Of each batch, how much is no padding."""
    return [float(texts.attention_mask.float().mean()) for texts in batches]


def captions() -> Iterator[tuple[str, str]]:
    """Written by people."""
    for record in load("coco_captions/captions_val2014.subset4800.json")["annotations"]:
        yield "", record["caption"]


def web_captions() -> Iterator[tuple[str, str]]:
    """As BLIP wrote them for LAION, CC and SBU."""
    for record in load("llava/blip_laion_cc_sbu_2k.json"):
        yield "", record["conversations"][1]["value"]


def talks() -> Iterator[tuple[str, str]]:
    """A question about a picture, and a full answer."""
    with (ANNOTATIONS / "llava/llava_instruct_sampled.csv").open() as rows:
        for row in csv.DictReader(rows):
            yield row["text_input"], row["text_output"]


def explanations() -> Iterator[tuple[str, str]]:
    """Descriptions in detail, and reasoning."""
    for line in (ANNOTATIONS / "llava/coco2014_val_gpt4_qa_30x3.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["type"] != "conv":
            yield record["instruction"], record["output"]


def questions() -> Iterator[tuple[str, str]]:
    """With a word or two as the answer."""
    for record in load("aokvqa/aokvqa_v1p0_val.json"):
        yield record["question"], record["direct_answers"][0]


def expressions() -> Iterator[tuple[str, str]]:
    """A thing and its box."""
    for file in ("refcoco_val", "refcoco+_val", "refcocog_val"):
        for record in load(f"refcoco/{file}.json"):
            left, top, width, height = record["bbox"]
            ends = (left / record["width"], top / record["height"])
            ends += ((left + width) / record["width"], (top + height) / record["height"])
            yield record["sents"], "{" + "".join(f"<{int(100 * end)}>" for end in ends) + "}"


def grounded() -> Iterator[tuple[str, str]]:
    """Captions in which every third word or so has a box."""
    boxes = itertools.cycle(box for _, box in expressions())
    for _, caption in captions():
        words = caption.split()
        phrases = [f"<p>{' '.join(words[at : at + 2])}</p> {next(boxes)}" for at in range(0, len(words), 3)]
        yield "", " ".join(phrases)


RECORDS: dict[Task, Callable[[], Iterator[tuple[str, str]]]] = {
    "caption_only": web_captions,
    "conversation": talks,
    "explain": explanations,
    "refer": expressions,
    "identify": lambda: ((box, said) for said, box in expressions()),
    "detect": lambda: ((said, f"<p>{said}</p> {box}") for said, box in expressions()),
    "ground": grounded,
    "caption": captions,
    "vqa": questions,
}
"""Instructions and answers of real records, by task."""


def load(file: str) -> Any:
    """A JSON file of the annotations."""
    return json.loads((ANNOTATIONS / file).read_text())


def learned_vocabulary(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte pairs, as many as Phi-2 has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[BEGIN], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=BEGIN)


if __name__ == "__main__":
    main()
