"""Records facts about a reply while it is sent to the client, and freezes them at its end.

A ReplyProgress collects the facts, and a ReplyResult holds the final ones. The module does not depend on HTTP or plans.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from proxy.inference.reply_observer import ReplyObserver


class ReplyResult(NamedTuple):
    """The result of one request. It is a named tuple, because that is faster to create than a frozen dataclass.

    Attributes:
        status: The HTTP status of the reply.
        outcome: `complete`, `truncated`, `client_gone`, `error` for a defect of the proxy, or the code of a ProxyError
            (`bad_request` if the error has no code).
        seconds: Seconds from the start of the request to its end.
        first_byte: Seconds from the start of the request to the first byte of the reply; None if no byte was sent.
        usage: The token counts that the backend reported; empty if it reported none.
        truncated: Whether the backend's stream broke off before the end of the answer.
        content: The bytes of the reply, at most one MiB; None if they were not kept.
        completion_id: The id of the completion; None if it was not looked for or not found.
        stopped: Whether the model itself ended the answer. False if a length limit, a content filter or an error ended
            it. None if this is not known.
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
        """Yield the type and the number of tokens: `prompt`, `completion` and `cached`, as far as they are known.

        Tokens of the type `cached` are those of the prompt that the backend found in its prefix cache.
        """
        details = self.usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        prompt, completion = self.usage.get("prompt_tokens"), self.usage.get("completion_tokens")
        for kind, count in (("prompt", prompt), ("completion", completion), ("cached", cached)):
            if isinstance(count, int):
                yield kind, count


@dataclass(slots=True)
class ReplyProgress:
    """Facts about a reply, recorded while it is sent to the client.

    Attributes:
        accepted: Whether the backend answered with a status below 400.
        first_byte: When the client was sent the first byte, by `time.perf_counter`; None before that.
        usage: The token counts that the backend reported; None until it reports them.
        truncated: Whether the backend's stream broke off before the end of the answer.
        content: The bytes of the reply so far, at most one MiB; None if they are not kept.
        observer: Finds what experiments need of the reply; None if the request is in no experiment.
    """

    accepted: bool = False
    first_byte: float | None = None
    usage: Mapping[str, object] | None = None
    truncated: bool = False
    content: bytearray | None = None
    observer: ReplyObserver | None = None

    def result(self, status: int, outcome: str, started: float, ended: float) -> ReplyResult:
        """Return the frozen result of the request.

        Args:
            status: The HTTP status of the reply.
            outcome: See ReplyResult.
            started: When the request started, by `time.perf_counter`.
            ended: When it ended, by the same clock.
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
