"""Defines the plan of a request: the body and the path for the backend, and how the backend's reply is converted.

The planner (proxy/inference/planner.py) makes plans. This module does not depend on sockets.
"""

from dataclasses import dataclass, field
from typing import Final

from proxy.backends.load_balancing import NO_AFFINITY, Affinity
from proxy.core.json_types import Json
from proxy.inference.injection.injection import Injection
from proxy.inference.injection.injector import DEFAULT_MAX_TOKENS
from proxy.inference.variants import Choice
from proxy.openai.chat_completion import ChatShape
from proxy.openai.json_fields import encode, flag_field, object_field, whole_number
from proxy.openai.responses import ResponseShape
from proxy.openai.stop_strings import StopRules

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
RESPONSES: Final = "/v1/responses"
JSON_TYPE: Final = "application/json"
_MAX_TOKENS_FIELDS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_BYTES_PER_TOKEN: Final = 4  # an estimate for the body of a request
_MAX_ESTIMATE: Final = 2**31 - 1  # tokens; a client may ask for a number that is too large for a float


@dataclass(slots=True)
class Plan:
    """Holds the request that goes to the backend, and the rules by which the backend's reply is converted.

    Attributes:
        choice: The id of the model, and the variant of the request.
        path: The path at the backend to which the body is sent.
        body: The body for the backend; empty after `take_body` was called.
        injection: The prompt and the examples that the proxy added; None if it added none.
        stream: Whether the client asked for a stream.
        shape: Options for the conversion of the backend's text completion to the API that the client called; None if
            the backend replies in this API.
        strip_usage: Whether the proxy removes the token counts from a stream, because the client did not ask for them.
        cut_at: The stop strings at which the proxy itself ends the answer; None if there are none.
        answers: How many answers the client asked for.
        reserve: The estimated maximum number of tokens of the request: prompt and answers together. It is 0 for the
            endpoints whose bodies are only relayed.
        affinity: The conversation and the example set of the request, which decide the backend.
        content_type: The Content-Type of the body.
        lowered_limit: The max_tokens of the body, if it is smaller than the client's; else None.
    """

    choice: Choice
    path: str
    body: bytes = field(repr=False)
    injection: Injection | None = None
    stream: bool = False
    shape: ChatShape | ResponseShape | None = None
    strip_usage: bool = False
    cut_at: StopRules | None = None
    answers: int = 1
    reserve: int = 0
    affinity: Affinity = NO_AFFINITY
    content_type: str = JSON_TYPE
    lowered_limit: int | None = None

    def take_body(self) -> bytes:
        """Return the body and release it, so that it is not kept while the answer streams."""
        body, self.body = self.body, b""
        return body

    @property
    def headers(self) -> dict[str, str]:
        """The `x-drpo-*` headers of the reply: the variant, the bundle, the examples, and what was reduced."""
        headers = {"x-drpo-variant": self.choice.variant}
        if self.injection is None:
            return headers
        headers |= self.injection.headers
        if self.lowered_limit is not None:
            headers["x-drpo-max-tokens"] = str(self.lowered_limit)
        return headers


def make_plan(
    body: Json,
    choice: Choice,
    path: str,
    injection: Injection | None = None,
    shape: ChatShape | ResponseShape | None = None,
    affinity: Affinity = NO_AFFINITY,
) -> Plan:
    """Make a plan that sends `body` with the id of the chosen model in the field `model`.

    If `body` requests a stream of chat or text completions, the plan's body also requests token counts from the
    backend. If the client did not request them, the proxy removes them from the reply.
    """
    stream = flag_field(body, "stream")
    options = object_field(body, "stream_options")
    strip_usage = stream and path != RESPONSES and not options.get("include_usage")
    sent = {**body, "model": choice.model}
    if strip_usage:
        sent["stream_options"] = {**options, "include_usage": True}
    data = encode(sent)
    reserve = _estimated_use(data, sent)
    return Plan(choice, path, data, injection, stream, shape, strip_usage, None, _answers(sent), reserve, affinity)


def _answers(sent: Json) -> int:
    """Return how many answers a request asks for: `n` for each of its prompts."""
    count, prompt = sent.get("n"), sent.get("prompt")
    prompts = prompt if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list) else [prompt]
    return max(1, whole_number(count) or 1) * len(prompts)


def _estimated_use(data: bytes, sent: Json) -> int:
    """Estimate the maximum number of tokens of a request: its body, and all its answers at full length.

    Args:
        data: The encoded body.
        sent: The same body before encoding.
    """
    answers = max(1, whole_number(sent.get("n")) or 1)
    return min(len(data) // _BYTES_PER_TOKEN + _limit(sent) * answers, _MAX_ESTIMATE)


def _limit(sent: Json) -> int:
    for name in _MAX_TOKENS_FIELDS:
        if (cap := whole_number(sent.get(name))) is not None:
            return max(0, cap)
    return DEFAULT_MAX_TOKENS
