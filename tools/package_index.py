"""Reads the JSON interface of a package index: NAME/VERSION/json and NAME/json. It does not interpret the answers.

The address of the index is in pip's configuration, or is pip's default, because this project names no index.
"""

import base64
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from tools.packages import uv_environment

_ANSWER_TIMEOUT: Final = 30.0  # seconds
PAUSES: Final = (1.0, 4.0)
"""The seconds before the second and the third attempt."""

_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP statuses that another attempt may not get
_MISSING: Final = frozenset({404, 410})


class NoAnswerError(Exception):
    """The index did not answer, or refused to."""


def configured_address() -> str:
    """Return the address of the JSON interface of the index that pip asks."""
    return json_address(uv_environment().get("UV_DEFAULT_INDEX") or _default_index())


def json_address(index: str) -> str:
    """Return the address of the JSON interface that belongs to the address of an index's simple interface."""
    return re.sub(r"/+(?:simple/*)?$", "", index) + "/pypi"


def without_password(address: str) -> str:
    """Return an address without the user and the password that it may contain."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _default_index() -> str:
    # pip gives this address nowhere else.
    from pip._internal.models.index import PyPI

    return PyPI.simple_url


def fetch(index: str, path: str, pauses: Sequence[float] = PAUSES) -> Any:
    """Return the JSON document at a path of an index, or None if the index has no document there.

    Args:
        index: The address of the JSON interface, which may contain a user and a password.
        path: The path below it.
        pauses: The seconds before each further attempt.

    Raises:
        NoAnswerError: The index cannot be reached, refuses, or fails at each attempt.
    """
    for pause in (*pauses, None):
        try:
            return _fetch_once(index, path)
        except urllib.error.HTTPError as error:
            reason, may_pass = f"HTTP status {error.code}", error.code in _PASSING
        except (OSError, http.client.HTTPException) as error:
            reason, may_pass = str(getattr(error, "reason", error)) or type(error).__name__, True
        if pause is None or not may_pass:
            raise NoAnswerError(reason)
        time.sleep(pause)
    raise AssertionError("the last pause is None")


def _fetch_once(index: str, path: str) -> Any:
    if urlsplit(index).scheme not in {"http", "https"}:
        raise NoAnswerError("its address does not begin with http:// or https://")
    request = urllib.request.Request(f"{without_password(index)}/{path}", headers={"Accept": "application/json"})  # noqa: S310
    user, at, _ = urlsplit(index).netloc.rpartition("@")
    if at:
        secret = base64.b64encode(unquote(user).encode()).decode("ascii")
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT) as answer:  # noqa: S310
            document = json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if error.code in _MISSING:
            return None
        raise
    except ValueError:
        return {}  # a page for people instead of metadata: no field can be read
    return document if isinstance(document, dict) else {}
