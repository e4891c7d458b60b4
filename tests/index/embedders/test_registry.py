import builtins
import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import index.embedders.openai_server
from index.embedders.base import Embedder
from index.embedders.registry import (
    DEFAULT_EMBEDDER,
    DEFAULT_REWARD_EMBEDDER,
    EMBEDDER_KINDS,
    LOCAL_EMBEDDERS,
    check_embedder_allowed,
    open_embedder,
    texts_per_call,
)
from index.errors import EmbedderError
from index.types import EmbedderSpec
from tests.index.embeddings_server import EmbeddingsServer, Reply, Request, embedding, embeddings_server, well

KEY = "sk-do-not-show-this"


@pytest.fixture
def server() -> Iterator[EmbeddingsServer]:
    with embeddings_server() as running:
        yield running


@pytest.fixture
def embedder(server: EmbeddingsServer) -> Embedder:
    return open_embedder(server.name)


def data(*embeddings: object) -> Reply:
    """Return a reply with these embeddings in this order."""
    entries = [{"index": n, "embedding": value} for n, value in enumerate(embeddings)]
    return Reply(json.dumps({"data": entries}).encode())


def refused(embedder: Embedder, texts: list[str]) -> str:
    with pytest.raises(EmbedderError) as caught:
        embedder.embed(texts)
    return str(caught.value)


# Names


@pytest.mark.parametrize(
    "name",
    [
        *("", "onnx", "fast", "MiniLM", "minilm:", "minilm:x", "multilingual:", "Multilingual", "multilingual:x"),
        *("openai", "openai:", "sentence-transformers", "sentence-transformers:", "python:"),
    ],
)
def test_unknown_embedder_name_is_refused_with_the_known_forms(name: str) -> None:
    with pytest.raises(
        EmbedderError,
        match="it is multilingual, minilm, sentence-transformers:NAME, openai:URL#MODEL or python:MODULE:CLASS",
    ):
        open_embedder(name)


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost/v1",
        "http://localhost/v1#",
        "localhost:80/v1#m",
        "ftp://localhost/v1#m",
        "http:///v1#m",
        "http://localhost:99999/v1#m",
        "http://localhost:http/v1#m",
        "http://[::1/v1#m",
        "http://local host/v1#m",
        "http://localhost/v1\r\nX: y#m",
    ],
)
def test_malformed_address_is_refused_with_its_form(address: str) -> None:
    with pytest.raises(EmbedderError, match="is written openai:http://HOST:PORT/v1#MODEL"):
        open_embedder(f"openai:{address}")


@pytest.mark.parametrize("address", ["http://me:secret@localhost/v1#m", "http://localhost/v1?key=secret#m"])
def test_secret_in_the_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(EmbedderError, match="DRPO_EMBEDDER_API_KEY") as caught:
        open_embedder(f"openai:{address}")
    assert "secret" not in str(caught.value)


# sentence-transformers (with the library itself: test_sentence_transformers.py)


def test_missing_extra_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith(("sentence_transformers", "safetensors")):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EmbedderError, match=r"pip install 'drpo-proxy\[sentence-transformers\]'"):
        open_embedder("sentence-transformers:some/model")


# Valid replies


