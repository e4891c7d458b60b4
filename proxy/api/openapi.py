"""Makes the OpenAPI document of GET /openapi.json. All functions are pure.

The document describes the request fields that the proxy itself reads. The backend checks all other fields, so the
schemas allow additional properties. The schema of the field `model` lists the models that the backends offer when the
document is made.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from proxy.experiments.automatic_metrics import MAX_VALUE

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_FLAG: Final[Schema] = {"type": ["boolean", "null"]}
_COUNT: Final[Schema] = {"type": ["integer", "null"], "minimum": 1}
_OBJECT: Final[Schema] = {"type": "object"}
_STOP: Final[Schema] = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}, {"type": "null"}]}
_VARIANT: Final[Schema] = {
    "name": "x-drpo-variant",
    "in": "header",
    "required": False,
    "description": "aligned: with the bundle's prompt and examples. raw: unchanged. raw-matched: raw, but with the "
    "bundle's sampling and length limit.",
    "schema": {"type": "string", "enum": ["aligned", "raw", "raw-matched"]},
}
_UNIT: Final[Schema] = {
    "name": "x-drpo-unit",
    "in": "header",
    "required": False,
    "description": "The user or session that the request counts for in experiments. Only a keyed hash of it is stored.",
    "schema": _TEXT,
}
_REPLY_HEADERS: Final[Schema] = {
    "x-request-id": {"description": "The client's x-request-id, or an id that the proxy made.", "schema": _TEXT},
    "x-drpo-variant": {"description": "What was served: aligned, raw or raw-matched.", "schema": _TEXT},
    "x-drpo-bundle": {"description": "First 12 characters of the bundle's SHA-256.", "schema": _TEXT},
    "x-drpo-examples": {"description": "The ids of the injected examples, in their order.", "schema": _TEXT},
    "x-drpo-reduced": {"description": "The reasons why the request got fewer examples.", "schema": _TEXT},
    "x-drpo-refusal": {"description": "left-out: the request got none of the pinned refusals.", "schema": _TEXT},
    "x-drpo-max-tokens": {"description": "The max_tokens of the request, if the proxy lowered it.", "schema": _TEXT},
    "x-drpo-experiment": {"description": "Experiments that the request is in: NAME=ARM, ...", "schema": _TEXT},
}
_ERROR: Final[Schema] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
_MODEL: Final[Schema] = {"type": "object", "required": ["id"], "properties": {"id": _TEXT, "object": _TEXT}}
_MODELS: Final[Schema] = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _MODEL}},
}
_READINESS: Final[Schema] = {
    "type": "object",
    "required": ["status", "reasons"],
    "properties": {"status": {"enum": ["ready", "unready"]}, "reasons": {"type": "array", "items": _TEXT}},
}
_LIVENESS: Final[Schema] = {"type": "object", "required": ["status"], "properties": {"status": {"const": "live"}}}
_FEEDBACK: Final[Schema] = {
    "type": "object",
    "required": ["metric", "value"],
    "properties": {
        "request_id": {**_TEXT, "description": "The reply's header x-request-id. Send this or completion_id."},
        "completion_id": {**_TEXT, "description": "The reply's field `id`. Send this or request_id."},
        "metric": {**_TEXT, "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
        "value": {
            "description": (
                "true, false, a number from -1e9 to 1e9, or a comment. A metric that an experiment compares accepts no "
                "comments. A comment must not consist of a number, `true` or `false` in quotation marks."
            ),
            "type": ["boolean", "number", "string"],
            "minimum": -MAX_VALUE,
            "maximum": MAX_VALUE,
        },
    },
    "additionalProperties": False,
}
_FEEDBACK_STORED: Final[Schema] = {
    "type": "object",
    "required": ["object", "kept", "matched"],
    "properties": {
        "object": {"const": "feedback"},
        "kept": {"const": True},
        "matched": {"type": "boolean", "description": "Whether a recorded request has this id."},
    },
}
_NOT_STORED: Final = "The feedback cannot be stored now. See Retry-After."
_PROXY_ERRORS: Final[Mapping[int, str]] = {
    400: "The request is not valid. `param` names the wrong field.",
    404: "No backend lists the model.",
    408: "The body did not arrive in time.",
    413: "The body is larger than --max-body-bytes.",
    415: "The body is compressed, is not JSON, or, at an audio endpoint, is not a form.",
    500: "The server has a defect. Its log describes the defect under the id of the request.",
    502: "No backend could be reached, or the backend's reply is malformed.",
    503: "Too many requests are in flight, or the server is shutting down. See Retry-After.",
    504: "The backend did not answer in time.",
}


def openapi_document(models: Sequence[str], relayed: Iterable[str], forms: Iterable[str]) -> Schema:
    """Return the document, in the format OpenAPI 3.1.

    Args:
        models: The ids of the models that backends list.
        relayed: The paths whose JSON bodies are relayed to a backend.
        forms: The paths whose multipart forms are relayed to a backend.
    """
    model = _model(models)
    paths = {
        "/v1/chat/completions": _post("Answer a conversation", _chat(model), _choices("chat.completion")),
        "/v1/completions": _post("Continue a text", _completion(model), _choices("text_completion")),
        "/v1/responses": _post("Answer a request of the Responses API", _response(model), _OBJECT),
        **{path: _relayed("application/json", model) for path in relayed},
        **{path: _relayed("multipart/form-data", model) for path in forms},
        "/v1/feedback": _feedback(),
        "/v1/models": _get("List the models of all backends, and each model with its variants", _MODELS),
        "/v1/models/{id}": _get_model(models),
        "/health/live": _get("The process answers", _LIVENESS),
        "/health/ready": _get(
            "Requests can be served", _READINESS, {503: ("Requests cannot be served; `reasons` says why.", _READINESS)}
        ),
        "/metrics": {
            "get": {"summary": "Prometheus' text format", "responses": {"200": _reply("Metrics", "text/plain")}}
        },
        "/openapi.json": _get("This document", _OBJECT),
    }
    title = {"title": "drpo-proxy", "version": version("drpo-proxy"), "license": {"name": "Apache-2.0"}}
    return {"openapi": "3.1.0", "info": title, "paths": paths, "components": {"schemas": {"Error": _ERROR}}}


def _model(models: Sequence[str]) -> Schema:
    description = "MODEL or MODEL@VARIANT. Without a value: the model that all backends list first."
    return {"description": description, **({"enum": [*models, None]} if models else {"type": ["string", "null"]})}


def _chat(model: Schema) -> Schema:
    message: Schema = {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": _TEXT,
            "content": {"anyOf": [_TEXT, {"type": "null"}, {"type": "array", "items": _OBJECT}]},
        },
    }
    fields = {
        "messages": {"type": "array", "minItems": 1, "items": message},
        "max_completion_tokens": _COUNT,
        "logprobs": _FLAG,
        "top_logprobs": {"type": ["integer", "null"], "minimum": 0},
        **_generation(model),
    }
    return {"type": "object", "required": ["messages"], "properties": fields}


def _completion(model: Schema) -> Schema:
    return {"type": "object", "required": ["prompt"], "properties": {"prompt": {}, **_generation(model)}}


def _generation(model: Schema) -> Schema:
    """Return the schemas of the request fields that chat completions and text completions share."""
    options = {"type": ["object", "null"], "properties": {"include_usage": _FLAG}}
    return {"model": model, "stream": _FLAG, "stream_options": options, "max_tokens": _COUNT, "stop": _STOP}


def _response(model: Schema) -> Schema:
    items = {"type": "array", "minItems": 1, "items": _OBJECT}
    fields = {
        "model": model,
        "input": {"anyOf": [_TEXT, items]},
        "instructions": {"type": ["string", "null"]},
        "max_output_tokens": _COUNT,
        "stream": _FLAG,
    }
    return {"type": "object", "required": ["input"], "properties": fields}


def _choices(kind: str) -> Schema:
    return {
        "type": "object",
        "required": ["object", "choices"],
        "properties": {"object": {"const": kind}, "choices": {"type": "array", "items": _OBJECT}},
    }


def _post(summary: str, body: Schema, answer: Schema) -> Schema:
    good = {
        **_reply("The answer, whole or as a stream of events", "application/json", answer),
        "headers": _REPLY_HEADERS,
    }
    good["content"]["text/event-stream"] = {}
    operation = {
        "summary": summary,
        "parameters": [_VARIANT, _UNIT],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": good, **_errors(_PROXY_ERRORS), "default": _BACKEND_REPLY},
    }
    return {"post": operation}


def _feedback() -> Schema:
    errors = {
        400: _PROXY_ERRORS[400],
        404: "This server stores no feedback: it was started with neither --experiment nor --store.",
        503: _NOT_STORED,
    }
    operation = {
        "summary": "Rate an answer; the last value for each metric counts",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _FEEDBACK}}},
        "responses": {"200": _reply("The feedback is stored", "application/json", _FEEDBACK_STORED), **_errors(errors)},
    }
    return {"post": operation}


def _relayed(media: str, model: Schema) -> Schema:
    """Describe a path whose requests are relayed to a backend. The proxy reads only their field `model`."""
    schema = {"type": "object", "properties": {"model": model}}
    operation = {
        "summary": "Relayed to the backend of the model",
        "requestBody": {"required": True, "content": {media: {"schema": schema}}},
        "responses": {"default": _BACKEND_REPLY},
    }
    return {"post": operation}


def _get(summary: str, answer: Schema, others: Mapping[int, tuple[str, Schema]] | None = None) -> Schema:
    other = {str(status): _reply(text, "application/json", schema) for status, (text, schema) in (others or {}).items()}
    return {"get": {"summary": summary, "responses": {"200": _reply(summary, "application/json", answer), **other}}}


def _get_model(models: Sequence[str]) -> Schema:
    schema: Schema = {**_TEXT, "examples": [*models]} if models else _TEXT
    operation = _get("One of the models", _MODEL)["get"]
    operation["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": schema}]
    operation["responses"].update(_errors({404: _PROXY_ERRORS[404]}))
    return {"get": operation}


def _errors(descriptions: Mapping[int, str]) -> Schema:
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        str(status): _reply(description, "application/json", schema) for status, description in descriptions.items()
    }


def _reply(description: str, media: str, schema: Schema | None = None) -> Schema:
    return {"description": description, "content": {media: {"schema": _TEXT if schema is None else schema}}}


_BACKEND_REPLY: Final[Schema] = {"description": "The reply of the backend, unchanged.", "content": {"*/*": {}}}
