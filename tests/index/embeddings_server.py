"""An HTTP server with /v1/embeddings for tests of the embedder `openai`. It records the requests."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[["Request"], "Reply"]


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0


def embedding(text: str) -> list[float]:
    """Return a vector for a text, which depends on the length of the text and is not normalised."""
    return [float(len(text)), 2.0, 0.0]


def well(request: Request) -> Reply:
    """Return a valid reply with the embeddings in reverse order."""
    data = [{"index": n, "embedding": embedding(text)} for n, text in enumerate(request.body["input"])]
    return Reply(json.dumps({"data": data[::-1], "model": request.body["model"]}).encode())


class EmbeddingsServer:
    """The server of a test.

    Attributes:
        answer: Makes the replies; a test may replace it at any time.
        requests: The requests so far.
    """

    def __init__(self, address: str) -> None:
        self.name = f"openai:http://{address}/v1#small"
        self.answer: Answer = well
        self.requests: list[Request] = []


@contextmanager
def embeddings_server() -> Iterator[EmbeddingsServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.requests.append(Request(self.path, dict(self.headers), body))
            reply = served.answer(served.requests[-1])
            time.sleep(reply.delay)
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = EmbeddingsServer(f"127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
