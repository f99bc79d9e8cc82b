"""The notebook's cells run in order, on the journey's inputs in miniature."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.miniature import HARDWARE, PICTURES, RECIPE, SOURCE, write_miniature
from tinygptv.shapes.server import serve

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "curation_tour.ipynb"


def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text())["cells"]


def test_the_tour_runs_from_its_first_cell_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = write_miniature(tmp_path / "mini", {"stage1": 1})
    values = ("tour", RECIPE, SOURCE, HARDWARE, str(tmp_path / "work"))
    names: dict[str, Any] = {}
    with serve(tmp_path / "mini") as address:
        for name, value in (environment | {"TINYGPTV_BASE_URL": address}).items():
            monkeypatch.setenv(name, value)
        for number, cell in enumerate(cells()):
            if cell["cell_type"] == "code":
                is_parameters = "parameters" in cell["metadata"].get("tags", [])
                text = (
                    f"RUN, RECIPE, SOURCE, HARDWARE, WORKDIR = {values}" if is_parameters else "".join(cell["source"])
                )
                exec(compile(text, f"{NOTEBOOK.name}, cell {number}", "exec"), names)
    assert names["filtered"].rows_out == PICTURES
    assert "a picture of a" in capsys.readouterr().out


def test_one_cell_holds_the_parameters_and_no_output_is_committed() -> None:
    tagged = [cell for cell in cells() if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    assert [cell for cell in cells() if cell.get("outputs") or cell.get("execution_count")] == []
