"""The nine families' templates: what each reads, letter for letter, and what of it is learned.

Expectations were written by hand after the sources named beside them, not after the templates.
"""

from itertools import product
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.marked import marked
from tinygptv import catalog
from tinygptv.data.prompting.prompts import WORDINGS, ask, render
from tinygptv.data.prompting.sequences import Sequences
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.recipe import Inputs
from tinygptv.errors import DefinitionError
from tinygptv.sample import IMAGE_PLACE, ImageReference, Sample, Turn

FAMILIES = catalog.names("template")
PICTURE = ImageReference("picture.jpg")
BOX = (0.1295, 0.2, 0.5, 1.0)
BOX_TEXT = "{<12><20><50><100>}"


def of(family: str, **changes: object) -> Inputs:
    template = catalog.template(family).model_dump(exclude={"about"})
    return Inputs.model_validate({"image_size": 16, "max_text_tokens": 900} | template | changes)


def read(tokenizer: PreTrainedTokenizerFast, family: str, sample: Sample, task: Task) -> str:
    inputs = of(family)
    return marked(Sequences(tokenizer, inputs, 2).training([render(sample, task, inputs)]), tokenizer)


VICUNA = (
    "A chat between a curious {0} and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the {0}'s questions."
)
TALKS = {
    # TinyGPT-V: BOS is prepended to every turn, minigpt_base.py tokenize_conversation
    "tinygptv": "¶###Human: <Img>▣▣</Img> Who is it? ###Assistant: «A Cat.###»¶###Human: And where? ###Assistant: "
    "«Here.###»",
    # MiniGPT-4: prompt_template of minigpt4_stage2_finetune.yaml, end_sym "###"
    "minigpt4": "¶###Human: <Img>▣▣</Img> Who is it? ###Assistant: «A Cat.###»###Human: And where? ###Assistant: "
    "«Here.###»",
    # MiniGPT-v2: `[INST] {} [/INST]`, end_sym "</s>", BOS in front of every question
    "minigpt_v2": "¶[INST] <Img>▣▣</Img> Who is it? [/INST]«A Cat.</s>»¶[INST] And where? [/INST]«Here.</s>»",
    # BLIP-2 on OPT: query outputs, then OPT's own BOS, then text; end_sym "\n"
    "blip2": "▣▣</s>Question: Who is it? Answer:«A Cat.\n»Question: And where? Answer:«Here.\n»",
    # LLaVA v1: conv_vicuna_v0, separator "###"
    "llava_v1": f"¶{VICUNA.format('human')}###Human: ▣▣\nWho is it?###Assistant:«A Cat.###»Human: And where?"
    "###Assistant:«Here.###»",
    # LLaVA-1.5: conv_vicuna_v1, separators " " and "</s>"
    "llava_v1_5": f"¶{VICUNA.format('user')} USER: ▣▣\nWho is it? ASSISTANT:«A Cat.</s>»USER: And where? ASSISTANT:"
    "«Here.</s>»",
    # CogVLM: BOS, image, chat_old_history_to_prompt, "</s>"
    "cogvlm": "¶▣▣Question: Who is it? Answer:«A Cat.</s>»\nQuestion: And where? Answer:«Here.</s>»",
    # Qwen-VL-Chat: ChatML of finetune.py, pictures of from_list_format
    "qwen_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "Picture 1: <img>▣▣</img>\nWho is it?<|im_end|>\n<|im_start|>assistant\n«A Cat.<|im_end|>»\n"
    "<|im_start|>user\nAnd where?<|im_end|>\n<|im_start|>assistant\n«Here.<|im_end|>»",
    # VisualGLM: README; [gMASK] and <sop> are the tokenizer's, <eop> ends an answer
    "visualglm": "<img>▣▣</img>问：Who is it?\n答：[gMASK]<sop>«A Cat.<eop>»"
    "\n问：And where?\n答：[gMASK]<sop>«Here.<eop>»",
    "visualglm_en": "<img>▣▣</img>Q:Who is it?\nA:[gMASK]<sop>«A Cat.<eop>»\nQ:And where?\nA:[gMASK]<sop>«Here.<eop>»",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_talk_is_written_as_the_family_writes_it(byte_tokenizer: PreTrainedTokenizerFast, family: str) -> None:
    talk = Sample("key", (PICTURE,), (Turn("Who is it?", "A Cat."), Turn("And where?", "Here.")))
    assert read(byte_tokenizer, family, talk, "conversation") == TALKS[family]


QUESTIONS = {
    "tinygptv": "###Human: <Img><></Img> [vqa] Based on the image, respond to this question with a short answer: "
    "what is it? ###Assistant: ",
    "minigpt4": "###Human: <Img><></Img> what is it? ###Assistant: ",
    "minigpt_v2": "[INST] <Img><></Img> [vqa] Based on the image, respond to this question with a short answer: "
    "what is it? [/INST]",
    "blip2": "<></s>Question: what is it? Short answer:",
    "llava_v1": f"{VICUNA.format('human')}###Human: <>\nWhat is it?###Assistant:",
    "llava_v1_5": f"{VICUNA.format('user')} USER: <>\nWhat is it?\nAnswer the question using a single word or phrase. "
    "ASSISTANT:",
    "cogvlm": "<>Question: What is it? Short answer:",
    "qwen_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "Picture 1: <img><></img>\nWhat is it? Answer:<|im_end|>\n<|im_start|>assistant\n",
    "visualglm": "<img><></img>问：What is it?\n答：[gMASK]<sop>",
    "visualglm_en": "<img><></img>Q:What is it?\nA:[gMASK]<sop>",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_is_asked_as_the_family_is_evaluated(family: str) -> None:
    sample = Sample("key", (PICTURE,), (Turn("What is it?", "a Cat"),))
    assert ask(sample, "vqa", of(family)).replace(IMAGE_PLACE, "<>") == QUESTIONS[family]


REFERRED = {
    "tinygptv": ("[refer] give me the location of left cat", "{<12><20><50><100>}"),
    "minigpt4": ("Where is left cat?", "{<12><20><50><100>}"),
    "minigpt_v2": ("[refer] give me the location of left cat", "{<12><20><50><100>}"),
    "blip2": ("Question: where is left cat? Answer:", "{<12><20><50><100>}"),
    "llava_v1": ("Where is Left cat?", "[0.13, 0.2, 0.5, 1.0]"),
    "llava_v1_5": (
        "Please provide the bounding box coordinate of the region this sentence describes: Left cat",
        "[0.13, 0.2, 0.5, 1.0]",
    ),
    "cogvlm": ("Question: Where is Left cat? Answer:", "[[129,200,500,999]]"),
    "qwen_vl": ("<ref>Left cat</ref>", "<box>(129,200),(500,999)</box>"),
    "visualglm": ("Left cat在哪里？", "{<12><20><50><100>}"),
    "visualglm_en": ("Where is Left cat?", "{<12><20><50><100>}"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_phrase_is_located_in_the_familys_words_and_box_form(family: str) -> None:
    sample = Sample("key", (PICTURE,), (Turn("Left cat", BOX_TEXT),), boxes=(BOX,))
    (turn,) = render(sample, "refer", of(family))
    asked, answer = REFERRED[family]
    assert turn.instruction.endswith(catalog.template(family).template.replace("{images}", "").split("{}")[1])
    assert asked in turn.instruction
    assert turn.answer == answer


BARE = {"blip2": "▣▣</s>", "qwen_vl": "<img>▣▣</img>"} | dict.fromkeys(
    ("visualglm", "visualglm_en"), "<img>▣▣</img>[gMASK]<sop>"
)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bare_caption_follows_the_image_alone(byte_tokenizer: PreTrainedTokenizerFast, family: str) -> None:
    sample = Sample("key", (PICTURE,), (Turn("", "a cat"),))
    end = catalog.template(family).end_symbol
    assert read(byte_tokenizer, family, sample, "caption_only") == f"{BARE.get(family, '¶▣▣')}«a cat{end}»"


def test_pictures_are_numbered_where_the_family_numbers_them() -> None:
    two = (PICTURE, ImageReference("other.jpg"))
    (turn,) = render(Sample("key", two, (Turn("Which is it?", "none"),)), "conversation", of("qwen_vl", system=""))
    assert turn.instruction.startswith(
        "<|im_start|>user\nPicture 1: <img><ImageHere></img>\nPicture 2: <img><ImageHere></img>\nWhich is it?"
    )
    named = Sample("key", two, (Turn(f"Is {IMAGE_PLACE}", "what?"), Turn(f"like {IMAGE_PLACE}?", "yes")))
    first, second = render(named, "conversation", of("qwen_vl", system="", template="{}", later_template=None))
    assert first.instruction == "Is Picture 1: <img><ImageHere></img>"
    assert second.instruction == "like Picture 2: <img><ImageHere></img>?"


@pytest.mark.parametrize(("family", "task"), list(product(sorted(set(FAMILIES) - {"tinygptv"}), WORDINGS)))
def test_task_tags_are_read_by_those_alone_who_know_them(family: str, task: Task) -> None:
    tag = WORDINGS[task][0].partition("]")[0] + "]"
    (turn,) = render(Sample("key", (PICTURE,), (Turn("this", "that"),)), task, of(family))
    assert (tag in turn.instruction) == (family == "minigpt_v2" and WORDINGS[task][0].startswith("["))


def test_a_llama_tokenizer_puts_the_space_in_front_of_an_answer_itself() -> None:
    """So that prompt and answer, tokenised apart, are the tokens of the published text, tokenised in one piece."""
    pieces = ["<s>", "</s>", "▁ASSISTANT:", "▁A", "▁Cat."]
    backend = Tokenizer(models.WordLevel({piece: place for place, piece in enumerate(pieces)}, unk_token="<s>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    apart = Sequences(tokenizer, of("llava_v1_5"), 2).training([(Turn("ASSISTANT:", "A Cat."),)])
    in_one_piece = tokenizer("ASSISTANT: A Cat.</s>", add_special_tokens=False)["input_ids"]
    assert apart.input_ids[0].tolist() == [0, *in_one_piece]


def test_a_recipe_names_a_template_and_says_what_it_departs_in(tmp_path: Path) -> None:
    named = {"template": "qwen_vl", "image_size": 48, "max_text_tokens": 160, "end_symbol": "<|endoftext|>"}
    inputs = catalog.recipe(_recipe_with(tmp_path, named)).stages[0].inputs
    assert inputs == of("qwen_vl", image_size=48, max_text_tokens=160, end_symbol="<|endoftext|>")


def test_a_template_nobody_wrote_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    named = {"template": "qwen_v1", "image_size": 48, "max_text_tokens": 160}
    message = r"stages\[0\].inputs.template: 'qwen_v1' is no file of tinygptv/templates/.*Did you mean 'qwen_vl'"
    with pytest.raises(DefinitionError, match=message):
        catalog.recipe(_recipe_with(tmp_path, named))


def _recipe_with(folder: Path, inputs: dict[str, object]) -> str:
    content = yaml.safe_load((catalog.FOLDERS["recipe"] / "tinygptv_tiny.yaml").read_text())
    content["stages"][0]["inputs"] = inputs
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)
