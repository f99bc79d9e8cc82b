"""The walls of the house: which room may import which, and what lies where."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "tinygptv").rglob("*.py"))

FOUNDATION = {"errors", "sample", "definitions", "store"}
"""What every room may import, but for those that hold it up: see `ROOMS`."""

# A room is a folder of the package, a folder of `data`, or a module at the root. A room imports only rooms above it, so
# there are no circles. docs/architecture.md says what each is for.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "sample": set(),
    "pages": set(),
    "data.columns": set(),
    "definitions": {"errors"},
    "store": {"errors"},
    "catalog": set(),
    "data.prompting": set(),
    "data.shards": {"data.columns"},
    "data.pictures": {"data.shards"},
    "data.tables": {"data.columns", "data.shards"},
    "data.forget": {"data.columns", "data.shards"},
    "data.fetch": {"data.columns", "data.pictures"},
    "shapes": {"data.prompting"},
    "data.annotations": {"data.pictures", "data.prompting", "data.tables", "shapes"},
    "data.download": {"data.columns", "data.fetch", "data.forget", "data.shards", "data.tables", "shapes"},
    "data.filters": {
        *("catalog", "data.annotations", "data.columns", "data.forget", "data.pictures", "data.shards", "data.tables"),
        "shapes",
    },
    "data.mixtures": {"catalog", "data.annotations", "data.forget", "data.shards", "shapes"},
    "data.batches": {"data.mixtures", "data.pictures", "data.prompting", "pages"},
    "data.upkeep": {"data.download", "data.forget", "data.shards"},
    "data.versions": {
        *("catalog", "data.columns", "data.download", "data.filters", "data.forget", "data.shards", "pages"),
    },
    "models": set(),
    "golden": {"data.batches", "data.prompting", "models"},
    "judging": {"catalog", "data.batches", "data.columns", "data.filters", "data.pictures", "data.shards", "models"},
    "train": {
        *("catalog", "data.batches", "data.forget", "data.mixtures", "data.pictures", "data.shards", "models"),
    },
    "release": {"catalog", "data.batches", "data.prompting", "models", "train"},
    "evaluate": {
        *("catalog", "data.annotations", "data.batches", "data.columns", "data.pictures", "data.prompting"),
        *("release", "shapes", "train"),
    },
    "report": {
        *("catalog", "data.mixtures", "data.pictures", "data.prompting", "data.versions", "evaluate", "pages"),
        *("release", "shapes", "train"),
    },
    "shapes.bootstrap": {"data.prompting", "evaluate", "models", "shapes"},
    "journey": {
        *("catalog", "data.batches", "data.download", "data.filters", "data.mixtures", "data.versions", "evaluate"),
        *("judging", "release", "report", "train"),
    },
    "runs": {
        *("catalog", "data.forget", "data.mixtures", "data.versions", "journey", "models", "pages", "report", "train"),
    },
    "doctor": {"catalog", "data.batches", "journey", "models", "release", "shapes"},
    "cli": {
        *("catalog", "data.batches", "data.filters", "data.forget", "data.mixtures", "data.upkeep", "data.versions"),
        *("doctor", "golden", "journey", "judging", "release", "runs", "shapes.bootstrap", "train"),
    },
}


def imported(path: Path) -> Iterator[str]:
    """What a file imports, at its top or in a function: `package.name` for `from package import name`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    """The room of a module or of a name in one; None for the package itself and for other libraries."""
    parts = module.split(".")
    known = [".".join(parts[1:length]) for length in (3, 2)] if parts[0] == "tinygptv" else []
    return next((room for room in known if room in ROOMS), None)


def rooms_imported() -> dict[str, set[str]]:
    """Which rooms each room really imports."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in MODULES:
        if (room := room_of(module_name(path))) is not None:
            found[room] |= {other for name in imported(path) if (other := room_of(name)) not in (None, room)}
    return found


def starts(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_the_library_never_imports_the_orchestrator() -> None:
    # The doctor examines the orchestrator, as a user's environment, in processes of its own.
    found = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in MODULES
        for name in imported(path)
        if starts(name, "prefect") or starts(name, "flows")
    }
    assert found == set()


def test_every_module_is_in_a_room() -> None:
    rooms = {module_name(path): room_of(module_name(path)) for path in MODULES}
    assert [module for module, room in rooms.items() if room is None] == ["tinygptv", "tinygptv.data"]


def test_rooms_import_what_the_table_allows() -> None:
    found = {
        f"{room} imports {other}"
        for room, others in rooms_imported().items()
        for other in others - ROOMS[room] - FOUNDATION
    }
    assert found == set()


def test_the_table_allows_nothing_that_no_room_needs() -> None:
    found = rooms_imported()
    assert {f"{room} need not import {other}" for room in ROOMS for other in ROOMS[room] - found[room]} == set()


def test_a_room_imports_only_rooms_above_it() -> None:
    above = list(ROOMS)
    below = {
        f"{room} imports {other}"
        for room, others in rooms_imported().items()
        for other in others
        if above.index(other) > above.index(room)
    }
    assert below == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_name(path): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = {name if name in modules else name.rpartition(".")[0] for name in imported(path)}
        graph[module] = {name for name in names if name in modules and name != module}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_the_root_and_the_data_folder_hold_rooms_not_modules() -> None:
    package = ROOT / "tinygptv"
    assert {path.name for path in package.glob("*.py")} == {
        *("__init__.py", "catalog.py", "errors.py", "journey.py", "sample.py"),
    }
    assert {path.name for path in (package / "data").glob("*.py")} == {"__init__.py"}


@pytest.mark.parametrize("library", ["torch", "transformers", "duckdb", "fsspec"])
def test_definitions_import_no_heavy_library(library: str) -> None:
    folder = ROOT / "tinygptv" / "definitions"
    importing = [path.name for path in folder.rglob("*.py") if any(starts(name, library) for name in imported(path))]
    assert importing == []


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
    assert {path for path in printing if not path.startswith("tinygptv/cli/")} == set()


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
