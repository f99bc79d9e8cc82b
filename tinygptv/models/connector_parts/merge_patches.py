"""Patches that follow each other, as one wide token."""

from torch import Tensor, nn

from tinygptv.definitions.connector_parts import merge_patches
from tinygptv.errors import ShapeError
from tinygptv.models.kinds import ConnectorPartKind


class MergePatches(nn.Module):
    """Drops the class token and joins every `count` patches that follow each other in reading order.

    (I, 1 + N, D) -> (I, N // count, count * D). Groups lie in one row of the picture, they are not squares. Source:
    MiniGPT-v2 (arXiv 2310.09478), `encode_img`.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, image_features: Tensor) -> Tensor:
        """Raises ShapeError if patches would be left over."""
        images, tokens, width = image_features.shape
        if left_over := (tokens - 1) % self.count:
            raise ShapeError(
                f"cannot join {tokens - 1} patches by {self.count}: {left_over} would be left over; choose an "
                "image_size whose patch count divides by it"
            )
        return image_features[:, 1:].reshape(images, (tokens - 1) // self.count, self.count * width)


class MergePatchesKind(ConnectorPartKind[merge_patches.MergePatches]):
    """It has no parameters, so there is nothing to read or to write."""

    def build(self, width: int) -> MergePatches:
        """(I, 1 + N, width) -> (I, N // count, count * width)."""
        return MergePatches(self.definition.count)
