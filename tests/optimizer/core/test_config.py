"""Tests that the documentation lists every table and key of run.toml."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from optimizer.core.config import parse_config
from optimizer.core.config_tables import ModelTable, RunConfig
from optimizer.core.errors import ConfigError
from optimizer.core.request_form import RequestForm

PAGE = Path(__file__).parents[3] / "docs" / "optimizing.md"


def test_every_table_and_key_is_documented() -> None:
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\| `\[(\w+)(?:\.\w+)?\]`.*? \| (.*) \|$", line):
            rows[found[1]] = set(re.findall(r"`(\w+)`", found[2]))
    hints = get_type_hints(RunConfig)
    tables = {one.name: hints[one.name] for one in fields(RunConfig)} | {"models": ModelTable}
    assert rows.keys() == tables.keys()
    for name, kind in tables.items():
        assert is_dataclass(kind)
        assert {one.name for one in fields(kind)} <= rows[name], name


def test_every_key_of_the_request_form_is_documented() -> None:
    documented = set(re.findall(r"^\| `(\w+)` ", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert {one.name for one in fields(RequestForm)} <= documented


def config_with(role: str, request: dict[str, Any]) -> dict[str, Any]:
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "kind": "chat"}
    models: dict[str, Any] = {name: dict(endpoint) for name in ("task", "judge", "optimizer")}
    models[role]["request"] = request
    data = {"train": "t.jsonl", "sealed": "s.jsonl"}
    return {"models": models, "data": data, "reward": {"weights": {"rules": 1}}, "bundle": {"name": "b"}}


def test_request_form_of_a_model_is_read() -> None:
    extra = {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}, "top_k": 1}
    request = {"max_tokens_field": "max_completion_tokens", "omit": ["temperature"], "extra": extra, "max_choices": 2}
    form = parse_config(config_with("judge", request), Path()).models["judge"].request
    assert form == RequestForm("max_completion_tokens", omit=("temperature",), extra=extra, max_choices=2)
    assert RequestForm.from_differences(form.differences) == form


@pytest.mark.parametrize(
    ("role", "request_table", "named"),
    [
        ("judge", {"max_tokens_field": "max_new_tokens"}, "max_completion_tokens"),
        ("judge", {"max_token": 5}, "max_tokens"),
        ("judge", {"omit": "temperature"}, "must be a list"),
        ("judge", {"omit": ["messages"]}, "cannot be changed"),
        ("judge", {"extra": {"stream": True}}, "cannot be changed"),
        ("judge", {"extra": {"n": 1}}, "max_choices"),
        ("judge", {"reply_format": "yaml"}, "json_schema"),
        ("judge", {"system_role": "root"}, "developer"),
        ("judge", {"max_choices": -1}, "negative"),
        ("optimizer", {"reply_format": "text"}, "judge"),
        ("task", {"max_tokens": 5}, "sampling"),
        ("task", {"temperature": "omit"}, "temperature is unknown"),
    ],
)
def test_request_form_that_cannot_be_used_is_refused(role: str, request_table: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_config(config_with(role, request_table), Path())
