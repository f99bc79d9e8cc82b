"""pixel_values and texts -> how well they match: BLIP-2's first stage, frozen, as a judge of pairs."""

from torch import Tensor, nn

from tinygptv.models.qformer import ImageTextQFormer
from tinygptv.models.vision import VisionEncoder


class ImageTextModel(nn.Module):
    """The vision encoder and the image-text Q-Former on top of it; both in eval mode, without gradients."""

    def __init__(self, vision_encoder: VisionEncoder, qformer: ImageTextQFormer) -> None:
        super().__init__()
        self.vision_encoder = vision_encoder
        self.qformer = qformer
        self.eval().requires_grad_(False)

    def look(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> image features (B, N, D) and what each query found, as unit vectors (B, Q, W)."""
        features = self.vision_encoder(pixel_values)
        return features, self.qformer.image_embedding(self.qformer(features))

    def contrast(self, found: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """ITC: row b's text with row b's picture, the cosine of its best query: (B, Q, W), (B, T) -> (B,)."""
        texts = self.qformer.text_embedding(input_ids, attention_mask)
        return (found @ texts[:, :, None]).amax(dim=(1, 2))

    def matching(self, features: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """ITM: the probability that row b's text belongs to row b's picture: (B, N, D), (B, T) -> (B,)."""
        return self.qformer.matching_logits(features, input_ids, attention_mask).softmax(dim=1)[:, 1]
