"""Tests that the documentation lists every table and key of run.toml."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from optimizer.core.config import parse_config, read_config
from optimizer.core.config_tables import RunConfig
from optimizer.core.errors import ConfigError
from optimizer.core.model_tables import JudgeTable, ModelTable, WriterTable
from optimizer.core.request_form import RequestForm
from optimizer.core.reward_table import RulesTable
from optimizer.models.open_client import api_key

PAGE = Path(__file__).parents[3] / "docs" / "run-toml.md"


def test_every_table_and_key_is_documented() -> None:
    rows: dict[str, set[str]] = {}
    for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        keys = {key for cell in re.findall(r"^\| (.*?) \|", part, re.MULTILINE) for key in re.findall(r"`(\w+)`", cell)}
        for name in re.findall(r"`\[(\w+)", part.partition("\n")[0]):
            rows.setdefault(name, set()).update(keys)
    hints = get_type_hints(RunConfig)
    tables = {one.name: hints[one.name] for one in fields(RunConfig)} | {"models": ModelTable}
    assert rows.keys() == tables.keys()
    for name, kind in tables.items():
        assert is_dataclass(kind)
        assert {one.name for one in fields(kind)} <= rows[name], name
    for name, nested in (("reward", JudgeTable), ("reward", RulesTable), ("search", WriterTable)):
        assert {one.name for one in fields(nested)} <= rows[name], name


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
        ("judge", {"omit": ["messages"]}, "must not contain"),
        ("judge", {"extra": {"stream": True}}, "must not contain"),
        ("judge", {"extra": {"n": 1}}, "max_choices"),
        ("judge", {"reply_format": "yaml"}, "json_schema"),
        ("judge", {"system_role": "root"}, "developer"),
        ("judge", {"max_choices": -1}, "max_choices must not be negative"),
        ("optimizer", {"reply_format": "text"}, "judge"),
        ("task", {"max_tokens": 5}, "sampling"),
        ("task", {"temperature": "omit"}, "temperature is unknown"),
    ],
)
def test_request_form_that_cannot_be_used_is_refused(role: str, request_table: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_config(config_with(role, request_table), Path())


NUMBERS = [
    *({"data": {"limit": number}} for number in (0, -1, 3, 10**30)),
    *({"data": {"raw": -5}}, {"search": {"queries": 0}}, {"search": {"words": -1}}, {"search": {"indifference": -1.0}}),
    *({table: {"queries": 1}} for table in ("search", "tune")),
    *({"search": {"seed": number}} for number in (10**22, -(10**22))),
    *(
        {"search": {"beam": 10**30}},
        {"examples": {"rounds": 0}},
        {"examples": {"size": -1}},
        {"reward": {"safety": 9.0}},
    ),
    *({"reward": {"weights": {"rules": 1e308}}}, {"reward": {"confirm": -3}}, {"tune": {"shortest_answer": [-4]}}),
    *({"search": {"k": -1}}, {"search": {"deeper": -1}}, {"search": {"keep_above": 5.5}}, {"examples": {"words": -1}}),
    *({"search": {"writer": {"temperature": -0.1}}}, {"examples": {"writer": {"top_p": 1.5}}}),
    *({"reward": {"judge": {"fewest": 4, "most": 3}}}, {"examples": {"judge": {"attempts": 0}}}),
    *({"reward": {"judge": {"attempts": 4}}}, {"reward": {"judge": {"most": 10**30}}}),
    *({"reward": {"rules": {"right": -1}}}, {"reward": {"rules": {"ends": 0, "fresh": 0, "right": 0}}}),
    *({"reward": {"rules": {"right": 1e7}}},),
    *({"budget": {"calls": -1}}, {"budget": {"money": -1.0}}, {"budget": {"tokens": 10**30}}),
    *({"models": {"task": {"timeout": 0.0}}}, {"models": {"task": {"price_prompt": -5.0}}}),
]


def changed(document: Any, change: Any) -> Any:
    if not isinstance(change, dict):
        return change
    return {**document, **{key: changed(document.get(key, {}), value) for key, value in change.items()}}


@pytest.mark.parametrize("change", NUMBERS, ids=str)
def test_number_that_makes_no_sense_is_refused_with_its_table_and_key(change: dict[str, Any]) -> None:
    whole = changed(config_with("judge", {}), change)
    assert parse_config(config_with("judge", {}), Path())
    with pytest.raises(ConfigError) as caught:
        parse_config(whole, Path())
    rest: Any = change
    while isinstance(rest, dict):
        name, rest = next(iter(rest.items()))
        assert name in str(caught.value)


ENDPOINTS = [
    *({"base_url": url} for url in ("localhost:8000/v1", "htp://a/v1", "", "http://", " http://a/v1", "http://a/v 1")),
    *({"model": ""}, {"model": " "}, {"model": "a\nb"}),
    *({"api_key_env": name} for name in ("", "sk-proj-secret", "Bearer secret", "$KEY_secret", "a" * 101)),
]


@pytest.mark.parametrize("table", ENDPOINTS, ids=str)
def test_endpoint_that_cannot_be_asked_is_refused_without_showing_a_key(table: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(changed(config_with("judge", {}), {"models": {"judge": table}}), Path())
    assert f"[models.judge] {next(iter(table))} must be" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_message_about_a_missing_variable_does_not_show_what_may_be_a_key() -> None:
    for name, shown in (("DRPO_NO_SUCH_KEY", "DRPO_NO_SUCH_KEY"), ("f00dsecret1234", "a variable")):
        table = ModelTable("http://127.0.0.1:1/v1", "m", api_key_env=name)
        with pytest.raises(ConfigError, match=f"api_key_env names {shown}, which is not set"):
            api_key(table)


@pytest.mark.parametrize("name", ["", " ", "a/b", "../up", "a\nb", "a\0b"])
def test_bundle_needs_a_name_that_a_folder_can_have(name: str) -> None:
    with pytest.raises(ConfigError, match=r"\[bundle\] name must be"):
        parse_config(changed(config_with("judge", {}), {"bundle": {"name": name}}), Path())


@pytest.mark.parametrize("name", ["", " ", "a\0b", "a\nb"])
@pytest.mark.parametrize("part", ["train", "validation", "sealed", "seeds"])
def test_path_that_no_file_can_have_is_refused(name: str, part: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[data\] {part} must be the name of a file"):
        parse_config(changed(config_with("judge", {}), {"data": {part: name}}), Path())


@pytest.mark.parametrize("tune", [{"policy": ["nearst"]}, {"policy": ["nearest", ""]}, {"order": ["similar"]}], ids=str)
def test_value_to_try_that_does_not_exist_is_refused_with_the_choices(tune: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"\[tune\] (policy|order) must be one of .*(nearest|canonical)"):
        parse_config(changed(config_with("judge", {}), {"tune": tune}), Path())


def test_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        read_config(tmp_path / "run.toml")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_byte_order_mark_and_line_ends_do_not_matter(mark: bytes, end: bytes, tmp_path: Path) -> None:
    lines = (
        *("[models.task]", 'base_url = "http://x/v1"', 'model = "m"', "[data]", 'train = "t"', 'sealed = "s"'),
        *("[reward]", "weights = { rules = 1.0 }", "[bundle]", 'name = "b"'),
    )
    (tmp_path / "run.toml").write_bytes(mark + end.join(line.encode() for line in lines))
    assert read_config(tmp_path / "run.toml").bundle.name == "b"
