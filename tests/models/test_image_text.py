"""BLIP-2's first stage as others publish it: every layout gives the same judge, and its scores are the library's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2QFormerConfig

from tests.models.weights import layouts
from tinygptv.definitions.connector_parts.qformer import QFormer
from tinygptv.definitions.vision_encoders.eva_vit import EvaVit
from tinygptv.errors import HandoffError
from tinygptv.models.image_text import ImageTextModel, load_image_text
from tinygptv.models.vision_encoders.eva_vit import vision_config

VOCABULARY, POSITIONS, WIDTH, QUERIES = 40, 16, 16, 4


def vision(weights: Path) -> EvaVit:
    sizes = {"width": WIDTH, "depth": 2, "heads": 2, "mlp_width": 32, "patch_size": 8, "image_size": 24}
    return EvaVit(architecture="eva_vit", weights=str(weights), **sizes)


def qformer(weights: Path) -> QFormer:
    sizes = {"queries": QUERIES, "width": WIDTH, "depth": 2, "heads": 2, "mlp_width": 32, "cross_attention_every": 2}
    return QFormer(part="qformer", weights=str(weights), **sizes)


@pytest.fixture(scope="module")
def library() -> Blip2ForImageTextRetrieval:
    """The library's model, every parameter drawn anew: its own start is all but zero, and parity there proves
    nothing."""
    text = Blip2QFormerConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        encoder_hidden_size=WIDTH,
        max_position_embeddings=POSITIONS,
        use_qformer_text_input=True,
    )
    encoder = vision_config(
        hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=8
    )
    config = Blip2Config(
        vision_config=encoder.to_dict(),
        qformer_config=text.to_dict(),
        num_query_tokens=QUERIES,
        image_text_hidden_size=8,
        image_token_index=None,
    )
    model = Blip2ForImageTextRetrieval(config).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.4
    model.itm_head.weight.data *= 5  # so that these few pairs are told apart
    model.vision_model.post_layernorm.eps = 1e-5  # of the original; the library's 1e-6 is another model
    return model


@pytest.fixture
def judge(library: Blip2ForImageTextRetrieval, tmp_path: Path) -> ImageTextModel:
    library.save_pretrained(tmp_path / "library")
    return load_image_text(vision(tmp_path / "library"), qformer(tmp_path / "library"), None, 24)


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor, Tensor]:
    """Three pictures and texts, one of them padded."""
    torch.manual_seed(1)
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    return torch.randn(3, 3, 24, 24), torch.randint(1, VOCABULARY, (3, 7)), mask


def scores(judge: ImageTextModel, pairs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    pixel_values, input_ids, mask = pairs
    features, found = judge.look(pixel_values)
    return judge.contrast(found, input_ids, mask), judge.matching(features, input_ids, mask)


def test_contrast_and_matching_equal_the_librarys(
    library: Blip2ForImageTextRetrieval, judge: ImageTextModel, pairs: tuple[Tensor, Tensor, Tensor]
) -> None:
    pixel_values, input_ids, mask = pairs
    given = {"pixel_values": pixel_values, "input_ids": input_ids, "attention_mask": mask}
    with torch.no_grad():
        itc = torch.stack(  # one picture at a time: the library scores every picture with every text
            [
                library(**{name: value[row : row + 1] for name, value in given.items()}).logits_per_image[0, 0]
                for row in range(3)
            ]
        )
        itm = library(**given, use_image_text_matching_head=True).logits_per_image.softmax(dim=1)[:, 1]
    ours = scores(judge, pairs)
    torch.testing.assert_close(ours[0], itc, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours[1], itm, atol=1e-6, rtol=1e-5)
    assert min(itm.logit().std(), itc.std()) > 1e-3


def lavis(judge: ImageTextModel) -> dict[str, Tensor]:
    """The file of LAVIS's first stage, with BERT's head, its bias under both of its names."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in judge.qformer.state_dict().items():
        new = name.replace("attention.attention.", "attention.self.").replace("_projection.", "_proj.")
        if name.startswith("model."):
            new = "Qformer.bert." + new.removeprefix("model.").replace("layernorm.", "embeddings.LayerNorm.", 1)
        elif name.startswith("embeddings."):
            new = f"Qformer.bert.{name}"
        theirs["temp" if name == "temperature" else new] = tensor
    norm = judge.vision_encoder.model.post_layernorm
    words, bias = theirs["Qformer.bert.embeddings.word_embeddings.weight"], torch.randn(VOCABULARY)
    theirs |= {
        "ln_vision.weight": norm.weight.detach(),
        "ln_vision.bias": norm.bias.detach(),
        "Qformer.bert.embeddings.position_ids": torch.arange(POSITIONS)[None],
        "Qformer.cls.predictions.bias": bias,
        "Qformer.cls.predictions.decoder.bias": bias,
        "Qformer.cls.predictions.decoder.weight": words,
        "Qformer.cls.predictions.transform.dense.weight": torch.randn(WIDTH, WIDTH),
        "Qformer.cls.predictions.transform.dense.bias": torch.randn(WIDTH),
        "Qformer.cls.predictions.transform.LayerNorm.weight": torch.randn(WIDTH),
        "Qformer.cls.predictions.transform.LayerNorm.bias": torch.randn(WIDTH),
    }
    return layouts.copied(theirs)


