"""What one request came to, as it is filled in on the way: for its log line, its metrics and its experiments."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

from proxy.core.tracing import Trace
from proxy.inference.planner import Plan
from proxy.inference.relay import ReplyFacts


@dataclass(slots=True)
class Record:
    """What one request came to, for its log line and its metrics; never what it said."""

    request_id: str
    route: str
    started: float = field(default_factory=perf_counter)
    status: int = 500
    outcome: str = "error"
    client: str | None = None
    plan: Plan | None = None
    asked: bytes = b""
    trace: Trace | None = None
    facts: ReplyFacts = field(default_factory=ReplyFacts)

    @property
    def first_byte(self) -> float | None:
        """Seconds to the first byte of the answer; None if there was none."""
        return None if self.facts.first_byte is None else self.facts.first_byte - self.started

    def token_counts(self) -> Iterator[tuple[str, int]]:
        """Tokens by type; `cached`: of the prompt's, those that the backend's prefix cache had, where it says so."""
        usage = self.facts.usage or {}
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        counts = {"prompt": usage.get("prompt_tokens"), "completion": usage.get("completion_tokens"), "cached": cached}
        yield from ((kind, count) for kind, count in counts.items() if isinstance(count, int))
