"""Curves: every stage has its panel, whatever its metrics file looks like."""

import base64
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tinygptv.report.figures import data_uri, loss_curve_svg, read_curve, smoothed


def metrics(path: Path, losses: list[float]) -> Path:
    rows = [{"step": step, "loss": loss, "lr": 1e-3 / step} for step, loss in enumerate(losses, 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_each_stage_has_a_panel_with_its_axes_named(tmp_path: Path) -> None:
    paths = {f"stage{n}": metrics(tmp_path / f"{n}.jsonl", [3.0 / step for step in range(1, 900)]) for n in (1, 2, 3)}
    svg = loss_curve_svg(paths)
    picture = ElementTree.fromstring(svg)
    words = ["".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"stage1", "stage2", "stage3"} <= set(words)
    assert words.count("step") == words.count("loss, nats per token") == words.count("learning rate") == 3
    assert (
        max(len(line.get("points", "").split()) for line in picture.iter("{http://www.w3.org/2000/svg}polyline")) <= 400
    )


def test_a_stage_that_has_not_begun_is_an_empty_panel(tmp_path: Path) -> None:
    assert "no steps recorded" in loss_curve_svg({"stage1": tmp_path / "absent.jsonl"})


@pytest.mark.parametrize("losses", [[2.0], [0.0, 0.0], [1.0, float("nan"), 0.5]])
def test_odd_curves_are_drawn(tmp_path: Path, losses: list[float]) -> None:
    svg = loss_curve_svg({"stage1": metrics(tmp_path / "m.jsonl", losses)})
    assert "nan" not in svg
    ElementTree.fromstring(svg)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = metrics(tmp_path / "m.jsonl", [3.0, 2.0])
    path.write_text(path.read_text() + '{"step": 3, "lo')
    assert read_curve("stage1", path).steps == [1, 2]


def test_smoothing_starts_at_the_first_value_and_lags_behind_jumps() -> None:
    assert smoothed([4.0])[0] == pytest.approx(4.0)
    assert 4.0 < smoothed([4.0] * 10 + [5.0])[-1] < 4.5


def test_a_stage_name_cannot_break_the_picture(tmp_path: Path) -> None:
    svg = loss_curve_svg({"<b>&": metrics(tmp_path / "m.jsonl", [1.0])})
    ElementTree.fromstring(svg)
    assert base64.b64decode(data_uri(svg).partition(",")[2]).decode() == svg
