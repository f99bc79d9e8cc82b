"""Hardware profile → the commands that start one agent on every machine.

    one machine   the agent, as a child
    hosts         one agent here, the others through ssh, in the same folder of a file system they share
    Slurm         `srun`, inside an allocation, one task per machine
    Kubernetes    one agent here, in pod 0 of an indexed Job; `pods.py` starts those of the others

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
POD, SERVICE = "JOB_COMPLETION_INDEX", "TINYGPTV_SERVICE"
"""Variables of a pod: its number, which Kubernetes sets in an indexed Job, and the headless service that the Job's
manifest names; pods reach pod 0 under its host name in it."""
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
    tether = [sys.executable, "-m", "tinygptv.train.launch.parent_death", caller]
    if hardware.hosts:
        arguments = [*_meeting(hardware, hardware.hosts[0]), *ranks]
        over_ssh = (_over_ssh(host, [*agent, ELSEWHERE, *arguments], environment) for host in hardware.hosts[1:])
        return [[*agent, caller, *arguments], *([*tether, *command] for command in over_ssh)]
    if "SLURM_JOB_ID" in environment:
        first = environment.get("SLURMD_NODENAME", os.uname().nodename)
        nodes = str(hardware.nodes)
        srun = ["srun", "--nodes", nodes, "--ntasks", nodes, "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
        return [[*tether, *srun, *agent, ELSEWHERE, *_meeting(hardware, first), *ranks]]
    if POD in environment:
        return [[*agent, caller, *_meeting(hardware, _pod_0(environment)), *ranks]]
    raise LaunchError(
        f"the profile asks for {hardware.nodes} machines and nothing says which: name them in `hosts`, or start inside "
        "a Slurm allocation or an indexed Job of Kubernetes"
    )


def command_for_pods(
    hardware: Hardware, agent: list[str], ranks: list[str], environment: Mapping[str, str]
) -> list[str] | None:
    """What every other pod of the Job is to run, with `env` in front; None if the agents are not to meet in pods."""
    if hardware.nodes == 1 or hardware.hosts or "SLURM_JOB_ID" in environment or POD not in environment:
        return None
    return _with_settings([*agent, ELSEWHERE, *_meeting(hardware, _pod_0(environment)), *ranks], environment)


def _meeting(hardware: Hardware, first: str) -> list[str]:
    endpoint = hardware.rendezvous or f"{first}:{PORT}"
    return ["--nnodes", str(hardware.nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint]


def _pod_0(environment: Mapping[str, str]) -> str:
    """The name under which pods of the same Job reach its first: `<job>-0.<service>`."""
    if SERVICE not in environment:
        raise LaunchError(f"{SERVICE} is not set: name in it the headless service that the Job's pods belong to")
    job, _, pod = environment["HOSTNAME"].rpartition("-")
    if pod != environment[POD]:
        raise LaunchError(f"the pod's host name, {environment['HOSTNAME']}, does not end with its number in the Job")
    return f"{job}-0.{environment[SERVICE]}"


def _over_ssh(host: str, command: list[str], environment: Mapping[str, str]) -> list[str]:
    """The command on another machine; the terminal (-tt) is what ends it there when the connection breaks."""
    there = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(_with_settings(command, environment))}"
    return ["ssh", "-tt", "-o", "BatchMode=yes", host, there]


def _with_settings(command: list[str], environment: Mapping[str, str]) -> list[str]:
    return ["env", *(f"{name}={value}" for name, value in environment.items() if _PASSED_ON.fullmatch(name)), *command]