def test_rows_have_norm_1_and_the_order_of_the_texts(embedder: Embedder) -> None:
    texts = ["aaa", "", "b", "cc" * 9]
    expected = np.array([embedding(text or " ") for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = embedder.embed(texts)
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(expected, abs=1e-6)


def test_spec_has_the_name_and_the_dimension_of_the_server(server: EmbeddingsServer, embedder: Embedder) -> None:
    assert embedder.spec == EmbedderSpec(server.name, "unknown", 3)


def test_many_texts_are_requested_in_batches_of_128(server: EmbeddingsServer, embedder: Embedder) -> None:
    vectors = embedder.embed(["x" * n for n in range(1, 301)])
    assert [len(request.body["input"]) for request in server.requests[1:]] == [128, 128, 44]
    assert (np.diff(vectors[:, 0]) > 0).all()


def test_no_texts_give_no_rows_and_no_request(server: EmbeddingsServer, embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 3)
    assert len(server.requests) == 1


def test_request_is_the_one_that_openai_documents(server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRPO_EMBEDDER_API_KEY", f" {KEY}\n")
    open_embedder(server.name).embed(["\ud800", "naïve"])
    request = server.requests[-1]
    assert request.path == "/v1/embeddings"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.body == {"model": "small", "input": ["?", "naïve"], "encoding_format": "float"}


def test_request_has_no_authorization_without_a_key(server: EmbeddingsServer, embedder: Embedder) -> None:
    assert "Authorization" not in server.requests[0].headers
    assert embedder.spec.dimension == 3


# Invalid replies


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"data": null}',
        b'{"data": {"0": [1]}}',
        b'{"data": [[1, 2, 3]]}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"embedding": [1, 2, 3]}]}',
        b'{"data": [{"index": 1, "embedding": [1, 2, 3]}]}',
        b'{"data": [{"index": [], "embedding": [1, 2, 3]}]}',
        b'{"data": [{"index": 0, "embedding": "AACAPw=="}]}',
        b'{"data": [{"index": 0, "embedding": [1, "x", 3]}]}',
        b'{"data": [{"index": 0, "embedding": [1, NaN, 3]}]}',
        b'{"data": [{"index": 0, "embedding": [1, null, 3]}]}',
        b'{"data": [{"index": 0, "embedding": 7}]}',
        b'{"data": [{"index": 0, "embedding": [[1, 2, 3]]}]}',
        b'{"data": [{"index": 0, "embedding": []}]}',
        b'{"data": [{"index": 0, "embedding": [0, 0, 0]}]}',
        b'{"data": [{"index": 0, "embedding": [1e300, 1e300, 1e300]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2, 3]}, {"index": 0, "embedding": [1, 2, 3]}]}',
        b'{"data": [{"index": 0, "embedding": [1, 2, 3]}, {"index": 1, "embedding": [1, 2, 3]}]}',
    ],
)
def test_reply_that_is_not_a_list_of_embeddings_is_refused(
    server: EmbeddingsServer, embedder: Embedder, body: bytes
) -> None:
    server.answer = lambda _: Reply(body)
    assert server.name in refused(embedder, ["a"])


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["index", "embedding"]), inner),
    max_leaves=12,
)


@given(json_values)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_any_reply_gives_an_error_or_a_unit_vector(server: EmbeddingsServer, embedder: Embedder, value: object) -> None:
    server.answer = lambda _: Reply(json.dumps({"data": value}).encode())
    try:
        vectors = embedder.embed(["a"])
    except EmbedderError:
        return
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1.0], abs=1e-5)


def test_vectors_of_another_dimension_than_before_are_refused(server: EmbeddingsServer, embedder: Embedder) -> None:
    server.answer = lambda _: data([1, 2, 3, 4], [1, 2, 3, 4])
    assert "another length than the 3 dimensions" in refused(embedder, ["a", "b"])


def test_vectors_of_different_dimensions_are_refused(server: EmbeddingsServer, embedder: Embedder) -> None:
    server.answer = lambda _: data([1, 2, 3], [1, 2])
    assert "not a list of embeddings" in refused(embedder, ["a", "b"])


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_error_reply_is_reported_by_status_and_type_only(
    server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("DRPO_EMBEDDER_API_KEY", KEY)
    error = {"type": "server_said_no", "message": f"{KEY} may not embed 'my secret'", "code": KEY}
    server.answer = lambda _: Reply(json.dumps({"error": error}).encode(), status)
    with pytest.raises(EmbedderError, match=rf"status {status} \(server_said_no\)") as caught:
        open_embedder(server.name)
    assert KEY not in str(caught.value)
    assert "my secret" not in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b'{"error": "no"}', b'{"error": {"type": 5}}', b'{"error": {"type": "a b"}}']
)
def test_error_reply_of_another_shape_is_reported_by_status(
    server: EmbeddingsServer, embedder: Embedder, body: bytes
) -> None:
    server.answer = lambda _: Reply(body, 500)
    assert "answered status 500: " in refused(embedder, ["a"])


