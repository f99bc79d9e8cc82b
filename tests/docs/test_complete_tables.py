"""Tables of the documentation that promise to list everything do."""

import re

import yaml

from tests.docs.reading import CHECKOUT, read
from tinygptv import catalog

INTERNAL = {"TINYGPTV_AGENT_PID", "TINYGPTV_STACK", "TINYGPTV_CHECKOUT"}
"""Variables that our own processes set for each other."""


def named(document: str, pattern: str) -> set[str]:
    return set(re.findall(pattern, read(document)))


def test_every_environment_variable_is_listed() -> None:
    files = [path for folder in ("tinygptv", "infra") for path in (CHECKOUT / folder).rglob("*.py")]
    used = {name for path in files for name in re.findall(r"TINYGPTV_[A-Z_]*[A-Z]", path.read_text())}
    assert named("docs/operating.md", r"`(TINYGPTV_[A-Z_]+)") == used - INTERNAL


def test_every_deployment_is_listed() -> None:
    deployments = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"]
    names = {one["name"] for one in deployments}
    listed = named("docs/operating.md", rf"`([a-z-]+/(?:{'|'.join(names)}))`")
    functions = [one["entrypoint"].rpartition(":")[2].replace("_", "-") for one in deployments]
    assert listed == {f"{function}/{one['name']}" for function, one in zip(functions, deployments, strict=True)}


def test_every_recipe_and_profile_is_listed() -> None:
    assert set(catalog.names("recipe")) <= named("docs/recipes.md", r"`(\w+)`")
    assert set(catalog.names("hardware")) <= named("docs/hardware.md", r"`(\w+)`")


def test_every_definition_folder_is_listed() -> None:
    folders = {folder.name for folder in catalog.FOLDERS.values()}
    assert folders | {"checks"} <= named("docs/your_data.md", r"`(\w+)`")
    assert {path.name for path in (CHECKOUT / "datasets").iterdir() if path.is_dir()} == named(
        "datasets/README.md", r"\| `(\w+)/` \|"
    )
