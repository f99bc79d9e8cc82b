"""The command line: help with examples, dry runs, exit codes; and no torch until there is work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.miniature import RECIPE, SOURCE, write_miniature
from tinygptv.cli.main import main

ARROWS = ["download", "filter", "mix", "train", "export", "quantize", "evaluate", "report"]
VERBS = [*ARROWS, "plan", "score", "curate", "train-all", "bootstrap", "doctor", "chat", "convert"]
VERBS += ["encode", "refresh", "versions", "diff", "card", "forget"]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name, value in write_miniature(tmp_path / "mini", {"stage1": 2, "stage2": 2}).items():
        monkeypatch.setenv(name, value)
    return ["--recipe", RECIPE, "--source", SOURCE, "--workdir", str(tmp_path / "work")]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    assert f"example: tinygptv {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["train-all", "--dry-run"], ["evaluate", "--dry-run"]])
def test_help_and_dry_runs_import_no_torch(arguments: list[str], options: list[str]) -> None:
    given = arguments if arguments == ["--help"] else [*arguments, *options]
    code = (
        f"import sys\nfrom tinygptv.cli.main import main\ntry: main({given!r})\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_a_dry_run_prints_what_would_happen(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--dry-run", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [["run", "train", "stage1"], ["run", "train", "stage2"]]


def test_a_plan_covers_the_journey_from_download_to_report(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *options]) == 0
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert list(dict.fromkeys(line[1] for line in words if line[0] == "run")) == ARROWS


def test_a_plan_shows_a_column_per_stage(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *options]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["stage1", "stage2"]
    shown = {row.split()[0] for row in rows if row.strip()}
    assert shown >= {"lora", "trained", "weights", "optimizer", "activations", "total", "limit", "steps", "hours"}


def test_a_plan_in_json_is_one_line_per_stage(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *options, "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [first["stage"], second["stage"]] == ["stage1", "stage2"]
    assert 0 < first["parameters"]["trained"] <= second["parameters"]["trained"] < second["parameters"]["total"]
    assert first["memory_bytes"]["total"] < first["memory_bytes"]["limit"]


def test_a_plan_is_made_before_there_are_weights(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mini" / "backbones" / "qformer.safetensors").unlink()
    assert main(["plan", *options]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("not everything that training starts from is there yet: ")
    assert "qformer.safetensors" in last


def test_a_plan_that_cannot_fit_is_refused_with_a_remedy(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = {"about": "little", "device": "cuda", "ranks": 1, "micro_batch_size": 4, "precision": "fp32"}
    (tmp_path / "little.yaml").write_text(yaml.safe_dump(profile | {"zero_stage": 2, "memory_gib": 0.1}))
    assert main(["plan", *options, "--hardware", str(tmp_path / "little.yaml")]) == 2
    told = capsys.readouterr()
    assert "memory per rank" in told.out
    assert told.err.startswith("DefinitionError: ") and "the least is " in told.err


def test_a_wrong_definition_is_one_line_and_exit_code_two(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["curate", *options, "--source", "mini_pears"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("DefinitionError: ") and "Did you mean 'mini_pairs'?" in message
    assert message.count("\n") == 1


def test_an_unknown_stage_or_model_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *options, "--stage", "stage9"]) == 2
    assert main(["evaluate", *options, "--model", "int4"]) == 2
    assert "train 'stage9': recipe 'mini' has no such thing" in (told := capsys.readouterr().err)
    assert "Did you mean 'int8'?" in told


def test_work_that_cannot_be_done_is_exit_code_one(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["filter", *options]) == 1
    assert capsys.readouterr().err.startswith("DataError: ")


def test_a_workdir_that_is_a_file_is_one_clear_line(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["download", *options, "--workdir", str(tmp_path / "file")]) == 1
    assert "a part of this path is a file; choose another workdir" in capsys.readouterr().err


def test_a_chat_without_an_export_says_what_to_run_first(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", *options, str(tmp_path / "mini" / "images" / "00.png"), "what is this?"]) == 1
    assert "first run" in capsys.readouterr().err


def test_a_bootstrap_dry_run_names_the_phases_it_would_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bootstrap", "--dry-run", "--output", str(tmp_path), "--phase", "tokenizer"]) == 0
    assert capsys.readouterr().out == f"would train tokenizer into {tmp_path}\n"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "infra/hardware/cpu.yaml, features: live"),
        (["--hardware", "cpu_cached", "--part", "5/4"], "--part 5/4: write 1/4 for the first of four parts"),
        (["--hardware", "cpu_cached", "--stage", "stage9"], "encode 'stage9'"),
    ],
)
def test_what_cannot_be_encoded_is_refused(
    given: list[str], told: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", *options, *given]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["chat", "a.png", "caf\udce9?"],
        ["plan", "--recipe", "caf\udce9"],
        ["forget", "--caption", "\udce9", "--why", "asked"],
        ["forget", "--caption", "e", "--why", "\udce9"],
        ["bootstrap", "--phase", "\udce9"],
    ],
)
def test_text_that_is_no_utf_8_is_one_clear_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "is not UTF-8; write it in UTF-8" in message
    assert message.count("\n") == 1
