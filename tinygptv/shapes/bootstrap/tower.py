"""Phase 1: the vision encoder learns to predict, for every patch, which object is there and where.

Patch tokens are trained first, without the Q-Former: trained together, the two learn colours and counts but never
positions.
"""

import torch
from torch import Tensor, nn

from tinygptv.models.vision_encoders.eva_vit import EvaVit, vision_config
from tinygptv.shapes.bootstrap.corpus import ObjectHead, batch_of_scenes, crowded, patch_targets, pixel_values
from tinygptv.shapes.bootstrap.loop import Step
from tinygptv.shapes.bootstrap.settings import Settings
from tinygptv.shapes.scenes import GRID, Scene

_TOGETHER = 5  # scenes merged into one crowded picture of about seven objects


class TowerPretraining(nn.Module):
    """The encoder with two auxiliary linear heads: objects from patch tokens, their number from the class token.

    Three of four batches are crowded pictures, from which a step learns about three times as much.

    Batches alternate between the two picture sizes; the position table belongs to the smaller one and is interpolated
    for the larger, exactly as when loading the model.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = EvaVit(
            vision_config(
                hidden_size=settings.width,
                intermediate_size=4 * settings.width,
                num_hidden_layers=settings.vision_layers,
                num_attention_heads=settings.heads,
                image_size=settings.image_sizes[0],
                patch_size=settings.patch_size,
            )
        )
        self.objects = ObjectHead(settings.width)
        self.number = nn.Linear(settings.width, GRID * GRID)

    def step(self, number: int) -> Step:
        """The loss of one step on new scenes."""
        side = self.settings.image_sizes[number % 2]
        batch = self.settings.tower.batch
        scenes = batch_of_scenes("pretrain", number, batch * _TOGETHER)
        return self.measure(scenes[:batch] if number % 8 < 2 else crowded(scenes, _TOGETHER), side)

    def measure(self, scenes: list[Scene], side: int) -> Step:
        """Loss and accuracies on given scenes at a picture size."""
        features = self.features(pixel_values(scenes, side))
        loss, figures = self.objects(features[:, 1:], patch_targets(scenes, side // self.settings.patch_size))
        counts = torch.tensor([len(picture.objects) - 1 for picture in scenes])
        logits = self.number(features[:, 0])
        figures["number"] = (logits.argmax(dim=-1) == counts).float().mean().item()
        return Step(loss + 0.5 * nn.functional.cross_entropy(logits, counts), figures)

    def features(self, pixels: Tensor) -> Tensor:
        """Features at either size, from the single position table being trained."""
        return self.encoder.model(pixels, interpolate_pos_encoding=True).last_hidden_state
