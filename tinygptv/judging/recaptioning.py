"""A picture → a caption of the Q-Former's own: CapFilt's captioner (BLIP, arXiv 2201.12086), without its chance."""

import torch
from torch import Tensor

from tinygptv.judging.texts import Texts
from tinygptv.models.qformer import ImageTextQFormer
from tinygptv.models.writing import Writing


def write_captions(qformer: ImageTextQFormer, features: Tensor, texts: Texts, max_tokens: int) -> list[str]:
    """The likeliest word after word, until all have ended or `max_tokens` are written. (B, N, D) -> B captions."""
    writing = Writing(qformer, features)
    words = [torch.full((len(features),), texts.dec_id, device=features.device)]
    ended = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    while len(words) <= max_tokens and not ended.all():
        logits = writing.logits(words[-1])
        logits[:, [texts.cls_id, texts.dec_id]] = -torch.inf
        words.append(logits.argmax(dim=-1).masked_fill(ended, texts.end_id))
        ended |= words[-1] == texts.end_id
    return texts.written(torch.stack(words, dim=1))