@pytest.fixture
def first_stage(judge: ImageTextModel, tmp_path: Path) -> dict[str, Tensor]:
    """What LAVIS's file holds, written beside the encoder in our own layout, which has no output norm of its own."""
    torch.manual_seed(2)
    theirs = lavis(judge)
    torch.save({"model": theirs}, tmp_path / "blip2_pretrained.pth")
    encoder = {
        name: tensor for name, tensor in judge.vision_encoder.model.state_dict().items() if "post_layernorm" not in name
    }
    save_file(layouts.copied(encoder), tmp_path / "encoder.safetensors")
    return theirs


def test_the_first_stage_of_lavis_gives_the_same_scores(
    judge: ImageTextModel, first_stage: dict[str, Tensor], pairs: tuple[Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    loaded = load_image_text(
        vision(tmp_path / "encoder.safetensors"), qformer(tmp_path / "blip2_pretrained.pth"), None, 24
    )
    for found, expected in zip(scores(loaded, pairs), scores(judge, pairs), strict=True):
        assert torch.equal(found, expected)


def test_its_head_writes_as_berts_does(first_stage: dict[str, Tensor], tmp_path: Path) -> None:
    loaded = load_image_text(
        vision(tmp_path / "encoder.safetensors"), qformer(tmp_path / "blip2_pretrained.pth"), None, 24
    )
    states = torch.randn(2, 3, WIDTH)
    head = {name.removeprefix("Qformer.cls.predictions."): tensor for name, tensor in first_stage.items()}
    moved = nn.functional.gelu(states @ head["transform.dense.weight"].T + head["transform.dense.bias"])
    normed = nn.functional.layer_norm(
        moved, (WIDTH,), head["transform.LayerNorm.weight"], head["transform.LayerNorm.bias"], 1e-12
    )
    assert loaded.qformer.itg_head is not None
    torch.testing.assert_close(loaded.qformer.itg_head(states), normed @ head["decoder.weight"].T + head["bias"])


def test_a_file_without_a_head_to_write_with_scores_and_says_so_when_asked_to_write(
    judge: ImageTextModel, pairs: tuple[Tensor, Tensor, Tensor]
) -> None:
    pixel_values, input_ids, mask = pairs
    with pytest.raises(HandoffError, match="no head to write captions"):
        judge.qformer.generation_logits(judge.look(pixel_values)[0], input_ids, mask)


def test_a_blip2_of_the_second_stage_is_refused(first_stage: dict[str, Tensor], tmp_path: Path) -> None:
    del first_stage["itm_head.weight"]
    torch.save({"model": first_stage}, tmp_path / "second.pth")
    with pytest.raises(HandoffError, match=r"second\.pth: a BLIP-2 without the heads .*blip2_pretrained\.pth"):
        load_image_text(vision(tmp_path / "encoder.safetensors"), qformer(tmp_path / "second.pth"), None, 24)


def test_a_missing_tensor_is_refused_by_name(first_stage: dict[str, Tensor], tmp_path: Path) -> None:
    del first_stage["text_proj.bias"]
    torch.save({"model": first_stage}, tmp_path / "damaged.pth")
    with pytest.raises(HandoffError, match=r"damaged\.pth.*qformer\.text_projection\.bias"):
        load_image_text(vision(tmp_path / "encoder.safetensors"), qformer(tmp_path / "damaged.pth"), None, 24)
