"""Vision encoder and Q-Former: shapes, masks, loading, and the published size built without memory."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Blip2QFormerConfig, Blip2VisionConfig

from tinygptv.errors import HandoffError, ShapeError
from tinygptv.models.qformer import ImageTextQFormer, QFormer
from tinygptv.models.vision_encoders.eva_vit import EvaVit, resize_positions, vision_config


def small_vision() -> Blip2VisionConfig:
    return vision_config(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=24, patch_size=8
    )


def small_qformer() -> Blip2QFormerConfig:
    return Blip2QFormerConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        encoder_hidden_size=16,
        max_position_embeddings=12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def image_text_qformer() -> ImageTextQFormer:
    torch.manual_seed(0)
    qformer = ImageTextQFormer(small_qformer(), query_tokens=4, contrast_width=8).eval()
    for parameter in qformer.parameters():  # far from initial values, so that a wrong mask shows
        parameter.data = torch.randn_like(parameter) * 0.3
    return qformer


def save(folder: Path, qformer: ImageTextQFormer) -> None:
    save_file(qformer.query_path(), folder / "qformer.safetensors")
    save_file(qformer.text_side(), folder / "qformer_text.safetensors")
    fields = qformer.config.to_diff_dict() | {"query_tokens": qformer.query_tokens.shape[1]}
    (folder / "qformer.json").write_text(json.dumps(fields))


def test_an_untrained_encoder_tells_two_pictures_apart() -> None:
    torch.manual_seed(0)
    features = EvaVit(small_vision())(torch.randn(2, 3, 24, 24))
    assert features.shape == (2, 1 + 9, 16)
    assert (features[0] - features[1]).abs().max() > 0.1


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ShapeError, match="24 x 24 px but got 32 x 32"):
        EvaVit(small_vision())(torch.randn(1, 3, 32, 32))


def test_the_output_norm_has_the_epsilon_of_the_original() -> None:
    assert EvaVit(small_vision()).model.post_layernorm.eps == 1e-5


def test_loading_at_another_size_equals_the_librarys_own_interpolation(tmp_path: Path) -> None:
    encoder = EvaVit(small_vision())
    save_file(encoder.model.state_dict(), tmp_path / "vision_encoder.safetensors")
    (tmp_path / "vision_encoder.json").write_text(json.dumps(encoder.config.to_diff_dict()))
    pixels = torch.randn(2, 3, 40, 40)
    loaded = EvaVit.from_pretrained(tmp_path, image_size=40)(pixels)
    ours = encoder.model(pixels, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(loaded, ours)


def test_resizing_positions_keeps_the_class_row() -> None:
    table = torch.randn(1, 10, 16)
    assert torch.equal(resize_positions(table, 3), table)
    assert torch.equal(resize_positions(table, 6)[:, 0], table[:, 0])
    assert resize_positions(table, 6).shape == (1, 37, 16)


def test_queries_do_not_see_text_when_generating_and_text_sees_no_future() -> None:
    qformer, features = image_text_qformer(), torch.randn(1, 10, 16)
    ids = torch.tensor([[29, 3, 4, 5, 6]])
    other = torch.tensor([[29, 3, 4, 9, 8]])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        first, second = (qformer.generation_logits(features, text, mask) for text in (ids, other))
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert (first[:, 3:] - second[:, 3:]).abs().max() > 1e-3


def test_generation_depends_on_the_picture() -> None:
    qformer, ids = image_text_qformer(), torch.tensor([[29, 3]])
    with torch.no_grad():
        first, second = (qformer.generation_logits(torch.randn(1, 10, 16), ids, torch.ones_like(ids)) for _ in range(2))
    assert (first - second).abs().max() > 1e-3


def test_padding_changes_nothing() -> None:
    qformer, features = image_text_qformer(), torch.randn(1, 10, 16)
    short, mask = torch.tensor([[28, 3, 4]]), torch.ones(1, 3, dtype=torch.long)
    long, long_mask = (torch.nn.functional.pad(tensor, (0, 3)) for tensor in (short, mask))
    with torch.no_grad():
        torch.testing.assert_close(
            qformer.matching_logits(features, short, mask), qformer.matching_logits(features, long, long_mask)
        )
        torch.testing.assert_close(qformer.text_embedding(short, mask), qformer.text_embedding(long, long_mask))
        torch.testing.assert_close(
            qformer.generation_logits(features, short, mask),
            qformer.generation_logits(features, long, long_mask)[:, :3],
        )


def test_matching_lets_queries_read_the_text() -> None:
    qformer, features, mask = image_text_qformer(), torch.randn(1, 10, 16), torch.ones(1, 3, dtype=torch.long)
    with torch.no_grad():
        logits = [qformer.matching_logits(features, torch.tensor([ids]), mask) for ids in ([28, 3, 4], [28, 3, 9])]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_similarity_takes_the_best_query() -> None:
    images, texts = torch.eye(4)[None, :2], torch.eye(4)
    expected = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert torch.equal(image_text_qformer().similarity(images, texts), expected)


def test_the_query_path_alone_computes_the_same(tmp_path: Path) -> None:
    whole, features = image_text_qformer(), torch.randn(2, 10, 16)
    save(tmp_path, whole)
    alone = QFormer.from_pretrained(tmp_path)
    assert set(alone.state_dict()) == set(whole.query_path())
    with torch.no_grad():
        torch.testing.assert_close(alone(features), whole(features))
        again = ImageTextQFormer.from_pretrained(tmp_path)
        torch.testing.assert_close(again(features), whole(features))


def test_a_file_without_one_tensor_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, image_text_qformer())
    tensors = load_file(tmp_path / "qformer.safetensors")
    del tensors["query_tokens"]
    save_file(tensors, tmp_path / "qformer.safetensors")
    with pytest.raises(HandoffError, match="query_tokens"):
        QFormer.from_pretrained(tmp_path)


def test_the_published_sizes_are_the_defaults() -> None:
    with torch.device("meta"):
        encoder, qformer = EvaVit(vision_config()), QFormer(Blip2QFormerConfig(), query_tokens=32)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == pytest.approx(985.95e6, rel=1e-3)
    assert sum(parameter.numel() for parameter in qformer.parameters()) == pytest.approx(105.14e6, rel=1e-3)
