"""Finds the error that a backend reports, in whatever form, and converts it to OpenAI's error object.

Backends report errors in many forms: OpenAI's error object, the older one of vLLM (`"object": "error"`), the `detail`
of FastAPI, a plain `message`, or a web page of a gateway. The client gets the message of the error. It does not get a
web page, because a page may name internal addresses. The module does no I/O.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from proxy.core.errors import BackendProtocolError, BackendReportedError
from proxy.core.json_types import BYTE_ORDER_MARK
from proxy.openai.backend_reply import parse_reply

_MESSAGE_FIELDS: Final = (
    *("message", "msg", "detail", "error_message", "error_msg", "errorMessage", "error_description"),
    *("errors", "error", "err", "errmsg", "exception", "fault", "faultstring", "Message", "title"),
)
_ERROR_FIELDS: Final = (
    *("errors", "error_message", "error_msg", "errorMessage", "error_code", "errorCode", "exception"),
    *("err", "errmsg", "fault"),
)
"""Fields that an object has only if it describes an error."""
_FAILURES: Final = frozenset({"error", "failed", "failure"})  # values of a field `status`
_SUCCESSES: Final = frozenset({"0", "200"})  # codes of an object whose field `message` or `msg` describes no error
_CODE_FIELDS: Final = ("code", "status_code", "statusCode", "status", "error_code", "errorCode")
_MAX_MESSAGE: Final = 4_000  # characters
_MAX_PLAIN_TEXT: Final = 300  # characters
_MAX_DEPTH: Final = 4  # of nested objects and lists in which a message is sought
_MAX_FIELDS: Final = 4  # if an object has more fields, a field `detail` or `message` does not make it an error
_MAX_PARTS: Final = 20  # of a list of errors
_MIN_STATUS, _MAX_STATUS = 400, 599
_SERVER_ERROR: Final = 500
_ADDRESS: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://[^\s'\"<>)]+"  # a URL
    r"|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?"  # an IPv4 address
    r"|\[[0-9a-f:.]*:[0-9a-f:.]*\](?::\d+)?"  # an IPv6 address in brackets
    r"|\b(?:host|port|server)\s*=\s*[^\s,)]+"  # as Python's HTTP clients print it
    r"|\b[a-z0-9][\w.-]*:\d{4,5}\b|\blocalhost\b|\b[\w-]+(?:\.[\w-]+)*\.(?:svc|local|internal)\b[\w.]*",  # a host name
    re.IGNORECASE,
)
_PRIVATE: Final = (
    r"(?<![\d.])(?:(?:10|127)\.\d{1,3}|192\.168|169\.254|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}(?![\d.]*\d)"
)
_NAME: Final = r"[\w-]+(?:\.[\w-]+)*\.(?:svc|local|internal)\b[\w.]*"
_PRIVATE_IPV6: Final = r"\[(?:f[cd][0-9a-f]{2}|fe80|::1\])[0-9a-f:.%]*\]?"
_INTERNAL_HOST: Final = rf"(?:{_PRIVATE}|\[[0-9a-f:.]+\]|{_NAME}|[\w-]+)"
_INTERNAL_ADDRESS: Final = re.compile(
    rf"https?://{_INTERNAL_HOST}(?![\w.-])[^\s'\"<>)]*"  # a URL whose host is not public, such as http://vllm:8000/v1
    rf"|(?:{_PRIVATE}|{_PRIVATE_IPV6})(?::\d+)?|\blocalhost(?::\d+)?\b|\b{_NAME}(?::\d+)?",
    re.IGNORECASE,
)
_PAGE: Final = re.compile(r"[\ufeff\s]*<(?:!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)
_PAGE_INSIDE: Final = re.compile(r"<(?:!doctype html|html)\b[^>]*>.*", re.IGNORECASE | re.DOTALL)
_HINTS: Final[Mapping[int, str]] = {
    401: " The backend, or a gateway in front of it, did not accept the key.",
    403: " The backend, or a gateway in front of it, refused access.",
    404: " The backend, or a gateway in front of it, does not serve this path.",
    413: " The request is too large for the backend or for a gateway in front of it.",
    429: " The backend, or a gateway in front of it, limits the rate of requests.",
}
_TYPES: Final[Mapping[int, str]] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def find_error(payload: Mapping[str, Any]) -> BackendReportedError | None:
    """Return the error in a reply or an event that arrived with the status 200; None if it reports no error.

    The error has the status that the backend names in its `code`; 502 if it names none.
    """
    if payload.get("error"):
        return _reported(payload["error"], payload)
    if payload.get("object") == "error" or payload.get("type") == "error":
        return _reported(payload, payload)
    if payload.get("choices") is not None:
        return _error_of_a_choice(payload["choices"])
    return _reported(payload, payload) if _describes_an_error(payload) else None


def _describes_an_error(payload: Mapping[str, Any]) -> bool:
    """Return whether an object without choices describes an error, as FastAPI, gateways and cloud services do it."""
    if payload.get("success") is False or any(payload.get(name) for name in _ERROR_FIELDS):
        return True
    if isinstance(payload.get("error"), dict) or str(payload.get("status")).lower() in _FAILURES:
        return True
    codes = set(_codes([payload]))
    if any(_is_error_status(code) for code in codes):
        return True
    if len(payload) > _MAX_FIELDS or codes & _SUCCESSES:
        return False
    return "detail" in payload or any(isinstance(payload.get(name), str) for name in ("message", "msg", "Message"))


def _is_error_status(code: str) -> bool:
    return code.isdecimal() and _MIN_STATUS <= int(code) <= _MAX_STATUS


def _error_of_a_choice(choices: object) -> BackendReportedError | None:
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and (choice.get("error") or choice.get("finish_reason") == "error"):
            return _reported(choice.get("error"), choice)
    return None


def text_error(text: str) -> BackendReportedError:
    """Return the error that a backend reports as text, such as in an event with the name `error`."""
    return _reported(text, {})


def refused_reply(status: int, content_type: str, data: bytes) -> bytes | BackendReportedError:
    """Return what the client gets for a reply with a status of 400 or more.

    Args:
        status: The status.
        content_type: The media type of the reply.
        data: The body of the reply.

    Returns:
        The body itself if it is OpenAI's error object. Otherwise an error with the reason in the body.
    """
    try:
        payload = parse_reply(data)
    except BackendProtocolError:
        return _without_json(status, content_type, data)
    error = payload.get("error") if isinstance(payload, dict) else None
    text = error.get("message") if isinstance(error, dict) else None
    if isinstance(text, str) and _MIN_STATUS <= status <= _MAX_STATUS:
        return data if without_addresses(text, status) == text else _reported(error, {}, status)
    if isinstance(payload, dict):
        return _reported(error or payload, payload, status)
    return _reported(payload, {}, status)


def _without_json(status: int, content_type: str, data: bytes) -> BackendReportedError:
    """Return the error for a reply without JSON.

    Plain text is kept if the request was wrong, because the text says what was wrong. The text of a failing server or a
    gateway says where it failed, so it is not kept.
    """
    text = data.removeprefix(BYTE_ORDER_MARK).decode("utf-8", "replace").strip()
    is_reason = content_type in ("text/plain", "") and status < _SERVER_ERROR and not text.startswith("<")
    return _reported(" ".join(text.split())[:_MAX_PLAIN_TEXT] if is_reason else "", {}, status)


def without_addresses(text: str, status: int) -> str:
    """Return the text of an error without addresses, which a gateway or a failing server may name.

    An error with a status below 500 may name a URL of the client's request, so only internal addresses are removed
    from such an error. A web page gives no reason, so nothing of a page is kept, even if another text precedes it.
    """
    if _PAGE.match(text):
        return ""
    text = _PAGE_INSIDE.sub("[web page]", text) if "<" in text else text
    addresses = _INTERNAL_ADDRESS if status < _SERVER_ERROR else _ADDRESS
    return addresses.sub("[address]", text[:_MAX_MESSAGE]) if addresses.search(text) else text


def _reported(error: object, around: Mapping[str, Any], status: int | None = None) -> BackendReportedError:
    """Return an error in OpenAI's form.

    Args:
        error: The object or the text that describes the error.
        around: The object that contains `error`. It may have the code of the error.
        status: The status of the reply; None if the reply had the status 200.
    """
    fields: Mapping[str, Any] = error if isinstance(error, dict) else {}
    code = next(_codes((fields, around)), None)
    reason = _without_reason(status)
    if status is None:
        status = int(code) if code is not None and code.isdecimal() else 0
    if not _MIN_STATUS <= status <= _MAX_STATUS:
        status = BackendReportedError.status
    text = without_addresses(_text(error) or _text(around), status)[:_MAX_MESSAGE]
    kind, param = fields.get("type"), fields.get("param")
    return BackendReportedError(
        text or reason,
        status=status,
        kind=kind if isinstance(kind, str) and kind != "error" else _TYPES.get(status, _default_type(status)),
        code=code if code or text else _default_code(status),
        param=param if isinstance(param, str) else None,
    )


def _codes(places: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for place in places:
        for name in _CODE_FIELDS:
            value = place.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool) and 0 < len(str(value)) <= 100:
                yield str(value)


def _default_code(status: int) -> str:
    return "backend_error" if status < _SERVER_ERROR else "backend_unavailable"


def _default_type(status: int) -> str:
    return BackendReportedError.type if status >= _SERVER_ERROR else "invalid_request_error"


def _text(value: object, depth: int = 0) -> str:
    """Return the text that describes an error; empty if there is none."""
    if isinstance(value, str):
        return value.strip()
    if depth == _MAX_DEPTH:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, [_text(one, depth + 1) for one in value[:_MAX_PARTS]]))
    if not isinstance(value, dict):
        return ""
    text = next(filter(None, (_text(value.get(name), depth + 1) for name in _MESSAGE_FIELDS)), "")
    place = value.get("loc")  # FastAPI names the place of a mistake in the request
    return f"{'.'.join(map(str, place))}: {text}" if text and isinstance(place, list) else text


def _without_reason(status: int | None) -> str:
    if status is None:
        return "The backend, or a gateway in front of it, reported an error and gave no reason."
    try:
        name = f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        name = str(status)
    return f"The backend answered {name} and gave no reason in JSON.{_HINTS.get(status, '')}"
