"""Tests that no variable that Kubernetes sets for a Service (a service link) is read as a setting.

For each Service of a namespace, Kubernetes sets variables in the namespace's pods: VLLM_PORT=tcp://... for a Service
named `vllm`. vLLM and drpo-proxy read variables of such names, and refuse such values.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.core.settings import setting_fields, variable
from tests.deploy.parts import DEPLOY, ROOT

FOLDERS = (DEPLOY, ROOT / "examples")
FILES = sorted(path for folder in FOLDERS for path in folder.rglob("*.y*ml"))
SETTINGS = {variable(name) for name in setting_fields()}


@cache
def objects(path: Path) -> list[Any]:
    """Return the Kubernetes objects of a file. Files of Grafana and Prometheus have lists or other mappings instead."""
    documents = yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    return [one for one in documents if isinstance(one, dict) and "kind" in one]


@cache
def patches() -> set[Path]:
    """Return the files that a kustomization applies to objects of other files."""
    return {
        (path.parent / patch["path"]).resolve()
        for path in FILES
        for one in objects(path)
        for patch in one.get("patches", ())
        if "path" in patch
    }


def pods(value: Any) -> Iterator[Any]:
    """Yield the pod specifications in an object: of a Pod, a Deployment, a StatefulSet, a Job, a CronJob, and so on."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for inner in value.values():
            yield from pods(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pods(inner)


def links(service: Any) -> set[str]:
    """Return the variables that Kubernetes sets for a Service."""
    name = service["metadata"]["name"].upper().replace("-", "_")
    variables = {f"{name}_SERVICE_HOST", f"{name}_SERVICE_PORT", f"{name}_PORT"}
    for port in service["spec"]["ports"]:
        number, protocol = port["port"], port.get("protocol", "TCP")
        variables.add(f"{name}_SERVICE_PORT_{port.get('name', '').upper().replace('-', '_')}")
        variables.add(f"{name}_PORT_{number}_{protocol}")
        variables |= {f"{name}_PORT_{number}_{protocol}_{part}" for part in ("PROTO", "PORT", "ADDR")}
    return variables


def collisions(service: Any) -> set[str]:
    """Return the variables of a Service that drpo-proxy or vLLM would read as settings."""
    return {one for one in links(service) if one in SETTINGS or one.startswith("VLLM_")}


SERVICES = [
    pytest.param(one, id=f"{path.parent.name}/{one['metadata']['name']}")
    for path in FILES
    for one in objects(path)
    if one["kind"] == "Service"
]
PODS = [
    pytest.param(pod, id=f"{path.parent.name}/{one['metadata']['name']}")
    for path in FILES
    if path.resolve() not in patches()
    for one in objects(path)
    for pod in pods(one)
]


@pytest.mark.parametrize("pod", PODS)
def test_every_pod_turns_service_links_off(pod: Any) -> None:
    assert pod.get("enableServiceLinks") is False


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_sets_a_variable_that_vllm_or_the_proxy_reads(service: Any) -> None:
    assert collisions(service) == set()


def test_files_have_pods_and_services() -> None:
    assert len(PODS) == 5
    assert len(SERVICES) == 4


@pytest.mark.parametrize(
    ("name", "variable"), [("vllm", "VLLM_PORT"), ("vllm-router", "VLLM_ROUTER_PORT"), ("drpo", "DRPO_PORT")]
)
def test_collisions_are_found(name: str, variable: str) -> None:
    service = {"metadata": {"name": name}, "spec": {"ports": [{"port": 8000, "name": "http"}]}}
    assert variable in collisions(service)