def test_redirect_is_not_followed(server: EmbeddingsServer, embedder: Embedder) -> None:
    def elsewhere(request: Request) -> Reply:
        return well(request) if "elsewhere" in request.path else Reply(b"", 307, {"Location": "/elsewhere/embeddings"})

    server.answer = elsewhere
    assert "redirects are not followed" in refused(embedder, ["a"])
    assert {request.path for request in server.requests} == {"/v1/embeddings"}


def test_refused_connection_is_an_embedder_error(embedder: Embedder) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # the socket is bound but does not listen, so connections are refused
        port = closed.getsockname()[1]
        with pytest.raises(EmbedderError, match=r"ConnectionRefusedError.*Start the server"):
            open_embedder(f"openai:http://127.0.0.1:{port}/v1#m")


def test_request_times_out(server: EmbeddingsServer, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index.embedders.openai_server, "_TIMEOUT_SECONDS", 0.05)
    server.answer = lambda request: Reply(well(request).body, delay=2.0)
    assert "did not answer (TimeoutError)" in refused(embedder, ["a"])


def test_truncated_reply_is_refused(server: EmbeddingsServer, embedder: Embedder) -> None:
    server.answer = lambda _: Reply(b'{"data": [', headers={"Content-Length": "5000"})
    assert server.name in refused(embedder, ["a"])


def test_invalid_host_name_is_an_embedder_error() -> None:
    with pytest.raises(EmbedderError, match="did not answer"):
        open_embedder(f"openai:http://{'x' * 70}.invalid/v1#m")


def test_key_that_a_header_cannot_carry_is_refused_and_not_repeated(
    server: EmbeddingsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRPO_EMBEDDER_API_KEY", f"{KEY}\r\nX-Other: 1")
    with pytest.raises(EmbedderError, match="DRPO_EMBEDDER_API_KEY holds characters") as caught:
        open_embedder(server.name)
    assert KEY not in str(caught.value)


def test_registry_gives_the_texts_per_call_of_each_kind() -> None:
    names = ("multilingual", "minilm", "sentence-transformers:m", "openai:http://h/v1#m", "python:m:C", "unheard-of")
    assert [texts_per_call(name) for name in names] == [1, 1, 8, 32, 1, 1]


def test_rewards_are_not_measured_by_the_embedder_that_chooses_examples() -> None:
    assert DEFAULT_REWARD_EMBEDDER != DEFAULT_EMBEDDER
    assert {DEFAULT_EMBEDDER, DEFAULT_REWARD_EMBEDDER} <= LOCAL_EMBEDDERS


@pytest.mark.parametrize("name", ["sentence-transformers:m", "openai:http://h/v1#m", "python:m:C", "onnx"])
def test_only_embedders_with_known_weights_are_allowed_without_being_named(name: str) -> None:
    for local in LOCAL_EMBEDDERS:
        check_embedder_allowed(local, (), "some/bundle")
    check_embedder_allowed(name, (name,), "some/bundle")
    with pytest.raises(EmbedderError, match="--allow-embedder"):
        check_embedder_allowed(name, ("another",), "some/bundle")


@pytest.mark.parametrize("kind", EMBEDDER_KINDS)
def test_embedder_name_with_a_missing_or_extra_argument_is_refused(kind: str) -> None:
    name = f"{kind}:" if EMBEDDER_KINDS[kind].argument else f"{kind}:argument"
    with pytest.raises(EmbedderError, match="there is no embedder"):
        open_embedder(name)
