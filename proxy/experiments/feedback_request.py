"""The body of POST /v1/feedback: which request, which metric, what was said. Pure."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from proxy.core.errors import BadRequestError
from proxy.experiments.definition import AUTOMATIC_METRICS
from proxy.experiments.records import Feedback

LONGEST_BODY: Final = 64 * 1024  # bytes
_LONGEST_ID: Final = 200
_LONGEST_COMMENT: Final = 10_000  # characters
_METRIC: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FIELDS: Final = frozenset({"request_id", "completion_id", "metric", "value"})


def parse_feedback(body: Mapping[str, Any], now: float) -> Feedback:
    """The feedback of a body; now: Unix seconds. Raises BadRequestError, which repeats none of it."""
    if unknown := next((name for name in body if name not in _FIELDS), None):
        known = ", ".join(sorted(_FIELDS))
        raise BadRequestError(f"A field of feedback is unknown; there are {known}.", param=unknown[:_LONGEST_ID])
    metric = body.get("metric")
    if not isinstance(metric, str) or not _METRIC.fullmatch(metric):
        raise BadRequestError(
            "`metric` must have 1 to 64 letters, digits, dots, dashes or underscores.", param="metric"
        )
    if metric in AUTOMATIC_METRICS:
        raise BadRequestError("`metric`: this name is one that the server measures; take another.", param="metric")
    value = body.get("value")
    if isinstance(value, str):
        return Feedback(_subject(body), metric, None, _comment(value), now)
    return Feedback(_subject(body), metric, _number(value), None, now)


def _subject(body: Mapping[str, Any]) -> str:
    given = [(name, body[name]) for name in ("request_id", "completion_id") if body.get(name) is not None]
    if len(given) != 1:
        raise BadRequestError(
            "Give one of `request_id` (a reply's header x-request-id) and `completion_id` (a reply's field id).",
            param="request_id",
        )
    name, value = given[0]
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_ID or not value.isprintable():
        raise BadRequestError(f"`{name}` must be an id of 1 to {_LONGEST_ID} characters.", param=name)
    return value


def _number(value: object) -> float:
    if isinstance(value, bool | int | float) and math.isfinite(number := float(value)):
        return number
    raise BadRequestError("`value` must be true, false, a number, or a comment.", param="value")


def _comment(text: str) -> str:
    """As a database takes it: PostgreSQL has no NUL in a text."""
    if len(text) > _LONGEST_COMMENT:
        raise BadRequestError(f"`value`: a comment has at most {_LONGEST_COMMENT} characters.", param="value")
    return text.replace("\0", "\ufffd")
