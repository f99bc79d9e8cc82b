"""A release small enough for unit tests: a random model with adapters, and a tokenizer of single letters."""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Inputs, Lora
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.release.folder import TOKENIZER, ReleaseConfig, save_config, save_weights

LETTERS = ["<|end|>", "###", "<?>", *" abcdefghijklmnopqrstuvwxyz0123456789[]<>{}:?.,'HATBSDIPC/"]
NOWHERE = "embedded:backbones/none"

MODEL = Model.model_validate(
    {
        "vision_encoder": {
            "architecture": "eva_vit",
            "width": 16,
            "depth": 1,
            "heads": 2,
            "mlp_width": 32,
            "patch_size": 8,
            "image_size": 16,
            "weights": NOWHERE,
        },
        "connector": [
            {
                "part": "qformer",
                "queries": 4,
                "width": 16,
                "depth": 2,
                "heads": 2,
                "mlp_width": 32,
                "cross_attention_every": 2,
                "weights": NOWHERE,
            },
            {"part": "linear", "width": 24},
            {"part": "linear", "width": 32},
        ],
        "language_model": {
            "architecture": "phi",
            "width": 32,
            "depth": 2,
            "heads": 2,
            "mlp_width": 64,
            "vocabulary": len(LETTERS),
            "max_positions": 256,
            "rotary_fraction": 0.5,
            "qk_norm": True,
            "attention_norm": True,
            "weights": NOWHERE,
            "tokenizer": NOWHERE,
        },
    }
)
INPUTS = Inputs(image_size=16, max_text_tokens=32, template="###H: {} ###A: ", end_symbol="###")
LORA = Lora(rank=2, alpha=4.0, dropout=0.0, init="fresh")


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter, and one for the end symbol."""
    vocabulary = {token: number for number, token in enumerate(LETTERS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<?>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("###|[\\s\\S]"), behavior="isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|end|>", eos_token="<|end|>", unk_token="<?>", pad_token="<|end|>"
    )


def adapted_model(seed: int = 0) -> VisionLanguageModel:
    """A random model with non-zero adapters."""
    torch.manual_seed(seed)
    model = VisionLanguageModel(MODEL, INPUTS.image_size, LORA)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or parameter.dim() > 1:
            # Small where only the last letter enters, or it alone would decide the answer.
            torch.nn.init.normal_(parameter, std=0.02 if "embed_tokens" in name or "fc2" in name else 0.4)
    return model.eval()


def write_release(folder: Path, model: VisionLanguageModel) -> Path:
    """Write `model`, whose adapters are already merged, as a release folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder, {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()})
    save_config(folder, ReleaseConfig(model=MODEL, inputs=INPUTS))
    tokenizer().save_pretrained(folder / TOKENIZER)
    return folder
