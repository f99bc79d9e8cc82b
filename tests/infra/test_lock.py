"""The lock: it covers what pyproject.toml asks for, has hashes and no addresses, and moves only when asked."""

import importlib.util
import re
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = {path.name: path.read_text() for path in (ROOT / "infra" / "locks").iterdir()}
HASH = "--hash=sha256:" + 64 * "0"


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """infra/lock.py, as the command runs it."""
    monkeypatch.syspath_prepend(ROOT / "infra")
    specification = importlib.util.spec_from_file_location("lock", ROOT / "infra" / "lock.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def resolution(**versions: str) -> str:
    """What uv writes for these packages."""
    return "".join(f"{name}=={version} \\\n    {HASH}\n    # via tinygptv\n" for name, version in versions.items())


@pytest.fixture
def checkout(lock: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose lock has torch 2 and numpy 2; its set-up succeeds and its doctor finds something wrong."""
    folder = tmp_path / "check out"
    (folder / "infra" / "locks").mkdir(parents=True)
    for script, code in {"infra/setup.sh": 0, "tinygptv": 1}.items():
        (folder / script).write_text(f"#!/bin/sh\nexit {code}\n")
        (folder / script).chmod(0o755)
    for name, text in lock.split(resolution(torch="2.0", numpy="2.0")).items():
        (folder / "infra" / "locks" / name).write_text(text)
    monkeypatch.setattr(lock, "CHECKOUT", folder)
    monkeypatch.setattr(lock, "LOCKS", folder / "infra" / "locks")
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder


@pytest.fixture
def command(lock: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["lock.py", *arguments])
        return int(lock.main())

    return run


def uv_finds(monkeypatch: pytest.MonkeyPatch, lock: ModuleType, found: str | int) -> list[str]:
    """Let uv write this, or end with this exit code; the arguments that it is given."""
    given: list[str] = []

    def run(*arguments: str, **_: Any) -> int:
        given.extend(arguments)
        if isinstance(found, int):
            return found
        Path(arguments[arguments.index("--output-file") + 1]).write_text(found)
        return 0

    monkeypatch.setattr(lock.run_uv, "run", run)
    return given


def test_everything_that_the_project_asks_for_is_locked(lock: ModuleType) -> None:
    assert lock.uncovered(PROJECT, FILES) == []


@pytest.mark.parametrize("file", ["packages.txt", "tools.txt", "torch-cuda.txt"])
def test_every_package_has_one_version_and_hashes(file: str) -> None:
    blocks = re.findall(r"^\w.*?(?=^\w|\Z)", FILES[file], re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        assert re.match(r"[\w.-]+==[\w.!+]+( ; .+)? \\\n    --hash=sha256:[0-9a-f]{64}", block), block
    names = [block.partition("==")[0] for block in blocks]
    assert sorted(set(names)) == names


def test_the_lock_names_no_address_of_an_index() -> None:
    assert [file for file, text in FILES.items() if "://" in text or "index" in re.sub(r"# .*", "", text)] == []


def test_a_machine_without_a_gpu_is_given_no_cuda_libraries(lock: ModuleType) -> None:
    names = {requirement.name for requirement in lock.requirements(FILES["packages.txt"])}
    assert not [name for name in names if re.match(r"torch$|triton|nvidia|cuda", name)]


def test_both_builds_of_torch_have_one_version(lock: ModuleType) -> None:
    (cpu,) = lock.requirements(FILES["torch-cpu.txt"])
    (cuda,) = (found for found in lock.requirements(FILES["torch-cuda.txt"]) if found.name == "torch")
    assert str(cpu) == f"{cuda}+cpu"


def test_what_locked_packages_need_is_locked_too(lock: ModuleType) -> None:
    locked, missing = lock.versions(FILES), []
    # img2dataset is locked without what it lists; see pyproject.toml.
    for name in locked.keys() - {"img2dataset"}:
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # for another Python, platform or build of torch
        if distribution.version not in locked[name]:
            continue
        for needed in map(Requirement, distribution.requires or []):
            applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
            if applies and not any(map(needed.specifier.contains, locked.get(canonicalize_name(needed.name), ()))):
                missing.append(f"{name} needs {needed}")
    assert missing == []


def test_a_requirement_without_a_fitting_version_is_named(lock: ModuleType) -> None:
    project = {
        "project": {
            "name": "tinygptv",
            "dependencies": ["numpy>=2", "Torch>=3"],
            "optional-dependencies": {"dev": ["tinygptv[heic]"], "heic": ["pillow-heif>=1"], "jxl": ["left_out"]},
        },
        "dependency-groups": {"tools": ["uv"]},
    }
    files = lock.split(resolution(numpy="2.1", torch="2.13.0", uv="0.9"))
    assert lock.uncovered(project, files) == ["Torch>=3", "pillow-heif>=1"]


def test_what_is_installed_otherwise_is_named(lock: ModuleType) -> None:
    versions = {name: metadata.version(name) for name in ("numpy", "torch")} | {"pytest": "1.0", "not_installed": "2.0"}
    versions["torch"] = versions["torch"].partition("+")[0]
    assert lock.differing(lock.split(resolution(**versions))) == [
        f"pytest: locked 1.0, installed {pytest.__version__}",
        "not_installed: locked 2.0, installed none",
    ]


def test_a_new_lock_starts_from_the_old_one_unless_everything_is_to_move(
    lock: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = uv_finds(monkeypatch, lock, resolution(torch="2.13.0"))
    new = lock.resolve({}, upgrade=False)
    assert "--upgrade" not in given and "--generate-hashes" in given
    assert new["torch-cpu.txt"].splitlines()[-1] == "torch==2.13.0+cpu"
    lock.resolve({}, upgrade=True)
    assert "--upgrade" in given


def test_a_dry_run_tells_what_would_move_and_writes_nothing(
    lock: ModuleType,
    checkout: Path,
    command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = lock.read(lock.LOCKS)
    uv_finds(monkeypatch, lock, resolution(torch="2.0", numpy="2.1", ray="3.0"))
    assert command("upgrade", "--dry-run") == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["numpy", "2.0", "→", "2.1"],
        ["ray", "none", "→", "3.0"],
    ]
    assert lock.read(lock.LOCKS) == before


def test_versions_that_the_doctor_refuses_come_with_the_way_back(
    lock: ModuleType,
    checkout: Path,
    command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uv_finds(monkeypatch, lock, resolution(torch="2.0", numpy="2.1"))
    assert command("upgrade") == 1
    assert (
        "the doctor found something wrong with the new versions; to go back: git checkout infra/locks && make setup"
        in (capsys.readouterr().err)
    )
    assert "numpy==2.1" in (lock.LOCKS / "packages.txt").read_text()


def test_nothing_is_installed_where_nothing_moves(
    lock: ModuleType, checkout: Path, command: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "infra" / "setup.sh").write_text("#!/bin/sh\nexit 1\n")
    uv_finds(monkeypatch, lock, resolution(torch="2.0", numpy="2.0"))
    assert command("upgrade") == 0


@pytest.mark.parametrize(("code", "message"), [(127, "a lock is made by uv"), (1, "cannot be had together")])
def test_a_lock_that_cannot_be_made_leaves_the_old_one(
    lock: ModuleType,
    checkout: Path,
    command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int,
    message: str,
) -> None:
    before = lock.read(lock.LOCKS)
    uv_finds(monkeypatch, lock, code)
    assert command("update") == 1
    assert message in capsys.readouterr().err
    assert lock.read(lock.LOCKS) == before


def test_uv_is_given_what_pip_is_configured_with(lock: ModuleType) -> None:
    settings = (
        "global.cert='/etc/certificates.pem'\n"
        "global.index-url='https://one.example/simple'\n"
        "install.trusted-host='one.example\\ntwo.example'\n"
        "global.extra-index-url='https://extra.example/simple'\n"
        ":env:.index-url='https://two.example/simple'\n"
    )
    assert lock.run_uv.from_pip(settings) == {
        "SSL_CERT_FILE": "/etc/certificates.pem",
        "UV_DEFAULT_INDEX": "https://two.example/simple",
        "UV_INSECURE_HOST": "one.example two.example",
    }
    assert lock.run_uv.from_pip("") == {}


def test_uv_keeps_no_cache_where_it_cannot(lock: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    assert lock.run_uv.cache() == {}
    (tmp_path / "file").touch()
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert lock.run_uv.cache() == {"UV_NO_CACHE": "1"}


def test_an_environment_without_uv_is_told_apart_from_a_failure(
    lock: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert lock.run_uv.run("--version") == lock.run_uv.NOT_INSTALLED
