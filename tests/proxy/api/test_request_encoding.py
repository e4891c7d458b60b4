"""Guards that a request is served if its JSON can be understood, although a strict parser refuses it."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from proxy.core.json_types import repaired_json
from tests.faults.scripted import Received, Reply, ScriptedBackend, completion, scripted_backend
from tests.proxy.serving import Serving, serving

BROKEN_TEXTS = {
    "the first half at the end": (r"Say \ud83d", "Say \ufffd"),
    "the first half in the middle": (r"Say \uD83D twice", "Say \ufffd twice"),
    "the second half": (r"\ude00 said", "\ufffd said"),
    "halves in the wrong order": (r"a\ude00\ud83db", "a\ufffd\ufffdb"),
    "a pair and a half": (r"\ud83d\ude00\ud83d", "\U0001f600\ufffd"),
    "two first halves": (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
    "an escaped backslash before it": (r"C:\\ud83d \ud83d", "C:\\ud83d \ufffd"),
    "a half behind an escaped backslash": (r"C:\\ud83d\ude00", "C:\\ud83d\ufffd"),
    "three backslashes": (r"C:\\\ud83d", "C:\\\ufffd"),
}


@dataclass(frozen=True, slots=True)
class Served:
    """A proxy and its backend."""

    proxy: Serving
    backend: ScriptedBackend

    async def post(self, path: str, body: bytes) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"}
        async with self.proxy.session.post(path, data=body, headers=headers) as reply:
            return reply.status, await reply.json()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(completion("Yes."))

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        yield Served(proxy, backend)


@pytest.mark.parametrize(("written", "read"), BROKEN_TEXTS.values(), ids=BROKEN_TEXTS)
@pytest.mark.parametrize("seed", ["1", "123456789012345678901234567890", "1e999"])
async def test_request_with_half_a_surrogate_pair_is_answered(
    written: str, read: str, seed: str, served: Served
) -> None:
    message = f'{{"role": "user", "content": "{written}"}}'
    body = f'{{"model": "scripted", "seed": {seed}, "messages": [{message}]}}'
    status, _ = await served.post("/v1/chat/completions", body.encode())
    assert status == 200
    assert f"\n{read}\n" in json.loads(served.backend.generating[0].body)["prompt"]  # orjson refuses 1e999
    assert f'"seed":{seed}'.encode() in served.backend.generating[0].body


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", '"messages": [{"role": "user", "content": "a \\ud83d"}]'),
        ("/v1/completions", '"prompt": "a \\ud83d"'),
        ("/v1/responses", '"input": "a \\ud83d"'),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
async def test_every_endpoint_reads_half_a_surrogate_pair_and_a_byte_order_mark(
    path: str, field: str, mark: bytes, served: Served
) -> None:
    status, reply = await served.post(path, mark + f'{{"model": "scripted", {field}}}'.encode())
    assert status == 200, reply
    assert "a \ufffd" in served.backend.generating[0].json["prompt"]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-32"])
async def test_another_encoding_is_refused_with_what_to_do(encoding: str, served: Served) -> None:
    body = '{"model": "scripted", "messages": [{"role": "user", "content": "Grüße"}]}'.encode(encoding)
    status, reply = await served.post("/v1/chat/completions", body)
    assert status == 400
    assert reply["error"]["message"].endswith("is not UTF-8. Send UTF-8.")
    assert served.backend.generating == []


@pytest.mark.parametrize("text", [rb"\ud800", rb"\\", rb"\n", rb"\ud83d\ude00", rb"\\ud800"])
def test_repair_of_a_large_text_does_not_delay_other_requests(text: bytes) -> None:
    data = text * (8_000_000 // len(text)) + rb"\ud800"
    start = time.process_time()
    repaired_json(data)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": 1,}', b'{"a": "\\u12"}', b"\xef\xbb\xbf", b'{"a": NaN}'])
async def test_text_that_is_no_json_is_refused(body: bytes, served: Served) -> None:
    status, reply = await served.post("/v1/chat/completions", body)
    assert status == 400
    assert reply["error"]["message"].startswith("The body is not JSON: ")


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text", None])
@pytest.mark.parametrize("role", ["user", "assistant"])
async def test_base_model_reads_the_text_parts_of_both_apis(kind: str | None, role: str, served: Served) -> None:
    part = {"text": "Said before.", "annotations": []} | ({"type": kind} if kind else {})
    messages = [{"role": role, "content": [part]}, {"role": "user", "content": "Go on."}]
    status, _, reply = await served.proxy.post("/v1/chat/completions", {"model": "scripted", "messages": messages})
    assert status == 200, reply
    assert "\nSaid before.\n" in served.backend.generating[0].json["prompt"]
