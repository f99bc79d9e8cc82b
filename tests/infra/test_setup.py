"""infra/setup.sh, with a Python that only keeps a record of what it is asked."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = r"""#!/bin/bash
case "$*" in
-c*) echo "${0##*python}" ;;
"-m venv --clear .venv")
    rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python
    echo "$(basename "$0") anew" >>"$RECORD" ;;
*)
    echo "$*" >>"$RECORD"
    [ -z "$FAILS" ] || ! grep -q -- "$FAILS" <<<"$*" ;;
esac
"""
TORCH = "pip install --no-deps --requirement infra/locks/torch-cpu.txt"


class Machine:
    """A checkout and all the programs that its set-up finds."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.programs, self.record = folder / "check out", folder / "bin", folder / "record"
        self.programs.mkdir(parents=True)
        for program in ("bash", "basename", "cat", "cksum", "cp", "dirname", "env", "flock", "grep", "mkdir", "rm"):
            (self.programs / program).symlink_to(str(shutil.which(program)))
        self.add("nvidia-smi", "#!/bin/sh\nexit 1\n")
        (self.checkout / "infra").mkdir(parents=True)
        shutil.copy(ROOT / "infra" / "setup.sh", self.checkout / "infra")
        shutil.copytree(ROOT / "infra" / "locks", self.checkout / "infra" / "locks")
        shutil.copy(ROOT / "pyproject.toml", self.checkout)

    def add(self, name: str, script: str) -> None:
        (self.programs / name).write_text(script)
        (self.programs / name).chmod(0o755)

    def set_up(self, fails: str = "", **variables: str) -> tuple[int, str, list[str]]:
        """Exit code, messages, and what Python was asked for; a request with `fails` in it fails."""
        self.record.write_text("")
        environment = {"PATH": str(self.programs), "RECORD": str(self.record), "FAILS": fails} | variables
        done = subprocess.run(
            [self.checkout / "infra" / "setup.sh"], env=environment, capture_output=True, text=True, check=False
        )
        asked = [line.replace("-m pip -qq --no-input", "pip") for line in self.record.read_text().splitlines()]
        return done.returncode, done.stdout + done.stderr, asked


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """With Python 3.12 and without a GPU."""
    made = Machine(tmp_path)
    made.add("python3.12", PYTHON)
    return made


def test_everything_is_installed_from_the_lock_with_its_hashes(machine: Machine) -> None:
    code, messages, asked = machine.set_up()
    assert code == 0 and messages.endswith("set-up: done\n")
    options = "--no-deps --require-hashes --requirement infra/locks/packages.txt"
    assert asked == [
        "python3.12 anew",
        "pip install --require-hashes --only-binary :all: --requirement infra/locks/tools.txt",
        TORCH,
        "infra/run_uv.py pip install --quiet --compile-bytecode --build-constraints infra/locks/packages.txt "
        + options,
        "pip install --no-deps --no-build-isolation --editable .",
        "infra/lock.py check",
    ]


@pytest.mark.parametrize("fails", [r"run_uv.py", r"tools.txt\|run_uv.py"], ids=["fails", "is absent"])
def test_pip_installs_the_same_where_uv_fails_or_is_absent(machine: Machine, fails: str) -> None:
    code, _, asked = machine.set_up(fails=fails)
    assert code == 0
    assert "pip install --no-deps --require-hashes --requirement infra/locks/packages.txt" in asked


def test_uv_can_be_left_out(machine: Machine) -> None:
    code, _, asked = machine.set_up(INSTALLER="pip")
    assert code == 0
    assert not [line for line in asked if "uv" in line or "tools" in line]


def test_a_second_run_does_nothing(machine: Machine) -> None:
    machine.set_up()
    assert machine.set_up() == (0, "", [])
    assert machine.set_up(PYTHON="python3.12", TORCH="cpu") == (0, "", [])


