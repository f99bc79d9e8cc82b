"""Kubernetes: pod 0 of an indexed Job trains, and the other pods start an agent whenever it does.

    pod 0     tinygptv train …                          starts its own agent, and publishes the others' command
    others    python -m tinygptv.train.launch.pods      run every new command, and stop it when it is withdrawn

Pods cannot start anything in each other, so the command is a file in a folder that all of them share. The other pods
never exit by themselves: the Job's success policy ends them when pod 0 has succeeded (see
`infra/kubernetes/train.yaml`).
"""

import contextlib
import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from tinygptv.errors import LaunchError

FOLDER = "TINYGPTV_PODS"
"""The variable that names the folder all pods of a Job share."""
_START = "start.json"
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 20


@contextlib.contextmanager
def called_together(command: list[str], environment: Mapping[str, str]) -> Iterator[None]:
    """Inside this context, the other pods run `command`. Raises LaunchError if no shared folder is named."""
    if FOLDER not in environment:
        raise LaunchError(f"{FOLDER} is not set: set it to a folder that all pods of the Job share")
    start = Path(environment[FOLDER]) / _START
    start.parent.mkdir(parents=True, exist_ok=True)
    aside = start.with_suffix(".partial")
    aside.write_text(json.dumps({"call": uuid.uuid4().hex, "command": command}))
    aside.replace(start)
    try:
        yield
    finally:
        start.unlink(missing_ok=True)


def answer_calls(folder: Path) -> None:
    """Run pod 0's commands, one after the other, forever; a command ends when it is withdrawn."""
    answered = None
    while True:
        call = _call(folder)
        if call is not None and call != answered:
            answered = call
            _answer(folder, call)
        time.sleep(_POLL_SECONDS)


def _answer(folder: Path, call: dict) -> None:
    agent = subprocess.Popen(call["command"], stdin=subprocess.DEVNULL)
    try:
        while agent.poll() is None and _call(folder) == call:
            time.sleep(_POLL_SECONDS)
    finally:
        agent.terminate()
        try:
            agent.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


def _call(folder: Path) -> dict | None:
    try:
        return json.loads((folder / _START).read_text())
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    answer_calls(Path(os.environ[FOLDER]))
