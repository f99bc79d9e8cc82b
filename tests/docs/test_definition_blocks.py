"""Definition files that the documentation shows are read as they are written."""

import re
from pathlib import Path

import pytest
import yaml

from tests.docs.reading import Block, blocks, documents
from tinygptv import catalog

SHOWN = [
    block
    for document in documents()
    for block in blocks(document)
    if block.language in ("yaml", "yml") and block.text.startswith("# ")
]


def kind_and_name(block: Block) -> tuple[str, str]:
    """What a block's first line says of it: `# sources/my_pairs.yaml` is the source `my_pairs`."""
    found = re.match(r"# (\w+)/(\w+)\.yaml\n", block.text)
    assert found, f"{block.place}: the first line is not the comment `# folder/name.yaml`"
    (kind,) = (kind for kind, folder in catalog.FOLDERS.items() if folder.name == found[1])
    return kind, found[2]


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: block.place)
def test_a_file_that_is_shown_is_a_definition(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, name = kind_and_name(block)
    path = tmp_path / catalog.FOLDERS[kind].name / f"{name}.yaml"
    path.parent.mkdir()
    path.write_text(block.text)
    monkeypatch.setenv(catalog.OWN_DEFINITIONS, str(tmp_path))
    assert getattr(catalog, kind)(name).about


def test_some_files_are_shown() -> None:
    assert {kind_and_name(block)[0] for block in SHOWN} >= {"source", "mixture", "benchmark", "recipe"}


@pytest.mark.parametrize(
    "block",
    [block for document in documents() for block in blocks(document) if block.language in ("yaml", "yml")],
    ids=lambda block: block.place,
)
def test_what_is_shown_is_yaml(block: Block) -> None:
    assert isinstance(yaml.safe_load(block.text), dict | list)
