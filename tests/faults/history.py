"""Histories of the same requests as recorded by clients, proxy and backends, and the rules that they must satisfy.

As in Jepsen, the histories are recorded during a run and checked afterwards. The rules do not depend on how the proxy
works. A rule yields one line for each violation.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.faults.catalogue import FAULTS, events, payloads, text_of, whole, words

OVERLOADED = 503
UNREACHABLE = frozenset({502, 503})
TIMED_OUT = 504
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as recorded by its client.

    Attributes:
        id: Its X-Request-Id.
        kind: The kind of the model.
        fault: The fault that it selects.
        stream: Whether it asks for a stream.
        include_usage: Whether it asks for the usage of the stream.
        left: Whether the client disconnected before the end.
        status: The status of the reply; None if there was no reply.
        body: The body as far as it was received.
        ended: Whether the body was received to its end.
    """

    id: str
    kind: str
    fault: str
    stream: bool
    include_usage: bool = False
    left: bool = False
    status: int | None = None
    body: bytes = field(default=b"", repr=False)
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Logged:
    """One log line of the proxy."""

    id: str
    status: int
    outcome: str


@dataclass(frozen=True, slots=True)
class Hit:
    """One request as recorded by a backend."""

    id: str
    fault: str


@dataclass(frozen=True, slots=True)
class Histories:
    """The histories of one run.

    Attributes:
        asked: The requests of the clients.
        logged: The log lines of the proxy.
        hits: The requests that reached a backend.
        unreachable: Whether a backend was down for some time, which explains a 502 or 503.
        stalled: Whether the process was not run for some time, which explains a timeout of the proxy.
        crowded: Whether the limit of requests in flight may have been reached, which explains a 503.
        defects: The failures that the proxy logged.
    """

    asked: Sequence[Asked]
    logged: Sequence[Logged]
    hits: Sequence[Hit]
    unreachable: bool = False
    crowded: bool = False
    stalled: bool = False
    defects: Sequence[str] = ()


class LogHistory(logging.Handler):
    """Collects the log lines of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Logged] = []
        self.defects: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "request":
            values: Mapping[str, Any] = record.values  # type: ignore[attr-defined]
            self.lines.append(Logged(values["request_id"], values["status"], values["outcome"]))
        elif record.levelno >= logging.ERROR:
            self.defects.append(f"{record.getMessage()}: {getattr(record, 'values', {})}")


def violations(histories: Histories) -> list[str]:
    """Return the violations of all rules."""
    rules = (_each_has_one_end, _ends_agree, _statuses_are_explained, _repeated_only_where_safe, _bytes_are_right)
    return [*histories.defects, *(complaint for rule in rules for complaint in rule(histories))]


def client_violations(asked: Asked) -> list[str]:
    """Return the violations that the record of one client shows."""
    alone = Histories([asked], [], [])
    complaints = [*_statuses_are_explained(alone), *_bytes_are_right(alone)]
    return complaints if asked.left or asked.ended else [*complaints, f"{asked}: the client waited and got no end"]


def _each_has_one_end(histories: Histories) -> Iterator[str]:
    lines = Counter(line.id for line in histories.logged)
    for asked in histories.asked:
        if lines[asked.id] != 1 and not (asked.left and not lines[asked.id] and asked.status is None):
            yield f"{asked}: {lines[asked.id]} log lines"
        if not asked.left and not asked.ended:
            yield f"{asked}: the client waited and got no end"
    for unknown in lines.keys() - {asked.id for asked in histories.asked}:
        yield f"{unknown}: logged, and nobody asked"


def _ends_agree(histories: Histories) -> Iterator[str]:
    """Check the log against the clients. A client may leave after the proxy has ended its request."""
    lines = {line.id: line for line in histories.logged}
    for asked in histories.asked:
        line = lines.get(asked.id)
        if line is None:
            continue
        if asked.status is not None and line.status not in (asked.status, 499 if asked.left else asked.status):
            yield f"{asked}: the log says {line.status}"
        if not asked.left and line.outcome == "client_gone":
            yield f"{asked}: the log says that the client left"
        if asked.ended and asked.status == 200 and (line.outcome == "complete") != _is_whole(asked):
            yield f"{asked}: the log says {line.outcome}"


def _statuses_are_explained(histories: Histories) -> Iterator[str]:
    for asked in histories.asked:
        known = set(FAULTS[asked.fault].statuses)
        known |= UNREACHABLE if histories.unreachable else set()
        known |= {OVERLOADED} if histories.crowded else set()
        known |= {*UNREACHABLE, TIMED_OUT} if histories.stalled else set()
        if not asked.left and asked.status not in known:
            yield f"{asked}: expected one of {sorted(known)}"


def _repeated_only_where_safe(histories: Histories) -> Iterator[str]:
    """Check that a request is retried at most once, and only if the backend cannot have generated anything."""
    hits: dict[str, list[Hit]] = defaultdict(list)
    for hit in histories.hits:
        hits[hit.id].append(hit)
    for name, its in hits.items():
        if len(its) > 2:
            yield f"{name}: sent {len(its)} times"
        fault = FAULTS[its[0].fault]
        if len(its) > 1 and not (fault.repeatable or (fault.lingers and histories.unreachable)):
            yield f"{name}: sent again after {its[0].fault}"


def _bytes_are_right(histories: Histories) -> Iterator[str]:
    for asked in histories.asked:
        if asked.status == 200:
            check = _stream_is_right if asked.stream else _whole_is_right
            yield from (f"{asked}: {complaint}" for complaint in check(asked))


def _whole_is_right(asked: Asked) -> Iterator[str]:
    if not asked.ended:
        return
    received, expected = orjson.loads(asked.body), whole(asked.id, "chat")
    if not FAULTS[asked.fault].whole:
        yield "a whole 200 for a reply that was not whole"
    elif asked.kind == "chat" and received != expected:
        yield "not the backend's reply"
    elif received["choices"][0]["message"]["content"] != "".join(words(asked.id)):
        yield "not the backend's words"


def _stream_is_right(asked: Asked) -> Iterator[str]:
    """Check that a stream is a prefix of the backend's events, followed by [DONE] or by one error event.

    The end is missing if the client left.
    """
    body = asked.body
    if asked.left:
        body = body[: body.rfind(b"\n\n") + 2]
    received = _events(body)
    if received and _is_error(received[-1]):
        received.pop()
    elif asked.ended and not body.endswith(DONE):
        yield "ended without [DONE] and without an error"
    if any(_is_error(event) for event in received):
        yield "an error event in the middle"
    if asked.ended and body.endswith(DONE) and not FAULTS[asked.fault].whole:
        yield "[DONE] for a stream that was cut"
    expected = [event for event in events(asked.id, "chat") if asked.include_usage or b'"usage"' not in event]
    if asked.kind == "chat" and received != expected[: len(received)]:
        yield "not the backend's events"
    if asked.kind == "completion" and not "".join(words(asked.id)).startswith(text_of(b"".join(received))):
        yield "not the backend's words"
    if _is_whole(asked) and text_of(b"".join(received)) != "".join(words(asked.id)):
        yield "[DONE] before the last word"
    if asked.ended:
        payloads(body)


def _is_whole(asked: Asked) -> bool:
    return not asked.stream or asked.body.endswith(DONE)


def _events(body: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in body.split(b"\n\n") if event]


def _is_error(event: bytes) -> bool:
    return event.startswith(b'data: {"error"')
