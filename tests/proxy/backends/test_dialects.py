"""Guards what each kind of model server is sent, and that a kind is one module and one entry of the registry."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import proxy
from proxy.backends.dialects.base import Dialect, Fetch, ModelFacts
from proxy.backends.dialects.llama_cpp import LLAMA_CPP
from proxy.backends.dialects.registry import DIALECTS
from proxy.backends.dialects.unknown import UNKNOWN
from proxy.backends.discovery import discover
from proxy.backends.kinds.decision import Decision
from proxy.core.errors import BadRequestError
from proxy.core.json_types import Json

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
PACKAGE = Path(proxy.__file__).parent


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"prompt": "p", "logprobs": 0}, {"prompt": "p", "logprobs": 1}),
        ({"logprobs": 5}, {"logprobs": 5}),
        ({"logprobs": "abc"}, {"logprobs": "abc"}),
        ({"repetition_penalty": 1.1}, {"repeat_penalty": 1.1}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_schema": {"type": "object"}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            {"json_schema": SCHEMA},
        ),
        ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": SCHEMA}),
    ],
)
def test_llama_cpp_request_has_the_field_names_of_llama_cpp(
    request_: dict[str, object], expected: dict[str, object]
) -> None:
    assert LLAMA_CPP.completion_request(request_) == expected


@pytest.mark.parametrize(
    "request_",
    [
        {"structured_outputs": {"regex": "a"}},
        {"response_format": {"type": "odd"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": "json"},
        {"structured_outputs": 5},
    ],
)
def test_llama_cpp_request_with_an_unknown_output_format_is_refused(request_: dict[str, object]) -> None:
    with pytest.raises(BadRequestError):
        LLAMA_CPP.completion_request(request_)


async def _detect_made_up(model_id: str, fetch: Fetch) -> ModelFacts | None:
    status, _ = await fetch(f"/kind/{model_id}")
    return ModelFacts("completion", 128) if status == 200 else None


def _made_up_request(request: Json) -> Json:
    return {"text": request["prompt"]}


MADE_UP = Dialect("made-up", detect=_detect_made_up, completion_request=_made_up_request, max_stop_strings=1)


def _server(replies: Mapping[str, Any]) -> Fetch:
    async def fetch(path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        return (200, replies[path]) if path in replies else (404, None)

    return fetch


async def _as_reported(_card: Mapping[str, Any], _dialect: Dialect, facts: ModelFacts) -> Decision:
    return Decision(facts.kind, "reported")


async def _always_chat(_card: Mapping[str, Any], _dialect: Dialect, _facts: ModelFacts) -> Decision:
    return Decision("chat", "given")


async def test_registered_dialect_is_detected_and_stays_with_the_model() -> None:
    fetch = _server({"/v1/models": {"data": [{"id": "m"}]}, "/kind/m": {}})
    (model,) = (await discover(fetch, _as_reported, {}, (*DIALECTS, MADE_UP))).models.values()
    assert (model.kind, model.context, model.dialect) == ("completion", 128, MADE_UP)
    assert model.dialect.completion_request({"prompt": "p"}) == {"text": "p"}


async def test_server_that_no_dialect_detects_is_unknown() -> None:
    fetch = _server({"/v1/models": {"data": [{"id": "m", "max_model_len": 64}]}})
    (model,) = (await discover(fetch, _always_chat, {})).models.values()
    assert (model.kind, model.context, model.dialect) == ("chat", 64, UNKNOWN)
    assert await model.dialect.count_tokens("m", "text", fetch) is None
    assert model.dialect.completion_request({"prompt": "p"}) == {"prompt": "p"}


def _constants(path: Path) -> set[object]:
    return {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}


def _imports(path: Path) -> set[str | None]:
    return {node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}


MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}


@pytest.mark.parametrize("dialect", [*DIALECTS, UNKNOWN], ids=lambda dialect: dialect.name)
def test_dialect_is_imported_by_the_registry_alone(dialect: Dialect) -> None:
    module = f"proxy.backends.dialects.{dialect.name.replace('.', '_')}"
    assert {name for name, path in MODULES.items() if module in _imports(path)} == {"backends/dialects/registry.py"}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_dialect_is_named_in_its_own_module_alone(dialect: Dialect) -> None:
    """A comparison with the name somewhere else would be a second place to change for a new kind of server."""
    own = f"backends/dialects/{dialect.name.replace('.', '_')}.py"
    assert {name for name, path in MODULES.items() if dialect.name in _constants(path)} == {own}
