"""What client, proxy and backends each wrote down of the same requests, and whether it fits together.

In the manner of Jepsen: the histories are made while everything runs, and judged afterwards by rules that know nothing
of how the proxy works. A rule yields a line for each violation; none is good.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.faults.catalogue import FAULTS, events, payloads, text_of, whole, words

OVERLOADED, UNREACHABLE = 503, 502
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as its client saw it. `status` is None where no reply began; `left`: the client went by itself;
    `ended`: the reply came to its end as HTTP has it."""

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
    """One request that a backend got."""

    id: str
    fault: str


@dataclass(frozen=True, slots=True)
class Histories:
    """All three. `unreachable`: a backend was down for a while, so that 502 is no surprise; `crowded`:
    some requests may have found the server full; `defects`: what the proxy logged as failures of its own."""

    asked: Sequence[Asked]
    logged: Sequence[Logged]
    hits: Sequence[Hit]
    unreachable: bool = False
    crowded: bool = False
    defects: Sequence[str] = ()


class LogHistory(logging.Handler):
    """Collects the proxy's request lines."""

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
    """Every rule's complaints."""
    rules = (_each_has_one_end, _ends_agree, _statuses_are_explained, _repeated_only_where_safe, _bytes_are_right)
    return [*histories.defects, *(complaint for rule in rules for complaint in rule(histories))]


def client_violations(asked: Asked) -> list[str]:
    """What can be said of one request by its client alone."""
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
    for stranger in lines.keys() - {asked.id for asked in histories.asked}:
        yield f"{stranger}: logged, and nobody asked"


def _ends_agree(histories: Histories) -> Iterator[str]:
    """Where the client left, the proxy may have been done already."""
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
        known |= {UNREACHABLE} if histories.unreachable else set()
        known |= {OVERLOADED} if histories.crowded else set()
        if not asked.left and asked.status not in known:
            yield f"{asked}: expected one of {sorted(known)}"


def _repeated_only_where_safe(histories: Histories) -> Iterator[str]:
    """At most once more, and never what may have generated."""
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
    told, expected = orjson.loads(asked.body), whole(asked.id, "chat")
    if not FAULTS[asked.fault].whole:
        yield "a whole 200 for a reply that was not whole"
    elif asked.kind == "chat" and told != expected:
        yield "not the backend's reply"
    elif told["choices"][0]["message"]["content"] != "".join(words(asked.id)):
        yield "not the backend's words"


def _stream_is_right(asked: Asked) -> Iterator[str]:
    """A prefix of the backend's events, whole, and then the end: [DONE], one error event, or the client's leaving."""
    body = asked.body
    if asked.left:
        body = body[: body.rfind(b"\n\n") + 2]
    told = _events(body)
    if told and _is_error(told[-1]):
        told.pop()
    elif asked.ended and not body.endswith(DONE):
        yield "ended without [DONE] and without an error"
    if any(_is_error(event) for event in told):
        yield "an error event in the middle"
    if asked.ended and body.endswith(DONE) and not FAULTS[asked.fault].whole:
        yield "[DONE] for a stream that was cut"
    expected = [event for event in events(asked.id, "chat") if asked.include_usage or b'"usage"' not in event]
    if asked.kind == "chat" and told != expected[: len(told)]:
        yield "not the backend's events"
    if asked.kind == "completion" and not "".join(words(asked.id)).startswith(text_of(b"".join(told))):
        yield "not the backend's words"
    if _is_whole(asked) and text_of(b"".join(told)) != "".join(words(asked.id)):
        yield "[DONE] before the last word"
    if asked.ended:
        payloads(body)


def _is_whole(asked: Asked) -> bool:
    return not asked.stream or asked.body.endswith(DONE)


def _events(body: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in body.split(b"\n\n") if event]


def _is_error(event: bytes) -> bool:
    return event.startswith(b'data: {"error"')
