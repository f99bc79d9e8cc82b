"""Every command in the documentation: it names what exists, and what can run in a moment is run.

Commands of `tinygptv` run as they are written, in a folder where the names of the shipped definitions stand for the
journey's inputs in miniature, and where a run is already finished. A block that cannot be run says why in a comment
before it: `<!-- not run: reason -->`.
"""

import argparse
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest
import yaml

from flows.ablate import ablate
from flows.curate import curate, refresh_data
from flows.encode import encode
from flows.evaluate import evaluate, report
from flows.journey import train_all
from flows.mix import mix
from flows.release import quantize
from flows.train import train_stage
from tests.docs.reading import CHECKOUT, Block, blocks, documents, prose
from tests.miniature import HARDWARE, RECIPE, SOURCE, write_miniature
from tinygptv import catalog
from tinygptv.cli.main import _parser, main
from tinygptv.shapes.scenes import draw, scene
from tinygptv.shapes.server import serve

SHELLS = {"sh", "bash", "console", "shell"}
FLOWS = {
    flow.name: flow
    for flow in (ablate, curate, refresh_data, encode, evaluate, report, train_all, mix, quantize, train_stage)
}
STAGES = ("stage1", "stage4")

ONLY_CHECKED = {
    "doctor": "tests/doctor runs it",
    "convert": "tests/release runs it, on checkpoints of every layout",
}
"""Verbs whose commands are parsed and not run."""

MADE_DRY = {"ablate", "bootstrap", "encode", "train-all"}
"""Verbs that train or start processes for long: run with --dry-run."""


@dataclass(frozen=True)
class Command:
    """One command line, and where it stands."""

    words: tuple[str, ...]
    block: Block

    def __str__(self) -> str:
        return f"{self.block.document}: {' '.join(self.words)}"


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of a shell block; lines of a console that do not begin with `$` are output."""
    for line in block.text.replace("\\\n", " ").splitlines():
        is_output = block.language == "console" and not line.startswith("$ ")
        words = [] if is_output else shlex.split(line.removeprefix("$ "), comments=True)
        yield from (Command(tuple(part), block) for is_and, part in groupby(words, "&&".__eq__) if not is_and)


COMMANDS = [
    command
    for document in documents()
    for block in blocks(document)
    if block.language in SHELLS
    for command in commands_of(block)
]


def program(command: Command) -> str:
    return command.words[0].removeprefix(".venv/bin/")


def of(name: str) -> list[Command]:
    """The commands of one program, each once."""
    seen = {command.words: command for command in COMMANDS if program(command) == name}
    return list(seen.values())


def parsed(words: tuple[str, ...]) -> argparse.Namespace:
    """What the real parser makes of a command of `tinygptv`."""
    try:
        return _parser().parse_args(words[1:])
    except SystemExit as ended:
        assert ended.code == 0, f"`{' '.join(words)}` is refused by the command line"
        return argparse.Namespace()


def test_every_command_belongs_to_a_program_that_is_checked_or_says_why_it_is_not_run() -> None:
    checked = {"make", "tinygptv", "prefect", "python", "pip", "export"}
    unknown = [command for command in COMMANDS if program(command) not in checked and not command.block.not_run]
    assert [str(command) for command in unknown] == []
    assert len(COMMANDS) > 40


def test_no_command_hides_in_a_block_without_a_language() -> None:
    hidden = [
        block.place
        for document in documents()
        for block in blocks(document)
        if block.language not in SHELLS and re.search(r"^(\$ |make |(\.venv/bin/)?tinygptv )", block.text, re.MULTILINE)
    ]
    assert hidden == []


@pytest.mark.parametrize("command", of("make"), ids=str)
def test_a_target_of_make_exists_and_takes_these_parameters(command: Command) -> None:
    _, *words = command.words
    targets = re.findall(r"^([\w-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    wanted = {word for word in words if "=" not in word}
    assert wanted
    assert wanted <= set(targets)
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    assert all(f"$({name})" in (CHECKOUT / "Makefile").read_text() for name in variables if name != "PYTHON")
    if "train-all" in wanted:
        check_parameters("train-all", shlex.split(variables.get("ARGS", "")))


@pytest.mark.parametrize("command", of("prefect"), ids=str)
def test_a_command_of_prefect_names_a_deployment_and_parameters_that_exist(command: Command) -> None:
    _, noun, verb, *rest = command.words
    assert noun == "deployment"
    assert verb in {"run", "ls", "schedule"}
    if verb == "run":
        check_parameters(deployed(rest[0]), rest[1:])
    elif verb == "schedule":
        assert rest[0] in {"ls", "pause", "resume"}
        deployed(rest[1])


def deployed(name: str) -> str:
    """The flow of a deployment. Fails if `prefect.yaml` has no such deployment."""
    known = {}
    for one in yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"]:
        path, _, function = one["entrypoint"].partition(":")
        (flow,) = [flow.name for flow in FLOWS.values() if flow.fn.__name__ == function]
        assert (CHECKOUT / path).is_file()
        known[f"{flow}/{one['name']}"] = flow
    assert name in known
    return known[name]


def check_parameters(flow: str, words: list[str]) -> None:
    """Words must be `-p name=value`, of parameters that the flow has and definitions that exist."""
    assert words[::2] == ["-p"] * (len(words) // 2)
    parameters = inspect.signature(FLOWS[flow].fn).parameters
    for word in words[1::2]:
        name, equals, value = word.partition("=")
        assert equals
        assert name in parameters
        check_reference(name, value)


def check_reference(name: str, value: str) -> None:
    """A recipe, source or profile that is named must be there; paths are the reader's own."""
    if name == "recipe":
        assert value.partition(":")[0] in catalog.names("recipe")
        catalog.recipe(value)
    elif name == "hardware" or (name == "source" and not re.search(r"[./*]", value)):
        assert value in catalog.names(name)


