"""Texts to vectors: what an embedder is, and how one is opened by its name.

    onnx                          the one that comes with the package (index/minilm.py)
    sentence-transformers:NAME    any model folder or hub model; needs the extra sentence-transformers
    openai:URL#MODEL              any server with /v1/embeddings; URL as OpenAI clients take it, ending in /v1
    python:MODULE:CLASS           a class of one's own, which takes no arguments (examples/extend)

Knows the four kinds, and nothing of bundles or retrieval. Foreign errors become EmbedderError here. This is the only
place in index/ that touches the network.
"""

import hashlib
import http.client
import importlib
import os
import re
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, urlsplit

import numpy as np
import orjson

from index.errors import EmbedderError
from index.minilm import OnnxEmbedder, encodable
from index.types import EmbedderSpec, Vectors

KEY_VARIABLE = "DRPO_EMBEDDER_API_KEY"
_PROBE = "How long is a vector?"
_UNKNOWN_REVISION = "unknown"
_TEXTS_PER_REQUEST = 128
_TIMEOUT_SECONDS = 30.0
_LARGEST_REPLY = 64 * 2**20
_KINDS = "onnx, sentence-transformers:NAME, openai:URL#MODEL or python:MODULE:CLASS"


class Embedder(Protocol):
    """Turns texts into vectors. Thread-safe and synchronous: call it off the event loop."""

    @property
    def spec(self) -> EmbedderSpec:
        """Which embedder this is, as a bundle's manifest records it."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """(len(texts), dimension) float32, rows of norm 1, in the order of `texts`. EmbedderError."""
        ...


DEFAULT_EMBEDDER: Final = "onnx"
"""The embedder that comes with the package."""


def check_embedder_allowed(name: str, allowed: Collection[str], bundle: str) -> None:
    """Raise EmbedderError unless a bundle may name this embedder: the one that comes with the package and sends nothing
    anywhere, or one that a person named. Others run code or load a model of the bundle's choice, or get every text."""
    if name not in {DEFAULT_EMBEDDER, *allowed}:
        raise EmbedderError(
            f"{bundle}: its embedder is {name}, which would run code, load a model, or be sent the key and every query."
            f" If you trust it, add --allow-embedder '{name}'."
        )


def open_embedder(name: str) -> Embedder:
    """Opens an embedder by its name (see the top of this file). EmbedderError says why it cannot be used."""
    kind, _, rest = name.partition(":")
    openers: dict[str, Callable[[str], Embedder]] = {
        "sentence-transformers": SentenceTransformersEmbedder,
        "openai": OpenAIEmbedder,
        "python": _of_ones_own,
    }
    if name == DEFAULT_EMBEDDER:
        return OnnxEmbedder()
    if kind not in openers or not rest:
        raise EmbedderError(f"there is no embedder {name!r}: it is {_KINDS}")
    return openers[kind](rest)


def _of_ones_own(place: str) -> Embedder:
    """The embedder that a class of the user's makes. EmbedderError: it cannot be imported or made."""
    module, _, name = place.partition(":")
    try:
        embedder: Embedder = getattr(importlib.import_module(module), name)()
        made = embedder.spec.name
    except Exception as error:  # noqa: BLE001 - a user's own code may fail in any way
        raise EmbedderError(f"python:{place}: cannot be used: {type(error).__name__}: {error}") from None
    if made != f"python:{place}":
        raise EmbedderError(f"python:{place}: its spec calls it {made!r}: call it by this name, as bundles will")
    return embedder


def texts_at_once(name: str) -> int:
    """How many texts the embedder of that name does well to get in one call, where each text's sender waits for it.

    One where a text costs the same alone (index/minilm.py says why); some where a batch is faster; many where every
    call is a request over the network.
    """
    return {"sentence-transformers": 8, "openai": 32}.get(name.partition(":")[0], 1)


