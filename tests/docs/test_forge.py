"""Files for forges and editors: they are read by others, so at least they must parse and name what exists."""

import re
from pathlib import Path

import pytest
import yaml

from tests.docs.reading import CHECKOUT

FILES = sorted(
    [*(CHECKOUT / ".github").rglob("*.yml"), CHECKOUT / ".pre-commit-config.yaml", CHECKOUT / "CITATION.cff"]
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_a_file_is_yaml_with_some_content(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_the_workflow_runs_scripts_and_targets_that_exist() -> None:
    workflow = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = re.findall(r"^([\w-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    made = [command.removeprefix("make ") for command in commands if command.startswith("make ")]
    scripts = [command for command in commands if not command.startswith(("make ", "sudo "))]
    assert set(made) <= set(targets)
    assert {"lint", "docs"} <= set(made)
    assert scripts == [".ci/run"]
    assert all((CHECKOUT / script).is_file() for script in scripts)


def test_the_citation_is_of_this_version() -> None:
    version = re.search(r'^version = "(.+)"$', (CHECKOUT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())["version"] == version[1]
    assert f"## {version[1]} - " in (CHECKOUT / "CHANGELOG.md").read_text()


def test_hooks_run_programs_of_the_environment() -> None:
    (local,) = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"]
    programs = {hook["entry"].split()[0] for hook in local["hooks"]}
    assert programs == {".venv/bin/ruff", ".venv/bin/mypy"}
