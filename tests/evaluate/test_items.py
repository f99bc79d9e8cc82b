"""Selection of a benchmark's items, and drop counts of the others."""

from pathlib import Path

import pytest
from PIL import Image

from tinygptv.data.annotations import Annotations
from tinygptv.definitions.benchmark import Benchmark
from tinygptv.errors import DataError
from tinygptv.evaluate.items import answered_items, choose_items, chosen, truth_of
from tinygptv.evaluate.metric import Truth
from tinygptv.sample import ImageReference, Sample, Turn

BOX = (0.0, 0.0, 0.5, 0.5)


def test_a_limited_choice_does_not_depend_on_the_order_of_the_file() -> None:
    samples = [Sample(str(number), (), (Turn("q", "a"),)) for number in range(50)]
    assert chosen(samples, 7) == chosen(samples[::-1], 7)
    assert chosen(samples, None) == samples


def test_boxes_are_scored_at_the_size_of_their_image(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    image = ImageReference(str(tmp_path / "a.png"))
    truth = truth_of(Sample("k", (image,), (Turn("the dog", "{<0><0><50><50>}"),), boxes=((0, 0, 0.5, 0.5),)))
    assert truth.image_size == (30, 20)
    assert truth.answers == ("{<0><0><50><50>}",)


def test_an_item_with_an_unreadable_image_size_is_counted(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>gone</html>")
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    samples = [
        Sample(name, (ImageReference(str(tmp_path / name)),), (Turn("the dog", "{<0><0><50><50>}"),), boxes=(BOX,))
        for name in ("page.jpg", "gone.jpg", "a.png")
    ]
    with pytest.raises(DataError, match=r"page\.jpg, page\.jpg: its size cannot be read \(not_image\)"):
        truth_of(samples[0])
    benchmark = Benchmark(about="t", source="t", task="refer", metric="referring_iou", max_new_tokens=4)
    kept, drops = choose_items(benchmark, Annotations(tmp_path, samples, 3), noise=False)
    assert [sample.key for sample, _ in kept] == ["a.png"]
    assert drops["unreadable_image"] == 2


def test_items_with_too_few_human_answers_are_counted_and_the_others_scored(tmp_path: Path) -> None:
    samples = [Sample(str(n), (), (Turn("q", "a"),), answers=("a",) * n) for n in (3, 4, 10)]
    benchmark = Benchmark(about="t", source="t", task="vqa", metric="vqa_accuracy", max_new_tokens=4)
    kept, drops = choose_items(benchmark, Annotations(tmp_path, samples, 3), noise=False)
    assert [sample.key for sample, _ in kept] == ["4", "10"]
    assert drops["too_few_answers"] == 1


def test_items_that_could_not_be_asked_are_counted(tmp_path: Path) -> None:
    samples = [Sample(str(n), (), (Turn("q", "a"),)) for n in range(2)]
    benchmark = Benchmark(about="t", source="t", task="vqa", metric="exact_match", max_new_tokens=4)
    asked, drops = choose_items(benchmark, Annotations(tmp_path, samples, 2), noise=False)
    kept, said = answered_items("t", benchmark, asked, [DataError("broken"), "a"], drops)
    assert ([sample.key for sample, _ in kept], said, drops["unusable_item"]) == (["1"], ["a"], 1)
    assert kept[0][1] == Truth(("a",), group="q")
