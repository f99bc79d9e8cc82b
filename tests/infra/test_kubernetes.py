"""The manifest for Kubernetes, held to what the code reads; no cluster is needed to find the two apart."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tinygptv import catalog
from tinygptv.catalog import resolve_run
from tinygptv.train.launch import nodes, pods
from tinygptv.train.launch.nodes import agent_commands

MANIFEST = Path(__file__).parents[2] / "infra" / "kubernetes" / "train.yaml"


@pytest.fixture
def objects() -> dict[str, Any]:
    return {content["kind"]: content for content in yaml.safe_load_all(MANIFEST.read_text())}


@pytest.fixture
def container(objects: dict[str, Any]) -> dict[str, Any]:
    (container,) = objects["Job"]["spec"]["template"]["spec"]["containers"]
    return container


def commands(container: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What pod 0 runs, and what the others do."""
    shell, flag, script = container["command"]
    assert (shell, flag) == ("/bin/sh", "-c")
    first, others = re.findall(r"exec ([^;]+);", script)
    assert script.startswith(f'if [ "${nodes.POD}" = 0 ]; then exec {first}; else exec {others};')
    return shlex.split(first), shlex.split(others)


def test_the_pods_are_as_many_as_the_machines_of_the_profile_and_have_its_gpus(
    objects: dict[str, Any], container: dict[str, Any]
) -> None:
    first, _ = commands(container)
    profile = catalog.hardware(first[first.index("--hardware") + 1])
    job = objects["Job"]["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", profile.nodes, profile.nodes)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == profile.ranks
    assert job["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}


def test_pod_0_trains_what_fits_together_and_the_others_wait_for_its_call(container: dict[str, Any]) -> None:
    (program, verb, *arguments), others = commands(container)
    assert (program, verb) == (".venv/bin/tinygptv", "train")
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options.keys() == {"--run", "--recipe", "--hardware", "--workdir"}
    assert resolve_run(options["--recipe"], "laion", options["--hardware"]).hardware.nodes > 1
    assert others == [".venv/bin/python", "-m", pods.__name__]


def test_the_ranks_meet_in_pod_0_under_the_name_that_the_service_gives_it(
    objects: dict[str, Any], container: dict[str, Any]
) -> None:
    service, job = objects["Service"], objects["Job"]
    pod = job["spec"]["template"]
    name = service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert pod["spec"]["subdomain"] == name
    # What Kubernetes sets in a pod of an indexed Job, and what the manifest does.
    environment = {nodes.POD: "0", "HOSTNAME": f"{job['metadata']['name']}-0"}
    environment |= {variable["name"]: variable["value"] for variable in container["env"]}
    (command,) = agent_commands(catalog.hardware("pods"), ["agent"], ["ranks"], environment)
    endpoint = command[command.index("--rdzv-endpoint") + 1]
    assert endpoint == f"{job['metadata']['name']}-0.{name}:{nodes.PORT}"


def test_all_pods_share_the_folder_of_the_call_of_the_data_and_of_the_artifacts(container: dict[str, Any]) -> None:
    (shared,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "shared")
    first, _ = commands(container)
    values = {variable["name"]: variable["value"] for variable in container["env"]}
    assert values[pods.FOLDER].startswith(f"{shared}/")
    assert values["TINYGPTV_DATA"].startswith(f"{shared}/")
    assert first[first.index("--workdir") + 1].startswith(f"{shared}/")
