"""Hardware profile → the commands that start one agent on every machine.

    one machine   the agent, as a child
    hosts         one agent here, the others through ssh, in the same folder of a file system they share
    Slurm         `srun`, inside an allocation, one task per machine

The ranks find each other at the rendezvous, which is on the first machine; the agents agree on restarts there, too.
"""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from tinygptv.definitions.hardware import Hardware
from tinygptv.errors import LaunchError

PORT = 29400
ELSEWHERE = "0"
"""Instead of the caller's process id, for agents that are no children of it."""
_PASSED_ON = re.compile("OMP_NUM_THREADS|DS_ACCELERATOR|TOKENIZERS_PARALLELISM|PYTHONUNBUFFERED|(TORCH|TINYGPTV_).*")


def agent_commands(
    hardware: Hardware, agent: list[str], ranks: list[str], environment: Mapping[str, str]
) -> list[list[str]]:
    """One command per agent that is to be started from here.

    `agent` begins each of them and is followed by the caller's process id; `ranks` tells torchrun what to start.
    Raises LaunchError if several machines are wanted and nothing says which.
    """
    caller = str(os.getpid())
    if hardware.nodes == 1:
        return [[*agent, caller, "--standalone", "--local-addr", "127.0.0.1", *ranks]]
    tether = [sys.executable, "-m", "tinygptv.train.tether", caller]
    if hardware.hosts:
        arguments = [*_meeting(hardware, hardware.hosts[0]), *ranks]
        over_ssh = (_over_ssh(host, [*agent, ELSEWHERE, *arguments], environment) for host in hardware.hosts[1:])
        return [[*agent, caller, *arguments], *([*tether, *command] for command in over_ssh)]
    if "SLURM_JOB_ID" in environment:
        first = environment.get("SLURMD_NODENAME", os.uname().nodename)
        nodes = str(hardware.nodes)
        srun = ["srun", "--nodes", nodes, "--ntasks", nodes, "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
        return [[*tether, *srun, *agent, ELSEWHERE, *_meeting(hardware, first), *ranks]]
    raise LaunchError(
        f"the profile asks for {hardware.nodes} machines and nothing says which: name them in `hosts`, or start inside "
        "a Slurm allocation"
    )


def _meeting(hardware: Hardware, first: str) -> list[str]:
    endpoint = hardware.rendezvous or f"{first}:{PORT}"
    return ["--nnodes", str(hardware.nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint]


def _over_ssh(host: str, command: list[str], environment: Mapping[str, str]) -> list[str]:
    """The command on another machine; the terminal (-tt) is what ends it there when the connection breaks."""
    settings = [f"{name}={value}" for name, value in environment.items() if _PASSED_ON.fullmatch(name)]
    there = f"cd {shlex.quote(str(Path.cwd()))} && exec env {shlex.join([*settings, *command])}"
    return ["ssh", "-tt", "-o", "BatchMode=yes", host, there]
