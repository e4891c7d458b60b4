"""Tests of the files for a hosted repository: they have the form that the host reads, and name files that exist."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bench.start import copied
from tests.deploy.parts import called, environment
from tests.test_repository import ROOT, tracked_files

GITHUB = ROOT / ".github"
WORKFLOW = GITHUB / "workflows" / "ci.yml"
ISSUE_CONFIG = GITHUB / "ISSUE_TEMPLATE" / "config.yml"
FORMS = sorted(set(GITHUB.glob("ISSUE_TEMPLATE/*.yml")) - {ISSUE_CONFIG})
SCHEMAS = {
    "vendor.github-workflows": [WORKFLOW],
    "custom.github-workflows-require-timeout": [WORKFLOW],
    "vendor.github-issue-forms": FORMS,
    "vendor.github-issue-config": [ISSUE_CONFIG],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_workflow_runs_the_checks_of_the_repository_and_make_targets_that_exist() -> None:
    steps = [step for job in read(WORKFLOW)["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"bash .ci/run", "bash .ci/run lint test"} <= set(commands)
    for command in commands:
        words = command.removeprefix("bash .ci/run").removeprefix("make").split()
        assert {word for word in words if "=" not in word} <= targets


def test_actions_are_pinned_by_commit() -> None:
    used = [step["uses"] for job in read(WORKFLOW)["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", one)] == []


def test_workflow_may_only_read() -> None:
    workflow = read(WORKFLOW)
    assert workflow["permissions"] == {"contents": "read"}
    assert not [name for name, job in workflow["jobs"].items() if "permissions" in job]


def test_ci_run_takes_the_names_of_targets(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
    (tmp_path / "Makefile").write_text("lint test test-slow test-deploy test-vllm:\n\t@echo did $@\n", encoding="utf-8")
    for arguments, expected in (([], 5), (["lint", "test"], 2)):
        command = ["bash", ".ci/run", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert len(re.findall(r"^did ", done.stdout, re.MULTILINE)) == expected


def test_hooks_run_the_pinned_tools() -> None:
    hooks = [hook for repository in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "import-linter"}
    assert {hook["language"] for hook in hooks} == {"unsupported"}  # pre-commit installs nothing
    pinned = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    assert all(f"\n{name}==" in pinned for name in ("ruff", "import-linter"))


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_form_has_what_the_host_asks_for(form: Path) -> None:
    found = read(form)
    assert {"name", "description", "body"} <= found.keys()
    fields = [field for field in found["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["type"] in {"input", "textarea", "checkboxes"} for field in fields)
    assert all(field["attributes"]["label"] for field in fields)


def test_report_of_a_fault_asks_for_what_is_needed_and_for_no_private_data() -> None:
    fields = {field.get("id"): field for field in read(GITHUB / "ISSUE_TEMPLATE" / "fault.yml")["body"]}
    assert {"what", "version", "command", "check"} <= {
        name for name, field in fields.items() if field.get("validations", {}).get("required")
    }
    assert [option["required"] for option in fields["private"]["attributes"]["options"]] == [True]
    request = (GITHUB / "pull_request_template.md").read_text(encoding="utf-8")
    for text in (request, json.dumps(fields)):
        assert "drpo-proxy --version" in text
        assert "drpo-proxy check" in text
        assert re.search(r"no keys, (no )?prompts", text)


def test_citation_names_the_version_and_the_licence_of_the_project() -> None:
    citation, project = read(ROOT / "CITATION.cff"), (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert f'version = "{citation["version"]}"' in project
    assert f'license = "{citation["license"]}"' in project


def test_files_that_the_files_of_the_host_name_exist() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in tracked_files() if GITHUB in path.parents)
    named = set(re.findall(r"\b([\w./-]+\.(?:md|py|toml))\b", text))
    assert "SECURITY.md" in named
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_of_the_host_have_the_form_of_their_schemas(schema: str) -> None:
    check = called(environment("tools"), "check-jsonschema")
    command = [*check, "--default-filetype", "yaml", "--builtin-schema", schema, *map(str, SCHEMAS[schema])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.deploy
@pytest.mark.slow
@pytest.mark.network
def test_hooks_find_nothing(tmp_path: Path) -> None:
    """The test uses a copy of the repository, because ruff corrects what it finds."""
    pre_commit, clone = called(environment("hooks"), "pre-commit"), copied(tmp_path / "clone")
    for arguments in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *arguments], cwd=clone, check=True)
    (clone / ".venv").symlink_to(sys.prefix)
    command = [*pre_commit, "run", "--all-files", "--show-diff-on-failure"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("Passed")) == (0, 3), done.stdout + done.stderr