@pytest.mark.parametrize("command", of("python"), ids=str)
def test_a_script_exists_and_has_these_options(command: Command) -> None:
    words = list(command.words[1:])
    if words[:1] == ["-m"]:
        if words[1] == "pip":
            return
        path = CHECKOUT / words[1].replace(".", "/")
        script = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    else:
        script = CHECKOUT / words[0]
    text = script.read_text()
    assert [word for word in words if word.startswith("--") and f'"{word}"' not in text] == []


def test_every_extra_that_is_installed_exists() -> None:
    project = (CHECKOUT / "pyproject.toml").read_text()
    named = {extra for document in documents() for extra in re.findall(r"tinygptv\[(\w+)\]", prose(document))}
    assert named
    assert [extra for extra in sorted(named) if not re.search(rf"^{extra} = \[", project, re.MULTILINE)] == []


INLINE = sorted(
    {
        (document, text)
        for document in documents()
        for text in re.findall(r"`(tinygptv [a-z-]+[^`\n]*)`", prose(document))
    }
)


@pytest.mark.parametrize(("document", "text"), INLINE, ids=[f"{document}: {text}" for document, text in INLINE])
def test_a_command_in_a_sentence_names_a_verb_and_options_that_exist(document: str, text: str) -> None:
    _, verb, *rest = shlex.split(text)
    (subcommands,) = (one for one in _parser()._actions if isinstance(one, argparse._SubParsersAction))
    assert verb in subcommands.choices
    options = {option for action in subcommands.choices[verb]._actions for option in action.option_strings}
    assert {word for word in rest if word.startswith("--")} <= options


OURS = of("tinygptv")


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_command_is_understood_and_names_definitions_that_exist(command: Command) -> None:
    options = vars(parsed(command.words))
    for name in ("recipe", "source", "hardware"):
        if options.get(name):
            check_reference(name, options[name])
    if options.get("stage") and options.get("recipe"):
        assert options["stage"] in [stage.stage for stage in catalog.recipe(options["recipe"]).stages]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the shipped names stand for the miniature, whose run is finished and published twice."""
    folder = tmp_path_factory.mktemp("documented")
    environment = write_miniature(folder / "mini", dict.fromkeys(STAGES, 1))
    name_as_shipped(folder / "mini" / "definitions")
    shown = draw(scene("heldout", 0), 32)
    shown.save(folder / "picture.png")
    (folder / "tables").mkdir()
    with pytest.MonkeyPatch.context() as patch, serve(folder / "mini") as address:
        for name, value in (environment | {"TINYGPTV_BASE_URL": address, "TINYGPTV_ALLOW_PRIVATE": "1"}).items():
            patch.setenv(name, value)
        patch.chdir(folder)
        import pandas

        table = folder / "mini" / "pairs.jsonl"
        rows = table.read_text().splitlines(keepends=True)
        pandas.read_json(table, lines=True).to_parquet(folder / "tables" / "photos.parquet")
        table.write_text("".join(rows[:-4]))
        assert main(["refresh"]) == 0
        table.write_text("".join(rows))
        assert main(["refresh", "--accept", "rot_jump"]) == 0
        assert main(["train-all"]) == 0
        yield folder


def name_as_shipped(definitions: Path) -> None:
    """Copy the miniature's definitions under the names that the documentation uses."""
    profile = (definitions / "hardware" / f"{HARDWARE}.yaml").read_text()
    cached = yaml.safe_dump(yaml.safe_load(profile) | {"features": "cached"})
    recipe = (definitions / "recipes" / f"{RECIPE}.yaml").read_text()
    filters = yaml.safe_load((definitions / "filters" / "mini_pairs.yaml").read_text())
    filters["rules"] = [
        {"name": "min_side", "keep": "least(width, height) >= 16", "why": "smaller pictures show nothing"},
        {"name": "caption_words", "keep": "word_count(caption) >= 3", "why": "one word says too little"},
    ]
    for path, text in {
        **{f"filters/{name}.yaml": yaml.safe_dump(filters) for name in ("mini_pairs", "web_pairs")},
        "sources/shapes.yaml": (definitions / "sources" / f"{SOURCE}.yaml").read_text(),
        **{f"recipes/{name}.yaml": recipe for name in ("tinygptv", "tinygptv_tiny")},
        **{f"hardware/{name}.yaml": profile for name in ("cpu", "rtx3090", "rtx4060")},
        "hardware/cpu_cached.yaml": cached,
    }.items():
        (definitions / path).write_text(text)


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_command_runs_as_it_is_written(
    command: Command, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = command.words[1]
    if verb in ONLY_CHECKED or "--help" in command.words or command.block.not_run:
        return
    dry = ["--dry-run"] if verb in MADE_DRY and "--dry-run" not in command.words else []
    monkeypatch.chdir(finished)
    assert main([*command.words[1:], *dry]) == 0, capsys.readouterr().err
