"""The examples run as their users would run them, on few pictures and for few steps."""

from pathlib import Path

import pytest

from examples import train_on_your_pictures, use_a_model
from tinygptv import catalog
from tinygptv.journey import open_journey
from tinygptv.shapes.scenes import draw, scene

PICTURES = 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the example wants it, with one picture that has no caption."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        shown = scene("train", number)
        draw(shown, 48).save(folder / f"{number}.png")
        if number:
            first = shown.objects[0]
            (folder / f"{number}.txt").write_text(f"a {first.colour} {first.kind}\n")
    return folder


@pytest.fixture
def trained(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workdir in which the example has run."""
    monkeypatch.setenv(catalog.OWN_DEFINITIONS, "")
    train_on_your_pictures.main([str(pictures), "--workdir", str(tmp_path / "work"), "--steps", "4"])
    return tmp_path / "work"


def test_a_folder_of_pictures_becomes_a_model_that_answers(
    trained: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journey = open_journey("own", "own", workdir=str(trained))
    mixture = journey.find(journey.arrows("mix")[0])
    assert mixture.rows_out == PICTURES - 1
    stage = journey.find(journey.arrows("train")[0])
    assert stage.details["steps"] == 4

    capsys.readouterr()
    model = journey.store.folder(journey.find(journey.arrows("export")[0]).artifact)
    shown = [str(pictures / "1.png"), str(pictures / "2.png")]
    use_a_model.main([str(model), "[vqa] what colour is it?", *shown])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == shown
    (refused,) = use_a_model.ask(model, "what is this?", [pictures / "1.txt"])
    assert "not_image" in refused


def test_a_picture_without_a_caption_is_left_out(pictures: Path) -> None:
    records = train_on_your_pictures.captioned(pictures)
    assert [record["image"] for record in records][:2] == ["1.png", "10.png"]
    assert len(records) == PICTURES - 1
    assert records[0]["caption"] == f"a {scene('train', 1).objects[0].colour} {scene('train', 1).objects[0].kind}"
