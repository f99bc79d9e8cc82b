"""How many machines meet: alone, over SSH, or inside a Slurm allocation."""

import os
from pathlib import Path

import pytest

from tinygptv.definitions.hardware import Hardware
from tinygptv.errors import LaunchError
from tinygptv.train.launch.nodes import agent_commands

ONE = Hardware(about="test", device="cpu", ranks=2, micro_batch_size=1, precision="fp32", zero_stage=0)
AGENT, RANKS = ["python", "agent"], ["--nproc-per-node", "2"]
TETHER = ["-m", "tinygptv.train.launch.parent_death", str(os.getpid())]


def test_one_machine_meets_nobody() -> None:
    assert agent_commands(ONE, AGENT, RANKS, {"SLURM_JOB_ID": "7"}) == [
        [*AGENT, str(os.getpid()), "--standalone", "--local-addr", "127.0.0.1", *RANKS]
    ]


def test_hosts_get_an_agent_each_over_ssh_that_ends_with_the_caller() -> None:
    two = ONE.model_copy(update={"nodes": 2, "hosts": ["first", "second"]})
    here, there = agent_commands(two, AGENT, RANKS, {"OMP_NUM_THREADS": "1", "HOME": "/root"})
    meeting = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "first:29400"]
    assert here == [*AGENT, str(os.getpid()), *meeting, *RANKS]
    assert there[1:] == [
        *TETHER,
        *["ssh", "-tt", "-o", "BatchMode=yes", "second"],
        f"cd {Path.cwd()} && exec env OMP_NUM_THREADS=1 {' '.join([*AGENT, '0', *meeting, *RANKS])}",
    ]


def test_inside_slurm_one_srun_starts_all_agents() -> None:
    two = ONE.model_copy(update={"nodes": 2, "rendezvous": "login:1234"})
    (command,) = agent_commands(two, AGENT, RANKS, {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1"})
    assert command[1 : len(TETHER) + 2] == [*TETHER, "srun"]
    assert command[-len(RANKS) - 1 :] == ["login:1234", *RANKS]
    assert command[command.index("--ntasks") + 1] == "2"


def test_several_machines_that_nobody_names_are_refused() -> None:
    with pytest.raises(LaunchError, match="needs 3 machines and nothing says which"):
        agent_commands(ONE.model_copy(update={"nodes": 3}), AGENT, RANKS, {})


def test_hosts_must_be_as_many_as_nodes() -> None:
    with pytest.raises(ValueError, match="hosts names 1 machines but nodes is 2"):
        Hardware.model_validate(ONE.model_dump() | {"nodes": 2, "hosts": ["only"]})
