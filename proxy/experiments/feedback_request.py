"""Parses the body of POST /v1/feedback into a `Feedback`. It does not depend on HTTP or on the store."""

import re
from collections.abc import Collection, Mapping
from string import whitespace
from typing import Any, Final

from proxy.core.errors import BadRequestError
from proxy.experiments.automatic_metrics import AUTOMATIC_METRICS, MAX_VALUE, plain_name
from proxy.experiments.records import Feedback

MAX_BODY_BYTES: Final = 64 * 1024
_MAX_ID_LENGTH: Final = 200  # characters
_MAX_COMMENT_LENGTH: Final = 10_000  # characters
_TYPES: Final = f"true, false, a number from -{MAX_VALUE:,.0f} to {MAX_VALUE:,.0f}, or a comment (a text)"
_RATING: Final = re.compile(
    r"true|false|yes|no|on|off|y|n|t|f|null|none|nil|undefined"
    r"|[+\-\u2212]?(?:nan|inf|infinity|\u221e|(?=[.,]?\d)[\d.,]*(?:e[+-]?\d+)?\s*"
    r"(?:%|(?:/|out of|of)\s*\d+|stars?|points?)?)|0[xb][0-9a-f]+",
    re.IGNORECASE,
)
_STARS: Final = frozenset("*\u2605\u2606\u2b50\u2729\u272d\ufe0f ")
_AROUND: Final = "\"'`.!\u200b\ufeff"
"""Characters around a rating: quotation marks of JSON in JSON, the end of a sentence, characters without a width."""
_METRIC: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FIELDS: Final = frozenset({"request_id", "completion_id", "metric", "value"})


def parse_feedback(body: Mapping[str, Any], now: float, rated: Collection[str] = ()) -> Feedback:
    """Parse and validate the body of a feedback request.

    Args:
        body: The parsed JSON of the body.
        now: The time of the feedback, Unix seconds.
        rated: The metrics by which experiments compare arms. They need a rating. A comment on such a metric is refused:
            it would not count, and it would replace the rating that the store has for the same reply.

    Raises:
        BadRequestError: The body is invalid. The message does not repeat any value of the body.
    """
    if unknown := next((name for name in body if name not in _FIELDS), None):
        known = ", ".join(sorted(_FIELDS))
        raise BadRequestError(
            f"A field of feedback is unknown. The fields are {known}.", param=unknown[:_MAX_ID_LENGTH]
        )
    metric = body.get("metric")
    if not isinstance(metric, str) or not _METRIC.fullmatch(metric):
        raise BadRequestError(
            "`metric` must have 1 to 64 letters, digits, dots, dashes or underscores.", param="metric"
        )
    if plain_name(metric) in map(plain_name, AUTOMATIC_METRICS):
        raise BadRequestError("`metric`: the server measures a metric of this name. Use another name.", param="metric")
    if metric not in rated and (
        meant := next((name for name in rated if plain_name(name) == plain_name(metric)), None)
    ):
        raise BadRequestError(
            f"`metric`: the experiments compare `{meant}`. Spell the name in this way.", param="metric"
        )
    value = body.get("value")
    if isinstance(value, str):
        return Feedback(_subject(body), metric, None, _comment(value, metric, rated), now)
    return Feedback(_subject(body), metric, _number(value), None, now)


def _subject(body: Mapping[str, Any]) -> str:
    given = [(name, body[name]) for name in ("request_id", "completion_id") if body.get(name) is not None]
    if len(given) != 1:
        raise BadRequestError(
            "Give one of `request_id` (a reply's header x-request-id) and `completion_id` (a reply's field id).",
            param="request_id",
        )
    name, value = given[0]
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_ID_LENGTH or not value.isprintable():
        raise BadRequestError(f"`{name}` must be an id of 1 to {_MAX_ID_LENGTH} characters.", param=name)
    return value


def _number(value: object) -> float:
    if isinstance(value, bool | int | float) and -MAX_VALUE <= value <= MAX_VALUE:  # float(10**400) would fail
        return float(value) + 0.0  # -0.0 becomes 0.0
    raise BadRequestError(f"`value` must be {_TYPES}.", param="value")


def _comment(text: str, metric: str, rated: Collection[str]) -> str:
    """Check a comment. Replace the character NUL, which PostgreSQL does not accept in text."""
    if len(text) > _MAX_COMMENT_LENGTH:
        raise BadRequestError(f"`value`: a comment has at most {_MAX_COMMENT_LENGTH} characters.", param="value")
    if not text.strip(f"{whitespace}{_AROUND}") or _reads_as_rating(text):
        raise BadRequestError(
            f"`value` must be {_TYPES}. This text is empty or looks like a rating. Send true, false or a number "
            "without quotation marks.",
            param="value",
        )
    if metric in rated:
        raise BadRequestError(
            f"`value` must be true, false or a number from -{MAX_VALUE:,.0f} to {MAX_VALUE:,.0f}, because an "
            "experiment compares this metric. Send a comment under the name of another metric.",
            param="value",
        )
    return text.replace("\0", "\ufffd")


def _reads_as_rating(text: str) -> bool:
    """Return whether a text has the form of a rating of another type, such as "true", "4.5", "80 %" or "4/5".

    A text that has digits and signs, but no letter, is a rating, too, and so is a row of stars.
    """
    bare = text.strip(f"{whitespace}{_AROUND}")
    has_digits_alone = any(map(str.isnumeric, bare)) and not any(map(str.isalpha, bare))
    return has_digits_alone or _STARS.issuperset(bare) or _RATING.fullmatch(bare) is not None
