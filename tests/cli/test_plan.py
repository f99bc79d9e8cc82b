"""The command line's `plan --resolved`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.miniature import HARDWARE, RECIPE, SOURCE, write_miniature
from tinygptv.cli.main import main


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name, value in write_miniature(tmp_path / "mini", {"stage1": 2, "stage2": 2}).items():
        monkeypatch.setenv(name, value)
    return ["plan", "--resolved", "--recipe", RECIPE, "--source", SOURCE, "--workdir", str(tmp_path / "work")]


def test_a_resolved_plan_needs_neither_torch_nor_weights_nor_data(tmp_path: Path) -> None:
    arguments = ["plan", "--resolved", "--recipe", "tinygptv", "--source", "laion", "--hardware", "h200"]
    code = (
        "import sys; from tinygptv.cli.main import main\n"
        f"code = main([*{arguments!r}, '--workdir', {str(tmp_path)!r}])\n"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["recipe"]["seed"] == 42


def test_origins_lie_below_the_folder_of_your_own_definitions(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options, "--hardware", HARDWARE]) == 0
    printed = capsys.readouterr().out
    assert f"  # recipes/{RECIPE}.yaml:" in printed
    assert f"  # hardware/{HARDWARE}.yaml:" in printed


@pytest.mark.parametrize(("memory_gib", "decided"), [(64.0, False), (0.001, True)])
def test_checkpointing_that_depends_on_memory_is_decided_for_each_stage(
    memory_gib: float, decided: bool, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mini" / "definitions" / "hardware" / f"{HARDWARE}.yaml"
    profile: dict[str, Any] = yaml.safe_load(path.read_text())
    asking = profile | {"gradient_checkpointing": "if_needed", "memory_gib": memory_gib}
    path.write_text(yaml.safe_dump(asking))
    assert main([*options, "--hardware", HARDWARE]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["hardware"]["gradient_checkpointing"] == "if_needed"
    assert [stage["gradient_checkpointing"] for stage in found["planned"].values()] == [decided, decided]


def test_a_plan_is_either_json_or_resolved(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--json", "--resolved"])
    assert "not allowed with argument" in capsys.readouterr().err
