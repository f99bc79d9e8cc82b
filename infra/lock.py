"""The lock: exact versions of everything that `make setup` installs, in infra/locks/.

    python infra/lock.py update               lock what pyproject.toml asks for; move only what does not fit
    python infra/lock.py upgrade [--dry-run]  move everything to the newest version that fits, install, run the doctor
    python infra/lock.py check                does the lock fit pyproject.toml, and this environment the lock?

One lock serves every Python and platform that pyproject.toml allows: markers tell them apart. torch has two files
because its CPU and CUDA builds come from different places. The CPU build is published in several, so it has no hash.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import run_uv
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).resolve().parent.parent
LOCKS = CHECKOUT / "infra" / "locks"
PYTHON = "3.11"
"""The oldest Python that pyproject.toml allows. Locked versions must run on it and on all newer ones."""

FILES = {"tools.txt": r"pip|uv", "torch-cuda.txt": r"torch|triton|(nvidia|cuda)-.*", "packages.txt": r".*"}
"""Lock files, resolved together. A package goes into the first file whose pattern matches its whole name."""

CPU_TORCH = "torch-cpu.txt"
NOTE = "# Made by `make lock` from pyproject.toml.\n"


class LockError(Exception):
    """The lock cannot be made, or the environment differs from it."""


def read(folder: Path) -> dict[str, str]:
    """Every file of a lock by its name; empty if there is none yet."""
    return {path.name: path.read_text() for path in sorted(folder.glob("*.txt"))}


def resolve(old: dict[str, str], upgrade: bool) -> dict[str, str]:
    """The files of a new lock. A version of the old one stays if it fits, unless `upgrade`. Raises LockError."""
    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder, "resolved.txt")
        resolved.write_text("".join(old.get(file, "") for file in FILES))
        options = ["--universal", "--python-version", PYTHON, "--fork-strategy", "fewest", "--generate-hashes"]
        options += ["--extra", "dev", "--group", "tools", "--group", "img2dataset"]
        options += ["--quiet", "--no-header", "--no-emit-index-url", "--output-file", str(resolved)]
        options += ["--upgrade"] if upgrade else []
        code = run_uv.run("pip", "compile", *options, str(CHECKOUT / "pyproject.toml"), cwd=CHECKOUT)
        if code == run_uv.NOT_INSTALLED:
            raise LockError("a lock is made by uv, which `make setup` could not install: .venv/bin/pip install uv")
        if code:
            raise LockError("pyproject.toml asks for what cannot be had together; the lock stays as it was")
        return split(resolved.read_text())


def split(resolved: str) -> dict[str, str]:
    """The files of a lock for one resolution with everything in it."""
    files = dict.fromkeys(FILES, NOTE)
    for block in re.findall(r"^\w.*?(?=^\w|\Z)", resolved, re.MULTILINE | re.DOTALL):
        name = block.partition("==")[0]
        files[next(file for file, pattern in FILES.items() if re.fullmatch(pattern, name))] += block
    (torch,) = (found for found in requirements(files["torch-cuda.txt"]) if found.name == "torch")
    return files | {CPU_TORCH: f"{NOTE}{torch.name}{torch.specifier}+cpu\n"}


def requirements(text: str) -> Iterator[Requirement]:
    """What a file of a lock holds, without the hashes."""
    for line in text.splitlines():
        if line[:1].isalnum():
            yield Requirement(line.removesuffix("\\"))


def versions(files: dict[str, str]) -> dict[str, set[str]]:
    """The locked versions of each package: several if one Python or platform needs another than the rest."""
    found: dict[str, set[str]] = {}
    for file in FILES:
        for requirement in requirements(files.get(file, "")):
            found.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier)[2:])
    return found


def moves(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """A line for each package whose version another lock changes."""
    before, after = versions(old), versions(new)
    names = sorted(name for name in before | after if before.get(name) != after.get(name))
    texts = ({name: ", ".join(sorted(one.get(name, {"none"}))) for name in names} for one in (before, after))
    before_text, after_text = texts
    return [f"{name:<32} {before_text[name]} → {after_text[name]}" for name in names]


def uncovered(project: dict[str, Any], files: dict[str, str]) -> list[str]:
    """What pyproject.toml, read as `project`, asks for and the lock has in no fitting version."""
    table, locked = project["project"], versions(files)
    asked = [*table["dependencies"], *table["optional-dependencies"]["dev"]]
    asked += [line for group in project["dependency-groups"].values() for line in group]
    missing = []
    while asked:
        requirement = Requirement(asked.pop())
        if requirement.name == table["name"]:
            asked += [line for extra in requirement.extras for line in table["optional-dependencies"][extra]]
        elif not any(map(requirement.specifier.contains, locked.get(canonicalize_name(requirement.name), ()))):
            missing.append(str(requirement))
    return sorted(missing)


def differing(files: dict[str, str]) -> list[str]:
    """A line for each package that this environment has in another version than locked, or not at all.

    torch may be either build, and the tools may be missing: pip alone can install everything.
    """
    torch = next(requirements(files[CPU_TORCH]))
    expected = [*requirements(files["packages.txt"]), Requirement(str(torch).removesuffix("+cpu"))]
    found = {}
    for requirement in expected:
        if requirement.marker is None or requirement.marker.evaluate():
            try:
                found[requirement] = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                found[requirement] = "none"
    return [
        f"{requirement.name}: locked {str(requirement.specifier)[2:]}, installed {version}"
        for requirement, version in found.items()
        if not requirement.specifier.contains(version)
    ]


def check() -> None:
    """Raises LockError if the lock does not fit pyproject.toml, or this environment the lock."""
    files = read(LOCKS)
    if missing := uncovered(tomllib.loads((CHECKOUT / "pyproject.toml").read_text()), files):
        raise LockError(f"pyproject.toml asks for what is not locked: {'; '.join(missing)}. Lock it: make lock")
    if wrong := differing(files):
        raise LockError("installed is not what is locked; remove .venv and run `make setup`:\n" + "\n".join(wrong))


def move(upgrade: bool, dry_run: bool) -> bool:
    """Write the new lock unless `dry_run`, and print what it changes; whether it changes anything. Raises LockError."""
    old = read(LOCKS)
    new = resolve(old, upgrade)
    print("\n".join(moves(old, new)) or "every version stays")
    if not dry_run:
        for name, text in new.items():
            (LOCKS / name).write_text(text)
    return new != old


def install_and_examine() -> None:
    """Install the lock and let the doctor look at the result. Raises LockError with the way back if either fails."""
    back = "to go back: git checkout infra/locks && make setup"
    if subprocess.run([CHECKOUT / "infra" / "setup.sh"], check=False).returncode:
        raise LockError(f"the new versions cannot be installed; {back}")
    if subprocess.run([Path(sys.executable).with_name("tinygptv"), "doctor"], check=False, cwd=CHECKOUT).returncode:
        raise LockError(f"the doctor found something wrong with the new versions; {back}")
    print("the doctor found nothing wrong. Run the tests, then commit infra/locks")


def main() -> int:
    """The command line; exit code 1 with one message if something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("update")
    commands.add_parser("upgrade").add_argument("--dry-run", action="store_true")
    commands.add_parser("check")
    arguments = parser.parse_args()
    try:
        if arguments.command == "check":
            check()
        elif arguments.command == "update":
            move(upgrade=False, dry_run=False)
        elif move(upgrade=True, dry_run=arguments.dry_run) and not arguments.dry_run:
            install_and_examine()
    except LockError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
