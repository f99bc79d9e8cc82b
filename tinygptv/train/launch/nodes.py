"""Hardware profile → the commands that start one agent on every machine.

    one machine   the agent, as a child
    hosts         one agent here, the others through ssh, in the same folder of a file system they share
    Slurm         `srun`, inside an allocation, one task per machine
    Kubernetes    one agent here, in pod 0 of an indexed Job; `pods.py` starts those of the others

The ranks meet at the rendezvous, which is on the first machine. The agents also agree on restarts there.
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
"""In place of the caller's process id, for agents that are not its children."""
POD, SERVICE = "JOB_COMPLETION_INDEX", "TINYGPTV_SERVICE"
"""Variables of a pod: its index, which Kubernetes sets in an indexed Job, and the headless service named in the Job's
manifest, through which pods reach pod 0 by host name."""
_PASSED_ON = re.compile("OMP_NUM_THREADS|DS_ACCELERATOR|TOKENIZERS_PARALLELISM|PYTHONUNBUFFERED|(TORCH|TINYGPTV_).*")


def agent_commands(
    hardware: Hardware, agent: list[str], ranks: list[str], environment: Mapping[str, str]
) -> list[list[str]]:
    """One command per agent that is started from here.

    Each begins with `agent` and the caller's process id; `ranks` tells torchrun what to start. Raises LaunchError if
    several machines are needed and nothing says which.
    """
    caller = str(os.getpid())
    if hardware.nodes == 1:
        return [[*agent, caller, "--standalone", "--local-addr", "127.0.0.1", *ranks]]
    bound = [sys.executable, "-m", "tinygptv.train.launch.parent_death", caller]
    if hardware.hosts:
        arguments = [*_meeting(hardware, hardware.hosts[0]), *ranks]
        over_ssh = (_over_ssh(host, [*agent, ELSEWHERE, *arguments], environment) for host in hardware.hosts[1:])
        return [[*agent, caller, *arguments], *([*bound, *command] for command in over_ssh)]
    if "SLURM_JOB_ID" in environment:
        first = environment.get("SLURMD_NODENAME", os.uname().nodename)
        nodes = str(hardware.nodes)
        srun = ["srun", "--nodes", nodes, "--ntasks", nodes, "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
        return [[*bound, *srun, *agent, ELSEWHERE, *_meeting(hardware, first), *ranks]]
    if POD in environment:
        return [[*agent, caller, *_meeting(hardware, _pod_0(environment)), *ranks]]
    raise LaunchError(
        f"the profile needs {hardware.nodes} machines and nothing says which: name them in `hosts`, or start inside a "
        "Slurm allocation or an indexed Kubernetes Job"
    )


def command_for_pods(
    hardware: Hardware, agent: list[str], ranks: list[str], environment: Mapping[str, str]
) -> list[str] | None:
    """The command for every other pod of the Job, with `env` in front; None if the agents do not run in pods."""
    if hardware.nodes == 1 or hardware.hosts or "SLURM_JOB_ID" in environment or POD not in environment:
        return None
    return _with_settings([*agent, ELSEWHERE, *_meeting(hardware, _pod_0(environment)), *ranks], environment)


def _meeting(hardware: Hardware, first: str) -> list[str]:
    endpoint = hardware.rendezvous or f"{first}:{PORT}"
    return ["--nnodes", str(hardware.nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint]


def _pod_0(environment: Mapping[str, str]) -> str:
    """The host name of the Job's first pod: `<job>-0.<service>`."""
    if SERVICE not in environment:
        raise LaunchError(f"{SERVICE} is not set: set it to the headless service that the Job's pods belong to")
    job, _, pod = environment["HOSTNAME"].rpartition("-")
    if pod != environment[POD]:
        raise LaunchError(f"the pod's host name, {environment['HOSTNAME']}, does not end with its index in the Job")
    return f"{job}-0.{environment[SERVICE]}"


def _over_ssh(host: str, command: list[str], environment: Mapping[str, str]) -> list[str]:
    """The command on another machine. The terminal (-tt) makes it end there when the connection breaks."""
    there = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(_with_settings(command, environment))}"
    return ["ssh", "-tt", "-o", "BatchMode=yes", host, there]


def _with_settings(command: list[str], environment: Mapping[str, str]) -> list[str]:
    return ["env", *(f"{name}={value}" for name, value in environment.items() if _PASSED_ON.fullmatch(name)), *command]
