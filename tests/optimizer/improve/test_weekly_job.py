"""Tests of two ways to repeat drpo-optimizer improve every week: the line for cron, and the CronJob of Kubernetes."""

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from index.bundle.bundle import default_bundle_directory, read_bundle
from index.embedders.minilm import NAME as MINILM
from index.embedders.minilm import PACKAGE
from optimizer.cli.arguments import argument_parser
from optimizer.core.config import parse_config
from optimizer.improve.inputs import Start, check_start, read_document, run_document
from proxy.core.settings import setting_fields, variable
from tests.deploy.parts import DEPLOY, ROOT

COMPONENT = DEPLOY / "kubernetes" / "components" / "improve"
LINE = re.compile(r"(?:\S+ ){5}drpo (?P<command>drpo-optimizer .*)")


def documents(name: str) -> Any:
    (found,) = yaml.safe_load_all((COMPONENT / name).read_text(encoding="utf-8"))
    return found


@pytest.fixture
def pod() -> Any:
    return documents("job.yaml")["spec"]["jobTemplate"]["spec"]["template"]


def test_cron_line_calls_the_command_with_flags_that_it_has() -> None:
    lines = (DEPLOY / "cron" / "drpo-improve").read_text(encoding="utf-8").splitlines()
    (found,) = [match for line in lines if (match := LINE.fullmatch(line))]
    assert not re.search(r"(?<!\\)%", found["command"]), "cron ends a command at a percent sign without a backslash"
    program, *arguments = shlex.split(found["command"].replace("\\%", "%").replace("$(date +", "$(date+"))
    options = argument_parser().parse_args(arguments)
    assert (program, options.command) == ("drpo-optimizer", "improve")
    assert "%G-W%V" in str(options.out), "each week has a folder of its own"
    assert any(line.startswith("DRPO_STORE=sqlite:") for line in lines)


def test_job_calls_the_command_with_flags_that_it_has(pod: Any) -> None:
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["drpo-optimizer", "improve"]
    options = argument_parser().parse_args([container["command"][1], *container["args"]])
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {options.bundle, str(options.config.parent), str(options.out.parent)} <= mounts
    names = {entry["name"] for entry in container["env"]}
    assert "DRPO_STORE" in names
    assert f"$({options.out.name[2:-1]})" == options.out.name
    assert options.out.name[2:-1] in names, "the folder has the name of the job"


def test_job_is_restricted_and_does_not_run_beside_itself(pod: Any) -> None:
    assert documents("job.yaml")["spec"]["concurrencyPolicy"] == "Forbid"
    spec = pod["spec"]
    assert spec["restartPolicy"] == "OnFailure"
    assert spec["securityContext"]["runAsNonRoot"]
    assert not spec["automountServiceAccountToken"]
    context = spec["containers"][0]["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} == {
        one["name"] for one in spec["volumes"]
    }


def test_component_lists_its_files_and_its_network_policy_selects_the_pods(pod: Any) -> None:
    component = documents("kustomization.yaml")
    (settings,) = component["configMapGenerator"]
    named = {*component["resources"], *settings["files"], "kustomization.yaml"}
    assert named == {path.name for path in COMPONENT.iterdir()}
    volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
    assert volumes["settings"]["configMap"]["name"] == settings["name"]
    (rule,) = documents("network.yaml")["spec"]["ingress"]
    admitted = [one["podSelector"]["matchLabels"] for one in rule["from"]]
    assert pod["metadata"]["labels"] in admitted
    assert {"app.kubernetes.io/name": "drpo-proxy"} in admitted, "a policy admits nobody else"


def test_command_takes_the_run_toml_of_the_job() -> None:
    document = read_document(COMPONENT / "run.toml")
    directory = default_bundle_directory()
    check_start(Start(document, COMPONENT, str(directory), read_bundle(directory).manifest, "improved"))
    assert tomllib.loads((COMPONENT / "run.toml").read_text(encoding="utf-8"))["budget"]


def test_image_has_the_embedder_that_scores_answers() -> None:
    document = read_document(COMPONENT / "run.toml")
    with_rows = {**document, "data": {"train": "rows.jsonl", "sealed": "rows.jsonl"}}
    directory = default_bundle_directory()
    start = Start(with_rows, COMPONENT, str(directory), read_bundle(directory).manifest, "improved")
    reward = parse_config(run_document(start, has_validation=True, has_preferences=True), COMPONENT).reward
    assert reward.all_names == {"rules", "reference", "taste"}
    assert reward.embedder == MINILM
    assert f"\n{PACKAGE}==" in (ROOT / "requirements" / "serve.txt").read_text(encoding="utf-8")


def test_comment_names_a_setting_of_the_proxy() -> None:
    text = (COMPONENT / "kustomization.yaml").read_text(encoding="utf-8")
    known = {variable(name) for name in setting_fields()}
    assert set(re.findall(r"DRPO_[A-Z_]+", text)) <= known


@pytest.mark.slow
@pytest.mark.deploy
def test_kubernetes_accepts_the_job(tmp_path: Path) -> None:
    from tests.deploy.test_kubernetes import KUBERNETES, assert_valid, one, rendered

    for part in ("base", "components"):
        subprocess.run(["cp", "-r", KUBERNETES / part, tmp_path / part], check=True)
    text = json.dumps({"resources": ["base"], "components": ["components/bundle", "components/improve"]})
    (tmp_path / "kustomization.yaml").write_text(text, encoding="utf-8")
    objects = rendered(tmp_path)
    assert_valid(objects, tmp_path)
    pod = one(objects, "CronJob", "drpo-improve")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "drpo-proxy:0.1.0"
    name = next(volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume)
    assert "run.toml" in one(objects, "ConfigMap", name)["data"]
