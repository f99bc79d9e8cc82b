"""A golden case's files → the definition of its model and of its inputs.

FAMILY/tokenizer/               a tokenizer as transformers saves it
FAMILY/backbones/               eva_vit_g.pth, blip2_*.pth, and one folder with the decoder and its config.json
FAMILY/stage<n>/case.json       sizes that the weight files do not contain, texts, the loss, a greedy generation
FAMILY/stage<n>/checkpoint_0.pth, io.safetensors, grads.safetensors, conversation_io.safetensors (if there is one)
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tinygptv.data.batches.batching import load_tokenizer
from tinygptv.definitions.kinds import kinds
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Inputs, Lora, Oddity
from tinygptv.errors import DataError
from tinygptv.golden.description import Description, first_problem, read_description
from tinygptv.models.stored import Table, read_all
from tinygptv.models.weights.configs import FAMILIES, family, family_of
from tinygptv.models.weights.files import open_weights
from tinygptv.sample import IGNORE_INDEX, IMAGE_PLACE, Turn

CHECKPOINT, IO, GRADIENTS, CONVERSATION_IO = (
    "checkpoint_0.pth",
    "io.safetensors",
    "grads.safetensors",
    "conversation_io.safetensors",
)

BATCH = ("inputs_embeds", "attention_mask", "labels", "logits", "loss")
BLIP2, DECODER = "blip2_*.pth", "*/config.json"


@dataclass(frozen=True)
class GoldenCase:
    """One stage of one family. Damaged or missing files raise DataError or HandoffError, naming the file."""

    folder: Path

    def __str__(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @cached_property
    def description(self) -> Description:
        """What `case.json` says."""
        return read_description(self.folder / "case.json")

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The family's tokenizer."""
        return load_tokenizer(self.folder.parent / "tokenizer")

    @cached_property
    def io(self) -> dict[str, Tensor]:
        """Recorded inputs and outputs of the stage."""
        return self._recorded(IO, [*BATCH, "image", "vision_embeds", "image_embeds"])

    @cached_property
    def conversation_io(self) -> dict[str, Tensor]:
        """Recorded inputs and outputs of the conversation about the stage's images."""
        return self._recorded(CONVERSATION_IO, BATCH)

    @property
    def lora(self) -> Lora | None:
        """The adapters; their dropout does not act in what was recorded."""
        adapters = self.description.lora
        if adapters is None:
            return None
        return Lora(rank=adapters.r, alpha=adapters.alpha, dropout=0.0, init="inherit", targets=adapters.targets)

    @property
    def model(self) -> Model:
        """The definition of the recorded model."""
        trained = open_weights(self.folder / CHECKPOINT)
        vision, connector = self._vision_encoder(), self._connector(trained)
        if "weights" not in connector[0]:
            # Without a Q-Former no file brings the output norm along. MiniGPT-v2 itself leaves it as the identity; the
            # recorded one took it from BLIP-2 all the same.
            vision["output_norm"] = str(self._blip2)
        content = {
            "vision_encoder": vision,
            "connector": connector,
            "language_model": self._language_model(trained),
        }
        try:
            return Model.model_validate(content)
        except ValidationError as error:
            raise DataError(f"{self.folder.parent}: its parts make no model: {first_problem(error)}") from error

    def inputs(self, recorded: dict[str, Tensor]) -> Inputs:
        """The inputs that the tensors were recorded with.

        Template, end symbol and longest answer are not recorded; they follow from the prompts of the generation and
        from the labels.
        """
        bos = self.tokenizer.bos_token_id
        oddities: list[Oddity] = ["end_symbol_cut"]
        if self.tokenizer.encode("a")[0] != bos:
            oddities.append("no_bos_when_asking")
        if self.tokenizer.pad_token_id in (None, bos):
            oddities.append("later_bos_unseen")
        end_symbol = self._end_symbol()
        return Inputs(
            image_size=self.description.image_size,
            max_text_tokens=self._max_text_tokens(recorded, end_symbol),
            template=self._template(),
            end_symbol=end_symbol,
            oddities=oddities,
        )

    def turns(self) -> list[tuple[Turn, ...]]:
        """The samples' turns as a model reads them."""
        description, template = self.description, self._template()
        instructions = description.instructions or [IMAGE_PLACE] * len(description.answers)
        if description.chat_template:
            instructions = [template.replace("{}", instruction) for instruction in instructions]
        return [(Turn(i, a),) for i, a in zip(instructions, description.answers, strict=True)]

    @property
    def _backbones(self) -> Path:
        return self.folder.parent / "backbones"

    @property
    def _blip2(self) -> Path:
        return _only(self._backbones.glob(BLIP2), self._backbones, BLIP2)

    def _vision_encoder(self) -> dict[str, Any]:
        path = self._backbones / "eva_vit_g.pth"
        table, sizes = open_weights(path), self.description.config
        patch_size = _shape(table, "patch_embed.proj.weight", path)[-1]
        _, positions, width = _shape(table, "pos_embed", path)
        return {
            "architecture": "eva_vit",
            "width": width,
            "depth": sizes.vdepth,
            "heads": sizes.vheads,
            "mlp_width": _shape(table, "blocks.0.mlp.fc1.weight", path)[0],
            "patch_size": patch_size,
            "image_size": round((positions - 1) ** 0.5) * patch_size,
            "weights": str(path),
        }

    def _connector(self, trained: Table) -> list[dict[str, Any]]:
        """A Q-Former if the first projection reads its width, else merged patches."""
        checkpoint = self.folder / CHECKPOINT
        incoming = _shape(trained, "llama_proj.weight", checkpoint)[1]
        linears = [
            {"part": "linear", "width": trained[f"{name}.weight"].shape[0]}
            for name in ("llama_proj", "llama_proj2")
            if f"{name}.weight" in trained
        ]
        path = self._blip2
        table = open_weights(path)
        _, queries, width = _shape(table, "query_tokens", path)
        if (incoming, self.io["image_embeds"].shape[1]) == (width, queries):
            return [self._qformer(table, path, queries, width), *linears]
        features = self.io["vision_embeds"].shape[-1]
        if incoming % features or incoming == features:
            raise DataError(
                f"{checkpoint}: llama_proj reads {incoming} features, which are neither the Q-Former's {width} nor "
                f"merged patches of {features} each; there is no recipe part for such a connector"
            )
        return [{"part": "merge_patches", "count": incoming // features}, *linears]

    def _qformer(self, table: Table, path: Path, queries: int, width: int) -> dict[str, Any]:
        layers = "Qformer.bert.encoder.layer."
        depth = 1 + max((int(name.split(".")[4]) for name in table if name.startswith(layers)), default=-1)
        crossing = sorted(
            {int(name.split(".")[4]) for name in table if name.endswith(".crossattention.self.key.weight")}
        )
        return {
            "part": "qformer",
            "queries": queries,
            "width": width,
            "depth": depth,
            "heads": self.description.config.qheads,
            "mlp_width": _shape(table, f"{layers}0.intermediate_query.dense.weight", path)[0],
            "cross_attention_every": crossing[1] - crossing[0] if len(crossing) > 1 else depth,
            "weights": str(path),
        }

    def _language_model(self, trained: Table) -> dict[str, Any]:
        path = _only(self._backbones.glob(DECODER), self._backbones, DECODER)
        try:
            config = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not JSON ({error}); copy the whole folder again") from error
        name = family_of(config)
        if name is None:
            raise DataError(
                f"{path}: a decoder of architecture {config.get('model_type')!r}, for which there is no recipe part; "
                f"there are {', '.join(kinds(FAMILIES))}"
            )
        known = {"architecture": name} | family(name).read_config(config)
        if known.get("key_value_heads", known["heads"]) is None:
            known["key_value_heads"] = known["heads"]
        return {field: value for field, value in known.items() if value is not None} | {
            "qk_norm": any(".q_layernorm." in name for name in trained),
            "attention_norm": any(".post_layernorm." in name for name in trained),
            "weights": str(path.parent),
            "tokenizer": str(self.folder.parent / "tokenizer"),
        }

    def _template(self) -> str:
        """What surrounds the image and the question in the prompts of the generation; `{}` if nothing is templated."""
        description = self.description
        if not description.chat_template:
            return "{}"
        prompts = description.generate.prompts if description.generate else []
        image = f"<Img>{IMAGE_PLACE}</Img>"
        known = ("###Human: {} ###Assistant: ", "[INST] {} [/INST]")
        for template in known:
            before, after = template.split("{}")
            if prompts and all(prompt.startswith(before + image) and prompt.endswith(after) for prompt in prompts):
                return template
        raise DataError(
            f"{self.folder / 'case.json'}: chat_template is true, but the prompts of `generate` follow none of the "
            f"published templates ({', '.join(repr(template) for template in known)})"
        )

    def _end_symbol(self) -> str:
        """What the labels of a sample hold after its answer."""
        learned = [self._learned(labels) for labels in self.io["labels"]]
        for text, answer in zip(learned, self.description.answers, strict=False):
            if text.startswith(answer) and text != answer:
                return text.removeprefix(answer)
        raise DataError(
            f"{self.folder / IO}: the labels read {learned[0]!r}, which is not the answer "
            f"{self.description.answers[0]!r} and an end symbol; the files are not of one recording"
        )

    def _max_text_tokens(self, recorded: dict[str, Tensor], end_symbol: str) -> int:
        """How many tokens after the prompt were kept, if the recorder cut any sample; else all that there are."""
        longest, cut = 0, False
        for labels, mask in zip(recorded["labels"], recorded["attention_mask"], strict=True):
            learned, last = (labels != IGNORE_INDEX).nonzero(), int(mask.nonzero()[-1])
            longest = max(longest, last + 1 - int(learned[0]))
            cut |= int(learned[-1]) < last or not self._learned(labels).endswith(end_symbol)
        return longest if cut else int(recorded["labels"].shape[1])

    def _learned(self, labels: Tensor) -> str:
        return str(self.tokenizer.decode(labels[labels != IGNORE_INDEX].tolist()))

    def _recorded(self, name: str, wanted: Sequence[str]) -> dict[str, Tensor]:
        path = self.folder / name
        tensors = read_all(open_weights(path, finite=False))
        if absent := sorted(set(wanted) - tensors.keys()):
            raise DataError(f"{path}: holds no '{absent[0]}'; copy the whole folder again")
        mask, labels = tensors["attention_mask"], tensors["labels"]
        if any(tensors[one].shape[:2] != mask.shape for one in ("inputs_embeds", "labels", "logits")):
            raise DataError(f"{path}: inputs, labels and logits are not of one batch; copy the whole folder again")
        if not (mask.any(dim=1) & (labels != IGNORE_INDEX).any(dim=1)).all():
            raise DataError(f"{path}: a sample without any text or label; copy the whole folder again")
        known = (labels >= 0) & (labels < tensors["logits"].shape[-1]) | (labels == IGNORE_INDEX)
        if not known.all():
            raise DataError(f"{path}: labels that are no token ids; they are damaged, copy the whole folder again")
        return tensors


def _shape(table: Table, name: str, path: Path) -> tuple[int, ...]:
    if name not in table:
        raise DataError(f"{path}: holds no '{name}'; it is another kind of file than its name says")
    return tuple(table[name].shape)


def _only(found: Any, folder: Path, pattern: str) -> Path:
    paths = sorted(found)
    if len(paths) != 1:
        raise DataError(f"{folder}: {len(paths)} of {pattern} are there, one is expected; copy the whole folder again")
    return Path(paths[0])
