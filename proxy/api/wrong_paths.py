"""Explains paths that are not served: names the served path that the client probably meant.

Clients often get the base URL wrong: they add /v1 twice or not at all, or they expect the paths of another API. The
module does not depend on requests.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from proxy.core.errors import UnknownRouteError
from proxy.inference.plan import CHAT, COMPLETIONS

MODELS: Final = "/v1/models"
READY: Final = "/health/ready"
UNKNOWN_PATH: Final = "unknown path"
"""The log and the metrics show this route in place of each path that is not served."""

_MAX_LENGTH: Final = 200  # characters of a path that are compared with the served paths
_MIN_SIMILARITY: Final = 0.8  # a path that resembles a served path this much counts as a misspelling of it
_VERSIONS: Final = re.compile(r"(?:/(?:api|openai|anthropic|v\d+\w*))+(?=/)")  # a prefix, such as /api/v1
_GEMINI: Final = re.compile(r"/models/[^/]+:(?:stream)?generatecontent$")
_OTHER_APIS: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("/chat", "/generatecontent"), (CHAT, "the API of Ollama or Gemini")),
    **dict.fromkeys(("/tags", "/show", "/ps"), (MODELS, "the API of Ollama")),
    **dict.fromkeys(("/messages", "/messages/count_tokens"), (CHAT, "the API of Anthropic")),
    **dict.fromkeys(("/generate", "/generate_stream", "/completion", "/complete"), (COMPLETIONS, "another API")),
    **dict.fromkeys(("/embed", "/embedding"), ("/v1/embeddings", "another API")),
    **dict.fromkeys(("/health", "/healthz", "/readyz", "/ping", "/livez"), (READY, "another server")),
    **dict.fromkeys(("/docs", "/redoc", "/swagger"), ("/openapi.json", "another server")),
    "/engines": (MODELS, "an old version of OpenAI's API"),
    "/invocations": (CHAT, "the API of SageMaker"),
}
"""Maps a path of another API, without a prefix such as /v1, to our path for the same purpose and the API's name."""


@dataclass(frozen=True, slots=True)
class WrongPath:
    """What is known about a path that is not served.

    Attributes:
        meant: The served path that the client probably meant; None if there is none.
        owner: The API or the server that has the path; empty if the path is a misspelling of a served path.
    """

    meant: str | None
    owner: str = ""

    @property
    def error(self) -> UnknownRouteError:
        """The error for the client. It does not repeat the path of the request."""
        if self.meant is None:
            return UnknownRouteError("This path is not served. GET /openapi.json lists the served paths.")
        reason = f"It belongs to {self.owner}. Here" if self.owner else "Here"
        hint = " The base URL of an OpenAI client ends in /v1, once." if self.meant.startswith("/v1/") else ""
        return UnknownRouteError(f"This path is not served. {reason} it is {self.meant}.{hint}")


def explain_path(path: str, served: Collection[str]) -> WrongPath:
    """Return which served path a client probably meant by a path that is not served."""
    plain = "/" + "/".join(part for part in path[:_MAX_LENGTH].lower().split("/") if part)
    if not plain.replace("/v1", "").strip("/"):
        return WrongPath(CHAT)
    if _GEMINI.search(plain):
        return WrongPath(*_OTHER_APIS["/generatecontent"])
    without_version = _VERSIONS.sub("", plain, count=1) if _VERSIONS.match(plain) else plain
    if without_version in _OTHER_APIS and plain not in served:
        return WrongPath(*_OTHER_APIS[without_version])
    for one in sorted(served, key=len, reverse=True):
        if plain.endswith(one.removeprefix("/v1")) or plain.startswith(f"{one}/"):
            return WrongPath(one)
    close = get_close_matches(plain, served, n=1, cutoff=_MIN_SIMILARITY)
    return WrongPath(close[0] if close else None)
