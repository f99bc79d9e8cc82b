"""The drawn world: pure, balanced, and never the same scene in two splits."""

from collections import Counter

import numpy as np
import pytest

from tinygptv.errors import DataError
from tinygptv.shapes.scenes import COLOURS, GRID, KINDS, SIZES, SPLITS, TEXTURES, draw, scene, split_of


def test_a_scene_and_its_drawing_are_functions_of_split_and_index() -> None:
    assert scene("train", 7) == scene("train", 7)
    assert draw(scene("train", 7), 48).tobytes() == draw(scene("train", 7), 48).tobytes()
    assert scene("train", 7).objects != scene("train", 8).objects


def test_no_content_is_in_two_splits() -> None:
    contents = {
        split: {
            frozenset((o.row, o.column, o.kind, o.colour, o.size) for o in scene(split, i).objects) for i in range(400)
        }
        for split in SPLITS
    }
    assert not contents["pretrain"] & contents["train"]
    assert not contents["pretrain"] & contents["heldout"]
    assert not contents["train"] & contents["heldout"]


def test_the_split_of_a_content_ignores_the_order_of_its_objects() -> None:
    for index in range(50):
        objects = scene("heldout", index).objects
        assert split_of(objects) == split_of(objects[::-1]) == "heldout"


def test_objects_stay_in_their_cells_and_so_never_overlap() -> None:
    for index in range(300):
        cells = set()
        for thing in scene("train", index).objects:
            x0, y0, x1, y1 = thing.box
            assert thing.column / GRID <= x0 < x1 <= (thing.column + 1) / GRID + 1e-3
            assert thing.row / GRID <= y0 < y1 <= (thing.row + 1) / GRID + 1e-3
            cells.add((thing.row, thing.column))
        assert len(cells) == len(scene("train", index).objects)


def test_counts_kinds_colours_sizes_and_grounds_are_all_common() -> None:
    scenes = [scene("pretrain", index) for index in range(1200)]
    things = [thing for picture in scenes for thing in picture.objects]
    for values, choices in (
        ([len(picture.objects) for picture in scenes], range(1, 5)),
        ([picture.ground.texture for picture in scenes], TEXTURES),
        ([thing.kind for thing in things], KINDS),
        ([thing.colour for thing in things], COLOURS),
        ([thing.size for thing in things], SIZES),
    ):
        counts = Counter(values)
        assert all(counts[choice] > 0.8 * len(values) / len(choices) for choice in choices)


def test_a_box_bounds_what_is_drawn() -> None:
    side = 120
    for index in range(60):
        picture = scene("heldout", index)
        with_shapes = np.asarray(draw(picture, side), dtype=int)
        bare = np.asarray(draw(type(picture)((), picture.ground, picture.split, picture.index), side), dtype=int)
        changed = np.abs(with_shapes - bare).sum(axis=2) > 40
        for thing in picture.objects:
            x0, y0, x1, y1 = (round(edge * side) for edge in thing.box)
            cell = np.zeros_like(changed)
            rows, columns = (slice(at * side // GRID, (at + 1) * side // GRID) for at in (thing.row, thing.column))
            cell[rows, columns] = changed[rows, columns]
            ys, xs = np.nonzero(cell)
            drawn = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
            assert np.abs(drawn - [x0, y0, x1, y1]).max() <= 2, thing


def test_every_colour_stands_out_from_its_ground() -> None:
    for index in range(100):
        picture = scene("train", index)
        pixels = np.asarray(draw(picture, 96), dtype=int)
        for thing in picture.objects:
            x, y = (
                int((low + high) / 2 * 96) for low, high in ((thing.box[0], thing.box[2]), (thing.box[1], thing.box[3]))
            )
            assert pixels[y, x].max() - pixels[y, x].min() > 90, thing


@pytest.mark.parametrize(("split", "index"), [("test", 0), ("train", -1)])
def test_a_scene_that_does_not_exist_is_refused(split: str, index: int) -> None:
    with pytest.raises(DataError, match="pretrain, train, heldout"):
        scene(split, index)
