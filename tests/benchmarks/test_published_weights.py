"""The weight files of the full-size benchmark, at a small size, read by the real loader."""

from pathlib import Path

import torch

from benchmarks.published_weights import write_published
from tests.release.tiny import MODEL, NOWHERE
from tinygptv.definitions.model import Model
from tinygptv.models.weights import empty_model, load_weights


def test_every_published_layout_is_loaded_whole(tmp_path: Path) -> None:
    content = MODEL.model_dump()
    content["connector"][1]["weights"] = NOWHERE
    written = write_published(tmp_path, Model.model_validate(content))
    model = empty_model(written, written.vision_encoder.image_size)
    report = load_weights(model, written, dtype=torch.bfloat16)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert set(report.loaded.values()) == {
        "from eva_vit_g.pth (EVA-CLIP as LAVIS names it)",
        "from blip2_pretrained_flant5xxl.pth (BLIP-2 as LAVIS names it)",
        "from pretrained_minigpt4_7b.pth (a projection of MiniGPT-4)",
        "from phi-2 (the stock layout)",
    }
    assert any(name.startswith("blocks.1.") for _, name in report.left_out)
