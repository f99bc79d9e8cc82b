"""The walls of the house: who imports whom, and what lies where."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "tinygptv").rglob("*.py"))


def imported(path: Path, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def starts(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_library_never_imports_the_orchestrator(path: Path) -> None:
    # The doctor examines the orchestrator, as a user's environment, in processes of its own.
    assert not [name for name in imported(path) if starts(name, "prefect") or starts(name, "flows")]


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        (
            "definitions",
            ["tinygptv.data", "tinygptv.models", "tinygptv.train", "tinygptv.release", "tinygptv.evaluate"],
        ),
        ("scoring", ["tinygptv.train", "tinygptv.release", "tinygptv.evaluate"]),
        ("data", ["tinygptv.judging"]),
        ("models", ["tinygptv.judging"]),
        ("definitions", ["torch", "transformers", "duckdb", "fsspec"]),
        ("data", ["tinygptv.models", "tinygptv.train", "tinygptv.release", "tinygptv.evaluate"]),
        ("models", ["tinygptv.data", "tinygptv.train", "tinygptv.release", "tinygptv.evaluate"]),
    ],
)
def test_imports_go_one_way(folder: str, forbidden: list[str]) -> None:
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "tinygptv" / folder).rglob("*.py")
        for name in imported(path)
        if any(starts(name, other) for other in forbidden)
    }
    assert found == set()


def test_definitions_and_catalog_load_without_torch() -> None:
    code = "import sys, tinygptv.catalog, tinygptv.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_datasets_folder_holds_no_python_and_shadows_no_library() -> None:
    assert list((ROOT / "datasets").rglob("*.py")) == []
    code = "import sys; sys.path.insert(0, '.'); import datasets; print(datasets.__file__)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert str(ROOT / "datasets") not in shown


def test_only_the_command_line_prints() -> None:
    printing = {
        str(path.relative_to(ROOT))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    assert printing <= {"tinygptv/cli/main.py", "tinygptv/cli/doctor.py"}


def test_every_package_is_listed_by_name_for_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES if path.name == "__init__.py"}
    assert {package for package in packages if f'"{package}",' not in text} == set()


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(p.relative_to(ROOT))
        for p in MODULES
        if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert silent == []