def test_two_set_ups_at_once_install_once(machine: Machine) -> None:
    environment = {"PATH": str(machine.programs), "RECORD": str(machine.record), "FAILS": ""}
    both = [subprocess.Popen([machine.checkout / "infra" / "setup.sh"], env=environment) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert machine.record.read_text().count("anew") == 1


def test_a_lock_that_moved_is_installed_into_the_environment_that_is_there(machine: Machine) -> None:
    machine.set_up()
    with (machine.checkout / "infra" / "locks" / "packages.txt").open("a") as lock:
        lock.write("# moved\n")
    code, _, asked = machine.set_up()
    assert code == 0 and "infra/lock.py check" in asked
    assert not [line for line in asked if "anew" in line]


def test_a_checkout_that_was_moved_gets_a_new_environment(machine: Machine) -> None:
    machine.set_up()
    machine.checkout = machine.checkout.rename(machine.checkout.with_name("elsewhere"))
    assert machine.set_up()[2][0] == "python3.12 anew"


def test_an_interrupted_installation_starts_over(machine: Machine) -> None:
    code, _, asked = machine.set_up(fails="--editable")
    assert code != 0 and "infra/lock.py check" not in asked
    assert machine.set_up()[2][0] == "python3.12 anew"


def test_another_python_or_build_of_torch_gets_a_new_environment(machine: Machine) -> None:
    machine.set_up()
    machine.add("python3.13", PYTHON)
    assert machine.set_up(PYTHON="python3.13")[2][0] == "python3.13 anew"
    assert machine.set_up() == (0, "", [])
    _, _, asked = machine.set_up(TORCH="cuda")
    assert asked[0].endswith("anew") and TORCH not in asked


def test_a_machine_with_a_gpu_gets_the_cuda_build(machine: Machine) -> None:
    machine.add("nvidia-smi", "#!/bin/sh\n")
    _, _, asked = machine.set_up()
    assert [line for line in asked if "torch" in line] == [line for line in asked if "torch-cuda.txt" in line] != []


def test_the_cpu_build_of_torch_is_taken_from_its_publisher_where_pip_finds_none(machine: Machine) -> None:
    machine.set_up(fails="^-m pip -qq --no-input install --no-deps --requirement infra/locks/torch-cpu")
    asked = machine.record.read_text()
    assert "--index-url https://download.pytorch.org/whl/cpu --no-deps --requirement infra/locks/torch-cpu.txt" in asked


def test_a_python_without_a_cpu_build_of_torch_says_what_to_do(machine: Machine) -> None:
    code, messages, _ = machine.set_up(fails="torch-cpu.txt")
    assert code == 1 and "no CPU build of torch found for Python 3.12" in messages


@pytest.mark.parametrize("version", ["3.10", "3.14", "2.7"])
def test_a_python_that_was_asked_for_and_does_not_fit_is_refused(machine: Machine, version: str) -> None:
    machine.add(f"python{version}", PYTHON)
    code, messages, asked = machine.set_up(PYTHON=f"python{version}")
    assert (code, asked) == (1, [])
    assert messages == f"set-up: PYTHON=python{version} is {version}; want Python 3.11, 3.12 or 3.13\n"


def test_a_python_that_does_not_run_is_refused(machine: Machine) -> None:
    code, messages, _ = machine.set_up(PYTHON="/nowhere/python3.11")
    assert code == 1 and "is not a Python that runs; want Python 3.11, 3.12 or 3.13" in messages


def test_a_machine_without_a_fitting_python_says_what_to_do(machine: Machine) -> None:
    (machine.programs / "python3.12").rename(machine.programs / "python3.9")
    code, messages, asked = machine.set_up()
    assert (code, asked) == (1, [])
    assert "no Python 3.11, 3.12 or 3.13 found; install one, or name it: make setup PYTHON=" in messages
    assert not (machine.checkout / ".venv").exists()


def test_an_unknown_build_of_torch_is_refused(machine: Machine) -> None:
    assert machine.set_up(TORCH="rocm")[:2] == (1, "set-up: TORCH=rocm: want cpu or cuda\n")


def test_the_environment_of_another_checkout_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (machine.checkout / ".venv").symlink_to(tmp_path / "other")
    assert machine.set_up() == (0, "", [])
    assert list((tmp_path / "other").iterdir()) == []
