"""The dialect of llama.cpp's server."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from proxy.backends.dialects.base import Dialect, Fetch, ModelFacts
from proxy.core.errors import BadRequestError
from proxy.core.json_types import Json
from proxy.core.settings import Kind

_DEFAULT_TEMPLATE_SHA256: Final = "cc145ac597328b60dbce2631dce17c0c84bb6a87b2380cc0473e2e1291965db7"
"""The hash of the default chat template (ChatML). llama.cpp reports this template for a model without a template."""


async def _detect(_model_id: str, fetch: Fetch) -> ModelFacts | None:
    status, properties = await fetch("/props")
    if status == 200 and isinstance(properties, dict) and "chat_template" in properties:
        return ModelFacts(_kind(properties), _context(properties))
    return None


def _kind(properties: Mapping[str, Any]) -> Kind | None:
    """Return the kind that follows from the chat template of a model; None if the template does not show the kind.

    The server reports its default template for a model without a template. It also reports this template for a chat
    model whose own template happens to be the same. The default template therefore does not tell the kind.
    """
    template = str(properties["chat_template"])
    if not template.strip():
        return "completion"
    return None if sha256(template.encode()).hexdigest() == _DEFAULT_TEMPLATE_SHA256 else "chat"


def _context(properties: Mapping[str, Any]) -> int | None:
    context = (properties.get("default_generation_settings") or {}).get("n_ctx")
    return context if isinstance(context, int) and context > 0 else None


async def _count_tokens(_model_id: str, text: str, fetch: Fetch) -> int | None:
    status, reply = await fetch("/tokenize", {"content": text, "add_special": True})
    tokens = reply.get("tokens") if status == 200 and isinstance(reply, dict) else None
    return len(tokens) if isinstance(tokens, list) else None


def _completion_request(request: Json) -> Json:
    """Translate the fields in which llama.cpp differs from vLLM. Raises BadRequestError for unknown formats."""
    adapted = {name: value for name, value in request.items() if name not in {"response_format", "structured_outputs"}}
    if "logprobs" in adapted:
        adapted["logprobs"] = adapted["logprobs"] or 1  # 0 would return no logprobs at all
    if "repetition_penalty" in adapted:
        adapted["repeat_penalty"] = adapted.pop("repetition_penalty")
    schema = _json_schema(request.get("response_format"), request.get("structured_outputs"))
    return adapted if schema is None else {**adapted, "json_schema": schema}


def _json_schema(response_format: Any, structured_outputs: object) -> object:
    """Return the JSON schema that the answer must follow; None if the request asks for plain text."""
    if structured_outputs:
        if not isinstance(structured_outputs, dict) or "json" not in structured_outputs:
            raise BadRequestError(
                "This backend takes only a JSON schema in `structured_outputs`, in the field `json`.",
                param="structured_outputs",
            )
        return structured_outputs["json"]
    if response_format is None:
        return None
    kind = response_format.get("type", "text") if isinstance(response_format, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    inner = response_format.get("json_schema") if kind == "json_schema" else None
    if not isinstance(inner, dict) or "schema" not in inner:
        raise BadRequestError("`response_format` must be text, json_object, or json_schema.", param="response_format")
    return inner["schema"]


LLAMA_CPP: Final = Dialect(
    "llama.cpp",
    detect=_detect,
    count_tokens=_count_tokens,
    completion_request=_completion_request,
    max_stop_strings=None,
    enforces_json=True,
    usage_on_last_choice=True,
    cache_advice=(
        "Start llama.cpp without --no-cache-prompt. Give it --parallel N, so that each concurrent request has a slot, "
        "and --swa-full if the model has a sliding window"
    ),
)
