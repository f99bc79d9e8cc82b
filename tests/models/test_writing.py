"""Writing word after word gives what reading the whole text gives."""

import torch
from transformers import Blip2QFormerConfig

from tinygptv.models.qformer import ImageTextQFormer
from tinygptv.models.writing import Writing


def test_a_word_at_a_time_equals_the_whole_text() -> None:
    torch.manual_seed(0)
    config = Blip2QFormerConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        encoder_hidden_size=16,
        max_position_embeddings=12,
    )
    qformer = ImageTextQFormer(config, query_tokens=4, contrast_width=8, writes_with="bert").eval()
    for parameter in qformer.parameters():  # far from initial values, so that a wrong mask shows
        parameter.data = torch.randn_like(parameter) * 0.3
    features, text = torch.randn(2, 10, 16), torch.tensor([[29, 3, 4, 5, 6], [29, 8, 8, 1, 2]])
    with torch.no_grad():
        whole = qformer.generation_logits(features, text, torch.ones_like(text))
        writing = Writing(qformer, features)
        word_by_word = torch.stack([writing.logits(word) for word in text.T], dim=1)
    torch.testing.assert_close(word_by_word, whole, atol=1e-5, rtol=1e-5)