class SentenceTransformersEmbedder:
    """A model of the sentence-transformers library, on the device that the library chooses."""

    def __init__(self, model: str) -> None:
        """`model`: a folder or a hub name. EmbedderError if the extra is missing or the model cannot be loaded."""
        self._source = f"sentence-transformers:{model}"
        self._model = _load_sentence_transformer(model)
        self._lock = threading.Lock()
        self._spec = EmbedderSpec(self._source, self._revision(model), self._encode([_PROBE]).shape[1])

    @property
    def spec(self) -> EmbedderSpec:
        return self._spec

    def embed(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.empty((0, self._spec.dimension), np.float32)
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> Vectors:
        encodables = [encodable(text) for text in texts]
        with self._lock:  # the tokenizer keeps the padding of the call in progress
            rows = self._model.encode(encodables, show_progress_bar=False, convert_to_numpy=True)
        return _unit_rows(rows, self._source)

    def _revision(self, model: str) -> str:
        """Of a folder's files, or the commit that the hub model was loaded from, if the library tells."""
        if Path(model).is_dir():
            return _folder_hash(Path(model))
        return self._model.model_card_data.base_model_revision or _UNKNOWN_REVISION


def _load_sentence_transformer(model: str) -> Any:
    try:
        from safetensors import SafetensorError  # type: ignore[import-not-found]
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        advice = "pip install 'drpo-proxy[sentence-transformers]'"
        raise EmbedderError(f"sentence-transformers is not installed: {advice}") from error
    try:
        return SentenceTransformer(model)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise EmbedderError(
            f"sentence-transformers cannot load {model!r} ({type(error).__name__}): it must be a model folder, or the "
            "name of a hub model that is cached or can be reached"
        ) from error


class OpenAIEmbedder:
    """A server that speaks OpenAI's /v1/embeddings. One connection per request; redirects are not followed."""

    def __init__(self, address: str) -> None:
        """`address`: URL#MODEL. Asks the server for one vector. EmbedderError if that fails."""
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
            raise self._failed(f"gave vectors of another length than the {self._spec.dimension} dimensions before")
        return np.concatenate([np.empty((0, self._spec.dimension), np.float32), *parts])

    def _request(self, texts: Sequence[str]) -> Vectors:
        # Servers refuse an empty text; a blank one stands for it.
        given = [encodable(text) or " " for text in texts]
        body = orjson.dumps({"model": self._model, "input": given, "encoding_format": "float"})
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
            connection.request("POST", f"{self._url.path.rstrip('/')}/embeddings", body, headers)
            response = connection.getresponse()
            return response.status, response.read(_LARGEST_REPLY)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            what = f"did not answer ({type(error).__name__}): is the server running, and the URL right?"
            raise self._failed(what) from error
        finally:
            connection.close()

    def _parse(self, reply: bytes, count: int) -> Vectors:
        try:
            entries = orjson.loads(reply)["data"]
            by_index = {entry["index"]: entry["embedding"] for entry in entries}
            rows = np.array([by_index[index] for index in range(count)], np.float64)
        except (ValueError, TypeError, KeyError) as error:
            raise self._failed("sent a reply that is not a list of embeddings: is the URL one of /v1?") from error
        if len(entries) != count or rows.ndim != 2:
            raise self._failed(f"sent {len(entries)} embeddings for {count} texts, or some that are no vectors")
        return _unit_rows(rows, self._source)

    def _failed(self, what: str) -> EmbedderError:
        return EmbedderError(f"the embedder {self._source} {what}")


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
    """OpenAI's `error.type`, if there is one; never the message, which may repeat a key or a text."""
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


def _unit_rows(rows: object, source: str) -> Vectors:
    """Float32 rows of norm 1. EmbedderError if a row cannot be made one."""
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.asarray(rows, np.float64)
        norms = np.linalg.norm(numbers, axis=1, keepdims=True)
    if numbers.shape[1] == 0 or not np.isfinite(norms).all() or not (norms > 0).all():
        raise EmbedderError(f"the embedder {source} gave a vector that is empty, zero or not finite")
    return np.asarray(numbers / norms, np.float32)


def _folder_hash(folder: Path) -> str:
    """Of the name and bytes of every file, hidden ones aside."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name.as_posix()}\0".encode(errors="surrogateescape"))
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
