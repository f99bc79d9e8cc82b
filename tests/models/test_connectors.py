"""Connectors that join neighbouring patches, as in MiniGPT-v2."""

import pytest
import torch

from tinygptv.definitions.model import ConnectorPart, Linear
from tinygptv.definitions.model import Neighbours as NeighboursPart
from tinygptv.errors import ShapeError
from tinygptv.models.connectors import Neighbours, build_connector


def test_neighbours_join_patches_in_reading_order_without_the_class_token() -> None:
    features = torch.arange(2 * 9 * 3).reshape(2, 9, 3).float()
    joined = Neighbours(4)(features)
    assert joined.shape == (2, 2, 12)
    torch.testing.assert_close(joined[1, 0], features[1, 1:5].flatten())
    torch.testing.assert_close(joined[1, 1], features[1, 5:9].flatten())


def test_patches_that_would_be_left_over_are_refused_with_their_number() -> None:
    with pytest.raises(ShapeError, match="cannot join 10 patches by 4: 2 would be left over"):
        Neighbours(4)(torch.zeros(1, 11, 3))


def test_minigpt_v2s_connector_has_its_published_shape() -> None:
    parts: list[ConnectorPart] = [NeighboursPart(part="neighbours", count=4), Linear(part="linear", width=4096)]
    with torch.device("meta"):
        connector = build_connector(parts, 1408)
        assert connector(torch.empty(1, 1025, 1408)).shape == (1, 256, 4096)
    assert sum(parameter.numel() for parameter in connector.parameters()) == 5632 * 4096 + 4096
