"""Reads what a server's error reply says. This module does not send requests."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

_MAX_EXPLANATION_CHARACTERS: Final = 4000
_EXPLANATION_FIELDS: Final = (
    *("error", "errors", "fault", "message", "msg", "detail", "details", "loc", "title", "reason", "description"),
    *("error_description", "error_message", "errormessage", "faultstring"),
)
"""Fields that say what was wrong, in lower case. Other fields may repeat the request."""
_NAMING_FIELDS: Final = ("param", "parameter", "field")
_ERROR_FIELDS: Final = ("errors", "message", "detail")
_FAILURES: Final = ("error", "abort")
"""Finish reasons of an answer that a failure of the server ended."""
_FAILURES_IN_BYTES: Final = tuple(f'"{name}"'.encode() for name in _FAILURES)
_SERVER_ERROR: Final = 500
_BAD_GATEWAY: Final = 502


def status_in_body(raw: bytes) -> int | None:
    """Return the status of an error that a server reports in a reply with a status below 400; None for a real reply.

    Some routers report errors of a model's provider in this way: in place of the choices, or in each choice.
    """
    if b'"choices"' in raw and not any(word in raw for word in _FAILURES_IN_BYTES):
        return None  # the usual case
    try:
        reply = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(reply, dict):
        return None
    choices = reply.get("choices")
    if isinstance(choices, list) and choices:
        failed = [one for one in choices if isinstance(one, dict) and _has_failed(one)]
        return _status(failed[0].get("error"), _SERVER_ERROR) if len(failed) == len(choices) else None
    if reply.get("error"):
        return _status(reply["error"], _BAD_GATEWAY)
    if "choices" not in reply and any(reply.get(name) for name in _ERROR_FIELDS):
        return _status(reply, _BAD_GATEWAY)
    return None


def _has_failed(choice: Mapping[str, Any]) -> bool:
    return bool(choice.get("error")) or choice.get("finish_reason") in _FAILURES


def _status(error: Any, default: int) -> int:
    """Return the status that an error names, as a number or as a text of digits, or else the default."""
    names = [error.get(name) for name in ("code", "status", "status_code")] if isinstance(error, dict) else []
    codes = [int(name) for name in names if isinstance(name, int | str) and re.fullmatch(r"[45]\d\d", str(name))]
    return next(iter(codes), default)


def server_explanation(raw: bytes, api_key: str | None) -> str:
    """Return what an error reply says, in one line without the API key; empty if it says nothing that can be read.

    Servers use several formats: OpenAI's object `error` with a message and the name of a parameter, a text `error`, the
    fields `message` or `detail`, or an object `errors` with the reasons by parameter.
    """
    try:
        text = " ".join(_explanations(orjson.loads(raw)))
    except orjson.JSONDecodeError:
        text = raw.decode("utf-8", "replace") if not raw.lstrip().startswith(b"<") else ""
    text = " ".join(text[:_MAX_EXPLANATION_CHARACTERS].split())
    return text.replace(api_key, "(the API key)") if api_key else text


def _explanations(error: Any) -> Iterator[str]:
    """Yield the texts of an error reply that explain the error."""
    if isinstance(error, str):
        yield error
    elif isinstance(error, list):
        for one in error:
            yield from _explanations(one)
    elif isinstance(error, dict):
        fields = {name.lower(): value for name, value in error.items()}
        for name in _EXPLANATION_FIELDS:
            if name == "errors":
                yield from _reasons_by_parameter(fields.get(name))
            yield from _explanations(fields.get(name))
        for name in _NAMING_FIELDS:
            if isinstance(fields.get(name), str):
                yield f"(parameter: {fields[name]})"


def _reasons_by_parameter(errors: Any) -> Iterator[str]:
    """Yield the name of each parameter with the reasons for it, as the problem details of ASP.NET have them."""
    for name, reasons in errors.items() if isinstance(errors, dict) else ():
        if name.lower() not in _EXPLANATION_FIELDS:
            yield f"{name}: {' '.join(_explanations(reasons))}"


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the server asks the client to wait; None if it asks for no wait that can be read.

    The header Retry-After holds seconds or a date. Some servers send milliseconds in a header of their own.
    """
    asked = headers.get("Retry-After", "").strip()
    try:
        if milliseconds := headers.get("retry-after-ms"):
            seconds = float(milliseconds) / 1000
        else:
            seconds = float(asked) if asked[:1].isdigit() else _seconds_until(asked, headers.get("Date"))
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _seconds_until(date: str, now: str | None) -> float:
    """Return the seconds until a date, by the clock of the server if it tells the time. 0 if the date is past.

    Raises:
        ValueError: A date cannot be read.
    """
    begin = parsedate_to_datetime(now) if now else datetime.now(UTC)
    end = parsedate_to_datetime(date)
    return max(0.0, (end.replace(tzinfo=end.tzinfo or UTC) - begin.replace(tzinfo=begin.tzinfo or UTC)).total_seconds())
