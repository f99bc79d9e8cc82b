import pytest
import torch

from tinygptv.definitions.connector_parts import merge_patches
from tinygptv.definitions.connector_parts.linear import Linear
from tinygptv.definitions.parts import ConnectorPart
from tinygptv.errors import ShapeError
from tinygptv.models.connector_parts.merge_patches import MergePatches
from tinygptv.models.vlm import build_connector


def test_patches_are_joined_in_reading_order_without_the_class_token() -> None:
    features = torch.arange(2 * 9 * 3).reshape(2, 9, 3).float()
    joined = MergePatches(4)(features)
    assert joined.shape == (2, 2, 12)
    torch.testing.assert_close(joined[1, 0], features[1, 1:5].flatten())
    torch.testing.assert_close(joined[1, 1], features[1, 5:9].flatten())


def test_patches_that_would_be_left_over_are_refused_with_their_number() -> None:
    with pytest.raises(ShapeError, match="cannot join 10 patches by 4: 2 would be left over"):
        MergePatches(4)(torch.zeros(1, 11, 3))


def test_minigpt_v2s_connector_has_its_published_shape() -> None:
    parts: list[ConnectorPart] = [
        merge_patches.MergePatches(part="merge_patches", count=4),
        Linear(part="linear", width=4096),
    ]
    with torch.device("meta"):
        connector = build_connector(parts, 1408)
        assert connector(torch.empty(1, 1025, 1408)).shape == (1, 256, 4096)
    assert sum(parameter.numel() for parameter in connector.parameters()) == 5632 * 4096 + 4096


@pytest.mark.parametrize("spelling", ["merge_patches", "neighbours"])
def test_both_spellings_of_merged_patches_are_dumped_alike(spelling: str) -> None:
    part = merge_patches.MergePatches.model_validate({"part": spelling, "count": 4})
    assert part.model_dump() == {"part": "neighbours", "count": 4}
