"""What is known of a reply: collected while it passes to the client, and frozen at its end.

It does not depend on HTTP or on a plan.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from proxy.inference.reply_observer import ReplyObserver


class ReplyResult(NamedTuple):
    """How a request ended. A tuple, because one is made for each request and a frozen dataclass takes longer.

    Attributes:
        status: The HTTP status of the reply.
        outcome: `complete`, `truncated`, `client_gone`, or the code of an error.
        seconds: From the start of the request to its end.
        first_byte: Seconds from the start of the request to the first byte of the reply; None if there was none.
        usage: The token counts of the backend; empty if it sent none.
        truncated: Whether a stream ended before its answer did.
        content: The bytes of the reply, if they were kept.
        completion_id: The id of the completion; None if unknown.
        stopped: Whether the model ended the answer itself, not at a length limit; None if unknown.
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
        """Tokens by type. `cached`: tokens of the prompt that the backend found in its prefix cache."""
        details = self.usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        prompt, completion = self.usage.get("prompt_tokens"), self.usage.get("completion_tokens")
        for kind, count in (("prompt", prompt), ("completion", completion), ("cached", cached)):
            if isinstance(count, int):
                yield kind, count


@dataclass(slots=True)
class ReplyProgress:
    """What is known of a reply while it passes.

    Attributes:
        accepted: Whether the backend accepted the request.
        first_byte: When the first byte of the reply was passed on, by `time.perf_counter`.
        usage: The token counts of the backend.
        truncated: Whether a stream ended before its answer did.
        content: The bytes of the reply, at most one MiB; None if they are not kept.
        observer: Reads the reply for an experiment.
    """

    accepted: bool = False
    first_byte: float | None = None
    usage: Mapping[str, object] | None = None
    truncated: bool = False
    content: bytearray | None = None
    observer: ReplyObserver | None = None

    def result(self, status: int, outcome: str, started: float, ended: float) -> ReplyResult:
        """The frozen result of the request. started, ended: by `time.perf_counter`."""
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
