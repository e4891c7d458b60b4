"""What llama.cpp calls otherwise than vLLM in a completion request; translate speaks vLLM's language. Pure."""

from collections.abc import Mapping
from typing import Any

from proxy.core.errors import BadRequestError
from proxy.core.json_types import JsonDict


def llama_request(request: Mapping[str, Any]) -> JsonDict:
    """A vLLM completion request in llama.cpp's words. Raises BadRequestError for an output form unknown to it."""
    adapted = {name: value for name, value in request.items() if name not in {"response_format", "structured_outputs"}}
    if "logprobs" in adapted:
        adapted["logprobs"] = adapted["logprobs"] or 1  # 0 would give none at all
    if "repetition_penalty" in adapted:
        adapted["repeat_penalty"] = adapted.pop("repetition_penalty")
    schema = _schema(request.get("response_format"), request.get("structured_outputs"))
    return adapted if schema is None else {**adapted, "json_schema": schema}


def _schema(response_format: Any, structured_outputs: object) -> object:
    """The JSON schema that the answer must follow, from either of the fields that can say so; None for none."""
    if structured_outputs:
        if not isinstance(structured_outputs, dict) or "json" not in structured_outputs:
            raise BadRequestError(
                "This backend knows `structured_outputs` only with `json`, a schema.", param="structured_outputs"
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
