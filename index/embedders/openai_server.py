"""An embedder that requests vectors from a server with OpenAI's /v1/embeddings.

This is the only module of index that uses the network.
"""

import http.client
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np
import orjson

from index.base_urls import without_endpoint
from index.counted import counted
from index.embedders.base import encodable, unit_rows
from index.errors import EmbedderError
from index.types import EmbedderSpec, Vectors

KEY_VARIABLE = "DRPO_EMBEDDER_API_KEY"
_PROBE = "How long is a vector?"
_UNKNOWN_REVISION = "unknown"
_TEXTS_PER_REQUEST = 128
_TIMEOUT_SECONDS = 30.0
_MAX_REPLY_BYTES = 64 * 2**20


class OpenAIEmbedder:
    """Requests vectors from a server. Each request opens a new connection. Redirects are not followed."""

    def __init__(self, address: str) -> None:
        """Request one vector from the server at `address` (URL#MODEL) to learn the dimension.

        Raises:
            EmbedderError: The address is malformed, the environment variable DRPO_EMBEDDER_API_KEY holds characters
                that are not allowed in a header, or the server sends no usable vector.
        """
        url, _, self._model = address.partition("#")
        self._url = _checked_url(url, self._model)
        self._source = f"openai:{address}"
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not re.fullmatch(r"[!-~]*", self._key):
            raise EmbedderError(f"{KEY_VARIABLE} holds characters that a header cannot carry: set it to the key alone")
        self._spec = EmbedderSpec(self._source, _UNKNOWN_REVISION, self._request([_PROBE]).shape[1])

    @property
    def spec(self) -> EmbedderSpec:
        return self._spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        starts = range(0, len(texts), _TEXTS_PER_REQUEST)
        parts = [self._request(texts[start : start + _TEXTS_PER_REQUEST]) for start in starts]
        if any(part.shape[1] != self._spec.dimension for part in parts):
            raise self._failed(
                f"gave vectors of another length than the {self._spec.dimension} dimensions before. "
                "Serve one model under this name"
            )
        return np.concatenate([np.empty((0, self._spec.dimension), np.float32), *parts])

    def _request(self, texts: Sequence[str]) -> Vectors:
        # Servers refuse an empty text, so a space replaces it.
        inputs = [encodable(text) or " " for text in texts]
        body = orjson.dumps({"model": self._model, "input": inputs, "encoding_format": "float"})
        status, reply = self._post(body)
        if status != http.client.OK:
            raise self._failed(f"answered status {status}{_error_type(reply)}: {_advice(status)}")
        return self._parse(reply, len(texts))

    def _post(self, body: bytes) -> tuple[int, bytes]:
        secure = self._url.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = connect(self._url.hostname or "", self._url.port, timeout=_TIMEOUT_SECONDS)
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        try:
            connection.request("POST", f"{without_endpoint(self._url.path)}/embeddings", body, headers)
            response = connection.getresponse()
            return response.status, response.read(_MAX_REPLY_BYTES)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            reason = f"did not answer ({type(error).__name__}). Start the server, or correct the URL"
            raise self._failed(reason) from error
        finally:
            connection.close()

    def _parse(self, reply: bytes, count: int) -> Vectors:
        try:
            entries = orjson.loads(reply)["data"]
            by_index = {entry["index"]: entry["embedding"] for entry in entries}
            rows = np.array([by_index[index] for index in range(count)], np.float64)
        except (ValueError, TypeError, KeyError) as error:
            raise self._failed("sent a reply that is not a list of embeddings. Give a URL that ends in /v1") from error
        if len(entries) != count or rows.ndim != 2:
            sent, texts = counted(len(entries), "embedding"), counted(count, "text")
            raise self._failed(f"sent {sent} for {texts}, or some that are no vectors. Serve an embedding model")
        return unit_rows(rows, self._source)

    def _failed(self, reason: str) -> EmbedderError:
        return EmbedderError(f"the embedder {self._source} {reason}")


def _checked_url(text: str, model: str) -> SplitResult:
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        usable = False
    if not usable or not model or re.search(r"[^!-~]", text):
        raise EmbedderError("an openai embedder is written openai:http://HOST:PORT/v1#MODEL (or https)")
    if url.username or url.password or url.query:
        raise EmbedderError(
            f"an embedder's URL carries no user name, password or query: a key goes into {KEY_VARIABLE}"
        )
    return url


def _error_type(reply: bytes) -> str:
    """Return the field `error.type` of an error reply in parentheses, or an empty text if the reply has no such field.

    The field `error.message` is not used, because it may repeat an API key or a user's text.
    """
    try:
        kind: Any = orjson.loads(reply)["error"]["type"]
        return f" ({kind})" if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", kind) else ""
    except (ValueError, TypeError, KeyError):
        return ""


def _advice(status: int) -> str:
    if status in (401, 403):
        return f"set {KEY_VARIABLE} to a key that it accepts"
    if 300 <= status < 400:
        return "redirects are not followed, give the URL where it lives"
    return "look at the URL (it ends in /v1), the model's name and the server's log"
