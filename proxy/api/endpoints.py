"""Holds the table of the endpoints that send a request to a backend: one row per path.

A row says how the body of a request is parsed, and how the plan of the request is made. To add a path whose requests
are only relayed to the backend, add the path to RELAYED, or to FORMS if the bodies are forms. To add any other
endpoint, add a row to _ROWS, a method of the class Planner that makes the plan (proxy/inference/planner.py), and a
schema in openapi.py.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aiohttp import web

from proxy.api.admission import parse_json
from proxy.api.multipart import FormModel, form_model
from proxy.core.json_types import Json
from proxy.core.variant_names import RAW
from proxy.inference.plan import CHAT, COMPLETIONS, JSON_TYPE, RESPONSES, Plan
from proxy.inference.planner import Planner
from proxy.inference.setting import Setting
from proxy.openai.conversation import Conversation, read_chat, read_completion, read_response
from proxy.openai.json_fields import encode

RELAYED: Final = (
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/score",
    "/v1/pooling",
    "/v1/classify",
    "/v1/audio/speech",
    "/rerank",
    "/score",
    "/tokenize",
    "/detokenize",
)
FORMS: Final = ("/v1/audio/transcriptions", "/v1/audio/translations")


@dataclass(frozen=True, slots=True)
class RelayedBody:
    """The body of a relayed request. The proxy uses only its field `model`.

    Attributes:
        path: The path of the request.
        body: The parsed JSON object. For a form, it is an object that has only the field `model`.
        data: The bytes of the body, as the client sent them.
        content_type: The Content-Type of the body.
        form: The field `model` of a form, with its position in `data`; None if the body is JSON.
    """

    path: str
    body: Json = field(repr=False)
    data: bytes = field(repr=False)
    content_type: str
    form: FormModel | None = None

    def for_model(self, model: str) -> bytes:
        """Return the bytes of the body, with the field `model` set to the given value.

        If a JSON body already has this value, the client's bytes are returned. This saves the time to encode the body.
        """
        if self.form is not None:
            return self.form.replaced(self.data, model)
        return self.data if self.body.get("model") == model else encode({**self.body, "model": model})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the table: how the requests of one path are handled.

    Attributes:
        path: The path.
        parse: Parses the bytes of a body. Raises ProxyError.
        plan: Makes the plan for a parsed body. Raises ProxyError, or LayoutError for messages that cannot be rendered.
        is_form: Whether the body is a multipart form; else it is JSON.
        in_experiments: Whether requests take part in experiments. If so, `parse` must return a Conversation.
        is_judged: Whether the shadow judge can compare the answers.
    """

    path: str
    parse: Callable[[web.Request, bytes], Any]
    plan: Callable[[Planner, Any, Setting], Awaitable[Plan]]
    is_form: bool = False
    in_experiments: bool = False
    is_judged: bool = False


def _parse_chat(request: web.Request, data: bytes) -> Conversation:
    return read_chat(parse_json(request, data))


def _parse_completion(request: web.Request, data: bytes) -> Conversation:
    return read_completion(parse_json(request, data))


def _parse_response(request: web.Request, data: bytes) -> Conversation:
    return read_response(parse_json(request, data))


def _parse_relayed(request: web.Request, data: bytes) -> RelayedBody:
    return RelayedBody(request.path, parse_json(request, data), data, JSON_TYPE)


def _parse_form(request: web.Request, data: bytes) -> RelayedBody:
    content_type = request.headers["Content-Type"]
    form = form_model(content_type, data)
    return RelayedBody(request.path, {"model": form.value}, data, content_type, form)


async def _plan_relayed(_planner: Planner, body: RelayedBody, setting: Setting) -> Plan:
    """Make a plan that sends the client's body with one change: the field `model` becomes the id of the chosen model.

    The backend therefore never gets a variant suffix. If the client names no model, the field gets the default model.
    """
    choice = replace(setting.choice, variant=RAW)
    return Plan(choice, body.path, body.for_model(choice.model), content_type=body.content_type)


_ROWS: Final = (
    Endpoint(CHAT, _parse_chat, Planner.chat, in_experiments=True, is_judged=True),
    Endpoint(COMPLETIONS, _parse_completion, Planner.completion),
    Endpoint(RESPONSES, _parse_response, Planner.response, in_experiments=True),
    *(Endpoint(path, _parse_relayed, _plan_relayed) for path in RELAYED),
    *(Endpoint(path, _parse_form, _plan_relayed, is_form=True) for path in FORMS),
)
ENDPOINTS: Final[Mapping[str, Endpoint]] = {endpoint.path: endpoint for endpoint in _ROWS}
