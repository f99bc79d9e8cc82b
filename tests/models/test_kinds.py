"""A kind is files of its own and nothing else: three toys go all the way, and no other file knows a kind by name."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tinygptv.definitions.kinds import kinds

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("decoders", "connector_parts", "vision_encoders")
NAMES = {name for package in PACKAGES for name in kinds(f"tinygptv.definitions.{package}")} | {"neighbours"}
CLASSES = {"Phi", "Llama", "QFormer", "Linear", "MergePatches", "EvaVit"}
ABOUT_ONE_KIND = {
    "definitions/scorer.py": "BLIP-2's first stage is a Q-Former",
    "models/image_text.py": "BLIP-2's first stage is a Q-Former",
    "shapes/bootstrap/tower.py": "pretrains the tiny recipe's vision encoder",
    "shapes/bootstrap/qformer.py": "pretrains the tiny recipe's Q-Former",
    "doctor/libraries.py": "compares one encoder with the library's",
}
"""Modules that may import one kind, and why."""
OTHER_WORDS = {"models/qformer.py": {"linear"}, "shapes/bootstrap/phases.py": {"qformer"}}
"""Strings that only look like a kind: a head of the Q-Former, and a phase of pretraining."""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_kind_is_added_by_files_of_its_own(package: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.models.toys.scenario", package, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_every_kind_has_a_description_and_a_torch_file(package: str) -> None:
    assert kinds(f"tinygptv.definitions.{package}") == kinds(f"tinygptv.models.{package}")


def modules() -> Iterator[tuple[str, ast.Module]]:
    """All modules but the kinds' own files."""
    for path in sorted((ROOT / "tinygptv").rglob("*.py")):
        if not (path.parent.name in PACKAGES and path.parent.parent.name in ("definitions", "models")):
            yield str(path.relative_to(ROOT / "tinygptv")), ast.parse(path.read_text())


def test_no_other_module_imports_a_kind() -> None:
    own = tuple(f"tinygptv.{half}.{package}" for half in ("definitions", "models") for package in PACKAGES)
    importing = {
        name
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(own)
    }
    assert importing == set(ABOUT_ONE_KIND)


def test_no_other_module_branches_on_a_kind() -> None:
    branching = {
        f"{name}:{node.lineno}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if _kinds_in_branch(node) - OTHER_WORDS.get(name, set())
    }
    assert branching == set()


def _kinds_in_branch(node: ast.AST) -> set[str]:
    """The kinds that a comparison, an `isinstance` or a `case` names, as texts or as classes."""
    match node:
        case ast.Compare(left=left, comparators=comparators):
            looked_at: list[ast.AST] = [left, *comparators]
        case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=args):
            looked_at = list(args[1:])
        case ast.MatchClass(cls=cls):
            looked_at = [cls]
        case ast.MatchValue(value=value):
            looked_at = [value]
        case _:
            return set()
    found = [inner for each in looked_at for inner in ast.walk(each)]
    texts = {each.value for each in found if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    names = {each.id for each in found if isinstance(each, ast.Name)}
    attributes = (each for each in found if isinstance(each, ast.Attribute))
    names |= {each.attr for each in attributes if ast.unparse(each.value) != "nn"}
    return texts & NAMES | names & CLASSES


@pytest.mark.parametrize(
    "code", ["x == 'phi'", "isinstance(x, model.Phi)", "match x:\n    case Llama(): ...", "'eva_vit' in names"]
)
def test_a_branch_on_a_kind_would_be_found(code: str) -> None:
    assert any(_kinds_in_branch(node) for node in ast.walk(ast.parse(code)))
