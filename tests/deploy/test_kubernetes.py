"""Tests of the manifests: kubectl renders each overlay, Kubernetes' schemas accept it, and the objects fit together."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.parts import DEPLOY, ROOT, called, environment
from tests.deploy.test_service_links import collisions, pods

pytestmark = [pytest.mark.slow, pytest.mark.deploy]

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
VERSION = "1.35"
OPERATORS = {"ServiceMonitor", "PrometheusRule"}  # of the Prometheus operator: Kubernetes has no schema for them
_TO_JSON = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"


def rendered(folder: Path) -> list[Any]:
    """Return the objects of a kustomization, as kubectl would apply them."""
    tools = environment("tools")
    made = subprocess.run([tools / "kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    listed = subprocess.run(
        [tools / "python", "-c", _TO_JSON], input=made.stdout, capture_output=True, check=True, text=True
    )
    return list(json.loads(listed.stdout))


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Any]:
    return rendered(KUBERNETES / "overlays" / request.param)


def one(objects: list[Any], kind: str, name: str = "drpo-proxy") -> Any:
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"].startswith(name)]
    return found


def test_kubernetes_takes_every_object(overlay: list[Any], tmp_path: Path) -> None:
    assert_valid(overlay, tmp_path)


def assert_valid(objects: list[Any], folder: Path) -> None:
    (folder / "objects.yaml").write_text("\n---\n".join(map(json.dumps, objects)), encoding="utf-8")
    command = [*called(environment("tools"), "kubernetes-validate"), "--strict", "-k", VERSION]
    said = subprocess.run([*command, folder / "objects.yaml"], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def test_kubernetes_refuses_what_is_wrong(tmp_path: Path) -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"portz": []}}
    with pytest.raises(AssertionError):
        assert_valid([wrong], tmp_path)


def test_rendered_pods_turn_service_links_off_and_no_service_takes_a_variable_of_a_setting(overlay: list[Any]) -> None:
    found = [pod for each in overlay for pod in pods(each)]
    assert found
    assert [pod["enableServiceLinks"] for pod in found] == [False] * len(found)
    assert [collisions(each) for each in overlay if each["kind"] == "Service" and collisions(each)] == []


def test_pod_is_killed_only_after_it_has_drained(overlay: list[Any]) -> None:
    pod = one(overlay, "Deployment")["spec"]["template"]["spec"]
    (proxy,) = pod["containers"]
    drain = int(one(overlay, "ConfigMap", "drpo-proxy")["data"]["DRPO_DRAIN_TIMEOUT"])
    last_words = 5
    assert pod["terminationGracePeriodSeconds"] > proxy["lifecycle"]["preStop"]["sleep"]["seconds"] + drain + last_words


def test_probes_ask_for_paths_that_the_proxy_has(overlay: list[Any]) -> None:
    (proxy,) = one(overlay, "Deployment")["spec"]["template"]["spec"]["containers"]
    routes = (ROOT / "proxy" / "api" / "app.py").read_text(encoding="utf-8")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert f'add_get("{proxy[probe]["httpGet"]["path"]}"' in routes


def test_every_container_of_ours_is_restricted(overlay: list[Any]) -> None:
    pod = one(overlay, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["image"] == "drpo-proxy:0.1.0"
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_only_the_bundle_of_the_id_is_served(overlay: list[Any]) -> None:
    pod = one(overlay, "Deployment")["spec"]["template"]["spec"]
    (verify,) = pod["initContainers"]
    assert verify["command"] == ["drpo-index", "verify", "/bundle", "--id", "$(BUNDLE_ID)"]
    name = verify["envFrom"][0]["configMapRef"]["name"]
    assert len(one(overlay, "ConfigMap", name)["data"]["BUNDLE_ID"]) == 64
    assert {"name": "bundle", "mountPath": "/bundle", "readOnly": True} in pod["containers"][0]["volumeMounts"]


def test_every_setting_is_one_of_the_proxys(overlay: list[Any]) -> None:
    from proxy.core.settings import setting_fields, variable

    known = {variable(name) for name in setting_fields()}
    data = one(overlay, "ConfigMap", "drpo-proxy")["data"] | one(overlay, "ConfigMap", "drpo-bundle")["data"]
    assert {name for name in data if name.startswith("DRPO_")} <= known


def _selectors(objects: list[Any]) -> Iterator[dict[str, str]]:
    for each in objects:
        if each["kind"] == "Service":
            yield each["spec"]["selector"]
        if each["kind"] in {"NetworkPolicy", "PodDisruptionBudget"}:
            yield (each["spec"].get("podSelector") or each["spec"]["selector"])["matchLabels"]


def test_every_selector_finds_pods_and_every_reference_an_object(overlay: list[Any]) -> None:
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in overlay if "template" in each.get("spec", {})]
    for selector in _selectors(overlay):
        assert any(selector.items() <= labels.items() for labels in pods), selector
    for each in overlay:
        if each["kind"] == "HorizontalPodAutoscaler":
            target = each["spec"]["scaleTargetRef"]
            assert one(overlay, target["kind"])["metadata"]["name"] == target["name"]
    backend = one(overlay, "ConfigMap", "drpo-proxy")["data"]["DRPO_BACKEND"].split("/")[2]
    if "." not in backend:
        name, _, port = backend.partition(":")
        service = next(each for each in overlay if each["kind"] == "Service" and each["metadata"]["name"] == name)
        assert int(port) in [entry["port"] for entry in service["spec"]["ports"]]


@pytest.mark.parametrize("source", ["bundle-pvc", "bundle-configmap"])
def test_bundle_may_come_from_every_source(source: str, tmp_path: Path) -> None:
    lines = [
        "resources: [base]",
        f"components: [components/bundle, components/{source}, components/autoscaling, components/monitoring]",
    ]
    for part in ("base", "components"):
        subprocess.run(["cp", "-r", KUBERNETES / part, tmp_path / part], check=True)
    (tmp_path / "kustomization.yaml").write_text("\n".join(lines), encoding="utf-8")
    objects = rendered(tmp_path)
    assert_valid([each for each in objects if each["kind"] not in OPERATORS], tmp_path)
    assert {each["kind"] for each in objects} >= OPERATORS
    (bundle,) = [
        volume
        for volume in one(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "bundle"
    ]
    assert len(bundle) == 2
    assert "image" not in bundle
