"""Tests of compose.yaml: it follows compose's own schema, and the files that it names exist."""

import json
import subprocess
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pytest

from proxy.core.settings_reader import parse_settings
from proxy.experiments.store.dsn import dsn_of
from tests.deploy.parts import DEPLOY, called, environment

pytestmark = [pytest.mark.slow, pytest.mark.deploy]

_TO_JSON = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))"


@pytest.fixture(scope="module")
def compose() -> Any:
    tools, file = environment("tools"), DEPLOY / "compose.yaml"
    check = [*called(tools, "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    read = subprocess.run([tools / "python", "-c", _TO_JSON, file], capture_output=True, text=True, check=True)
    return json.loads(read.stdout)


def test_every_service_has_a_health_check_and_a_limit_of_memory(compose: Any) -> None:
    services = compose["services"]
    assert set(services) == {"proxy", "proxy-cpu", "vllm", "prometheus", "grafana", "postgres"}
    for name, service in services.items():
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert "healthcheck" in service or name.startswith("proxy"), name  # the image of the proxy has one


def test_stop_grace_period_is_longer_than_the_drain(compose: Any) -> None:
    for name in ("proxy", "proxy-cpu"):
        service = compose["services"][name]
        assert int(service["stop_grace_period"][:-1]) >= int(service["environment"]["DRPO_DRAIN_TIMEOUT"]) + 10
        assert (service["read_only"], service["cap_drop"], service["user"]) == (True, ["ALL"], "65532:65532")


def test_proxy_can_store_experiments_in_the_database_service(compose: Any) -> None:
    database = compose["services"]["postgres"]["environment"]
    place = f"postgresql://{database['POSTGRES_USER']}@postgres/{database['POSTGRES_DB']}"
    assert place in (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert dsn_of(place).name == "postgresql://postgres/drpo"
    for name in ("proxy", "proxy-cpu"):
        assert compose["services"][name]["environment"]["DRPO_STORE"] == "${STORE:-}"
    settings, _ = parse_settings([], {"DRPO_STORE": "", "DRPO_BACKEND": "embedded"}, ArgumentParser())
    assert settings.experiments.store == ""


def test_ports_are_published_only_on_this_machine(compose: Any) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_files_that_are_mounted_are_there(compose: Any) -> None:
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", ())]
    here = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert here
    assert all((DEPLOY / Path(name)).is_dir() for name in here)
