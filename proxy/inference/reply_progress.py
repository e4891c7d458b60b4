"""Records facts about a reply while the proxy sends it to the client, such as its token counts.

A ReplyProgress collects the facts. When the request has ended, they are copied to a ReplyResult, which never changes.
The module does not depend on HTTP or plans.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from proxy.inference.reply_observer import ReplyObserver

BACKEND_ERROR: Final = "backend_error"
MAX_TOKEN_COUNT: Final = 2**31 - 1  # far more than any context; an INTEGER of PostgreSQL cannot hold more


def token_count(value: object) -> int | None:
    """Return a token count of a backend, or None if the value cannot be one.

    Token counts are added up in metrics, limits and experiments. A backend may send anything in their place: a negative
    number, 1e300 or a string. A float without a fractional part is accepted.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKEN_COUNT:
        return value
    return None


class ReplyResult(NamedTuple):
    """The result of one request. It is a named tuple, because that is faster to create than a frozen dataclass.

    Attributes:
        status: The HTTP status of the reply.
        outcome: How the request ended, as one word:
            `complete`: The proxy sent the backend's whole reply, which may be an error of the backend.
            `truncated`: The backend's stream broke off before the end of the answer, or was malformed.
            `backend_error`: The backend reported an error in a reply with the status 200, or in a stream.
            `client_gone`: The client disconnected.
            `error`: A defect of the proxy ended the request.
            Any other word: The proxy answered with a ProxyError. The word is the error's code, or `bad_request` if the
            error has no code.
        seconds: Seconds from the start of the request to its end.
        first_byte: Seconds from the start of the request to the first byte of the reply; None if no byte was sent.
        usage: The token counts that the backend reported; empty if the backend reported none.
        truncated: Whether the backend's stream broke off before the end of the answer.
        content: The bytes of the reply, cut after one MiB; None if neither the log, the store nor the judge needs them.
        completion_id: The id in the reply; None if the request is not recorded or no id was found.
        stopped: Whether the model itself ended the answer. False if a length limit, a content filter or an error ended
            the answer. None if the request is not recorded or the reply gives no reason for its end.
    """

    status: int
    outcome: str
    seconds: float
    first_byte: float | None
    usage: Mapping[str, object]
    truncated: bool
    content: bytearray | None
    completion_id: str | None
    stopped: bool | None

    def token_counts(self) -> Iterator[tuple[str, int]]:
        """Yield pairs of a type and the number of tokens of this type. Skip a type that the backend did not report.

        The types are `prompt`, `completion` and `cached`. The cached tokens are the part of the prompt that the backend
        found in its prefix cache.
        """
        details = self.usage.get("prompt_tokens_details")
        cached = token_count(details.get("cached_tokens")) if isinstance(details, dict) else None
        prompt, completion = self.tokens("prompt_tokens"), self.tokens("completion_tokens")
        for kind, count in (("prompt", prompt), ("completion", completion), ("cached", cached)):
            if count is not None:
                yield kind, count

    def tokens(self, *names: str) -> int | None:
        """Return the first token count that `usage` has under one of these names, or None if it has none.

        The Chat Completions API and the Responses API have different names for the same count.
        """
        for name in names:
            count = token_count(self.usage.get(name))
            if count is not None:
                return count
        return None


@dataclass(slots=True)
class ReplyProgress:
    """Collects facts about a reply while the proxy sends it to the client.

    Attributes:
        accepted: Whether the backend answered with a status below 400.
        first_byte: The time (`time.perf_counter`) at which the first byte was sent to the client; None before that.
        usage: The token counts that the backend reported; None until the backend reports them.
        truncated: Whether the backend's stream broke off before the end of the answer, or was malformed.
        reported: Whether the backend reported an error in a reply with the status 200.
        content: The bytes of the reply so far, cut after one MiB; None if neither the log, the store nor the judge
            needs them.
        observer: Finds the id of the reply, and whether the model itself ended the answer; None if the request is not
            recorded.
    """

    accepted: bool = False
    first_byte: float | None = None
    usage: Mapping[str, object] | None = None
    truncated: bool = False
    reported: bool = False
    content: bytearray | None = None
    observer: ReplyObserver | None = None

    @property
    def outcome(self) -> str:
        """The outcome of a request whose reply was sent to its end: a word that ReplyResult defines."""
        if self.reported:
            return BACKEND_ERROR
        return "truncated" if self.truncated else "complete"

    def record_usage(self, payload: Mapping[str, Any]) -> None:
        """Record the token counts in a reply, a chunk or a response of the backend. The last counts are kept."""
        usage = payload.get("usage")
        if isinstance(usage, dict):
            self.usage = usage

    def result(self, status: int, outcome: str, started: float, ended: float) -> ReplyResult:
        """Return the frozen result of the request.

        Args:
            status: The HTTP status of the reply.
            outcome: How the request ended; see ReplyResult.
            started: The time (`time.perf_counter`) at which the request started.
            ended: The time (`time.perf_counter`) at which the request ended.
        """
        return ReplyResult(
            status,
            outcome,
            ended - started,
            None if self.first_byte is None else self.first_byte - started,
            self.usage or {},
            self.truncated,
            self.content,
            self.observer.completion_id if self.observer else None,
            self.observer.ended_by_itself if self.observer else None,
        )
