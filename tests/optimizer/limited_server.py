"""A chat endpoint that accepts only a part of OpenAI's API, for tests of how the optimizer adapts to such servers.

If a comment names a server, the messages are those of this server.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from aiohttp import web

from tests.optimizer.scripted_endpoint import Reply, ScriptedEndpoint, failure
from tests.optimizer.scripted_models import ScriptedModels

Body = Mapping[str, Any]
Limit = Callable[[Body], Reply | None]
"""Returns the error with which a server answers a body; None if the server accepts the body."""


def _refuses(is_refused: Callable[[Body], bool], message: str, status: int = 400) -> Limit:
    return lambda body: failure(status, message) if is_refused(body) else None


def _refuses_in_words(is_refused: Callable[[Body], bool], body_of_error: object, status: int = 400) -> Limit:
    raw = orjson.dumps(body_of_error)
    return lambda body: (status, {}, raw) if is_refused(body) else None


def _max_tokens(body: Body) -> int:
    return int(max(body.get("max_tokens", 0), body.get("max_completion_tokens", 0)))


def _format(body: Body) -> str:
    return str((body.get("response_format") or {}).get("type", "none"))


def _has_role(role: str) -> Callable[[Body], bool]:
    return lambda body: any(message["role"] == role for message in body["messages"])


LIMITS: Final[Mapping[str, Limit]] = {
    # OpenAI, gpt-5 and o series
    "max_tokens renamed": _refuses(
        lambda body: "max_tokens" in body,
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    ),
    # Groq
    "max_tokens of 512": _refuses(
        lambda body: _max_tokens(body) > 512,
        "`max_tokens` must be less than or equal to `512`, the maximum value for `max_tokens` is less than the "
        "`context_window` for this model",
    ),
    # vLLM with --max-model-len 1024
    "max_tokens beyond the context": _refuses(
        lambda body: _max_tokens(body) > 900,
        "'max_tokens' or 'max_completion_tokens' is too large: 1024. This model's maximum context length is 1024 "
        "tokens and your request has 200 input tokens (1024 > 1024 - 200).",
    ),
    "no max_tokens at all": _refuses(
        lambda body: bool({"max_tokens", "max_completion_tokens"} & set(body)), "unknown field max_tokens"
    ),
    "default temperature only": _refuses(
        lambda body: body.get("temperature", 1) != 1,
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
    ),
    # llama.cpp
    "n of 2": _refuses(
        lambda body: body.get("n", 1) > 2, "n_cmpl cannot be greater than the number of slots, please increase -np"
    ),
    "n of 1": _refuses(lambda body: body.get("n", 1) > 1, "Only one completion choice is allowed"),
    "no field n": _refuses_in_words(
        lambda body: "n" in body, {"detail": [{"loc": ["body", "n"], "msg": "extra"}]}, 422
    ),
    # DeepSeek
    "no json_schema": _refuses(
        lambda body: _format(body) == "json_schema", "This response_format type is unavailable now"
    ),
    # LM Studio
    "no json_object": _refuses_in_words(
        lambda body: _format(body) == "json_object",
        {"error": "'response_format.type' must be 'json_schema' or 'text'"},
    ),
    "no response_format": _refuses_in_words(
        lambda body: "response_format" in body,
        {"object": "error", "message": "Extra inputs are not permitted: response_format", "code": 400},
    ),
    # vLLM with --max-logprobs 5
    "5 top_logprobs": _refuses_in_words(
        lambda body: body.get("top_logprobs", 0) > 5,
        {"object": "error", "message": "Cannot request more than 5 logprobs.", "type": "BadRequestError", "code": 400},
    ),
    "no logprobs": _refuses(
        lambda body: "logprobs" in body or "top_logprobs" in body, "logprobs is not supported by this model", 422
    ),
    # vLLM and llama.cpp with a template of gemma
    "no system role": _refuses(_has_role("system"), "System role not supported"),
    "developer role": _refuses(_has_role("system"), "Unsupported value: 'messages[0].role' does not support 'system'"),
    "no seed": _refuses(lambda body: "seed" in body, "Unrecognized request argument supplied: seed"),
    "4 stop strings": _refuses(lambda body: len(body.get("stop", ())) > 4, "Expected at most 4 items in 'stop'"),
    "no stop": _refuses(lambda body: "stop" in body, "'stop' is not supported with this model."),
    "403 about logprobs": _refuses(
        lambda body: "logprobs" in body, "You are not allowed to request logprobs from this model", 403
    ),
    "404 about n": _refuses(lambda body: body.get("n", 1) > 1, "No endpoints found that support n", 404),
    "415 about response_format": _refuses(lambda body: "response_format" in body, "response_format unsupported", 415),
    "no penalties": _refuses(lambda body: "frequency_penalty" in body, "frequency_penalty is not supported", 501),
    "vague about json_schema": _refuses(lambda body: _format(body) == "json_schema", "Bad request"),
    "vague about temperature": _refuses_in_words(lambda body: "temperature" in body, {}, 422),
    "vague about n": _refuses(lambda body: body.get("n", 1) > 2, "invalid_request_error"),
    "vague about all that is optional": _refuses(
        lambda body: bool({"n", "response_format", "logprobs", "top_logprobs", "top_p", "seed", "stop"} & set(body)),
        "Extra inputs are not permitted",
        422,
    ),
    # ASP.NET
    "errors by parameter": _refuses_in_words(
        lambda body: "seed" in body, {"title": "One or more validation errors occurred.", "errors": {"seed": ["No."]}}
    ),
    "404 about log probabilities": _refuses_in_words(
        lambda body: "logprobs" in body, {"Message": "Log probabilities are not available"}, 404
    ),
    # Apigee
    "406 in a fault": _refuses_in_words(
        lambda body: "temperature" in body, {"fault": {"faultstring": "temperature not accepted"}}, 406
    ),
    # text-generation-inference: its message names JSON by chance
    "vague about the JSON body": _refuses(
        lambda body: "n" in body, "Failed to deserialize the JSON body into the target type: n: invalid type", 422
    ),
    "vague about the schema of the request": _refuses(lambda body: "seed" in body, "Request fails the schema"),
    "500 about the system role": _refuses(_has_role("system"), "System role not supported", 500),
}


def limited_endpoint(
    limits: list[str], text: str, choices: Callable[[int], int] = lambda asked: asked
) -> ScriptedEndpoint:
    """Return an endpoint with these limits.

    A reply has the text `choices(n)` times if the request asks for `n` choices.
    """

    def script(body: Any, _variant: str) -> Reply:
        errors = [error for name in limits if (error := LIMITS[name](body)) is not None]
        return errors[0] if errors else _completion(text, choices(body.get("n", 1)))

    return ScriptedEndpoint(script)


def _completion(text: str, count: int) -> Reply:
    message = {"role": "assistant", "content": text}
    found = [{"index": number, "message": message, "finish_reason": "stop"} for number in range(count)]
    usage = {"prompt_tokens": 10, "completion_tokens": 2 * count}
    return 200, {}, orjson.dumps({"object": "chat.completion", "choices": found, "usage": usage})


@dataclass
class LimitedModels(ScriptedModels):
    """Scripted models on servers that accept only a part of OpenAI's API.

    Attributes:
        limits: The names of the limits, by the name of the model.
        names: The names of the models that the server lists, and the scripted model that replies under each name.
        refused: Number of refused requests.
    """

    limits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=lambda: {name: name for name in ("task", "optimizer", "judge")})
    refused: int = 0

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self.names]})

    async def _chat(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        if body["model"] not in self.names:
            return web.json_response({"error": {"message": "The model does not exist"}}, status=404)
        model = self.names[body["model"]]
        for name in self.limits.get(model, ()):
            if (error := LIMITS[name](body)) is not None:
                self.refused += 1
                return web.Response(status=error[0], body=error[2], content_type="application/json")
        request._read_bytes = orjson.dumps({"n": 1, **body, "model": model})
        return await super()._chat(request)


@asynccontextmanager
async def open_limited_models(**settings: Any) -> AsyncIterator[tuple[LimitedModels, str]]:
    """Serve limited models; yields the models and their base URL."""
    models = LimitedModels(**settings)
    async with models.server() as server:
        yield models, str(server.make_url("/v1"))
