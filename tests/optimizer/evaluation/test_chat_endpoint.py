"""Tests that only temporary failures are retried, and that no error contains a key or the text of a query."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from index.types import Message
from optimizer.core.errors import ModelError, RefusedRequestError, UnparsableReplyError, UnreachableError
from optimizer.evaluation.chat_endpoint import ChatEndpoint, Decoding
from optimizer.models.http_client import Endpoint, RetryPolicy
from optimizer.models.model_list import first_model
from tests.optimizer.scripted_endpoint import Reply, ScriptedEndpoint, completion, failure
from tests.proxy.serving import until

ASKED = (Message("user", "the secret question"),)


@asynccontextmanager
async def connected(
    endpoint: ScriptedEndpoint, patience: RetryPolicy | None = None, concurrency: int = 4
) -> AsyncIterator[tuple[ChatEndpoint, list[float]]]:
    """Open an endpoint that records its waits and does not wait."""
    slept: list[float] = []

    async def record(seconds: float) -> None:
        slept.append(seconds)

    async with endpoint.server() as server:
        where = Endpoint(str(server.make_url("/v1")), "tiny", "the-key")
        async with ChatEndpoint(where, Decoding(16), concurrency, patience or RetryPolicy(), record) as model:
            yield model, slept


def replies(*script: Reply) -> ScriptedEndpoint:
    left = list(script)
    return ScriptedEndpoint(lambda _body, _variant: left.pop(0))


async def test_answer_has_the_fields_of_the_reply() -> None:
    endpoint = replies(completion("Hello", "length", {"x-drpo-examples": "one, two"}))
    async with connected(endpoint) as (model, slept):
        answer = await model.complete(ASKED, "aligned")
    assert (answer.text, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == (
        "Hello",
        "length",
        12,
        3,
    )
    assert answer.examples == ("one", "two")
    body, variant = endpoint.seen[0]
    assert variant == "aligned"
    assert endpoint.keys == ["Bearer the-key"]
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "the secret question"}],
        "max_tokens": 16,
        "temperature": 0.0,
    }
    assert slept == []


async def test_request_without_a_variant_has_no_variant_header() -> None:
    endpoint = replies(completion("Hello"))
    async with connected(endpoint) as (model, _):
        await model.complete(ASKED)
    assert endpoint.seen[0][1] == ""


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_temporary_failure_is_retried(status: int) -> None:
    async with connected(replies(failure(status), failure(status), completion("at last"))) as (model, slept):
        assert (await model.complete(ASKED)).text == "at last"
    assert len(slept) == 2
    assert 0.25 <= slept[0] <= 0.5
    assert 0.5 <= slept[1] <= 1.0


async def test_retry_after_is_respected_up_to_a_maximum() -> None:
    script = replies(
        failure(429, headers={"Retry-After": "7"}),
        failure(503, headers={"Retry-After": "9999"}),
        failure(503, headers={"Retry-After": "soon"}),
        completion("ok"),
    )
    async with connected(script) as (model, slept):
        await model.complete(ASKED)
    assert slept[:2] == [7.0, 30.0]
    assert slept[2] <= 2.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:07 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 2015 08:28:00 +0100", "Date": "Wed, 21 Oct 2015 07:27:48 GMT"}, 12.0),
        ({"Retry-After": "Fri, 31 Dec 2199 23:59:59 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:07 GMT"}, 0.0),
        ({"Retry-After": "1", "retry-after-ms": "250"}, 0.25),
    ],
)
async def test_retry_after_may_be_a_date(headers: dict[str, str], seconds: float) -> None:
    async with connected(replies(failure(429, headers=headers), completion("ok"))) as (model, slept):
        await model.complete(ASKED)
    assert slept == [seconds]


@pytest.mark.parametrize(
    "asked", ["soon", "", "-5", "nan", "inf", "Wed, 99 Oct 2015", "1e400", "Wed, 21 Oct 99999 07:28:07"]
)
async def test_retry_after_that_cannot_be_read_is_ignored(asked: str) -> None:
    async with connected(replies(failure(429, headers={"Retry-After": asked}), completion("ok"))) as (model, slept):
        await model.complete(ASKED)
    assert 0.25 <= slept[0] <= 0.5


async def test_last_failed_attempt_raises_the_message_of_the_server() -> None:
    script = replies(*[failure(503, "too busy")] * 3)
    async with connected(script, RetryPolicy(attempts=3)) as (model, slept):
        with pytest.raises(RefusedRequestError, match="503: too busy") as caught:
            await model.complete(ASKED)
    assert caught.value.status == 503
    assert len(slept) == 2
    assert "secret" not in str(caught.value)
    assert "the-key" not in str(caught.value)


async def test_client_error_is_not_retried() -> None:
    endpoint = replies(failure(400, "unknown variant"))
    async with connected(endpoint) as (model, slept):
        with pytest.raises(RefusedRequestError, match="unknown variant"):
            await model.complete(ASKED)
    assert (len(endpoint.seen), slept) == (1, [])


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": {}}]}'])
async def test_reply_that_is_not_a_completion_is_an_error_without_retry(raw: bytes) -> None:
    endpoint = replies((200, {}, raw))
    async with connected(endpoint) as (model, _):
        with pytest.raises(UnparsableReplyError):
            await model.complete(ASKED)
    assert len(endpoint.seen) == 1


async def test_unreachable_server_is_an_error() -> None:
    async def no_sleep(_: float) -> None:
        return

    async with ChatEndpoint(
        Endpoint("http://127.0.0.1:9/v1", "m"), Decoding(), 1, RetryPolicy(attempts=2), no_sleep
    ) as model:
        with pytest.raises(UnreachableError, match="Check that the server runs"):
            await model.complete(ASKED)


async def test_missing_reply_ends_in_a_timeout() -> None:
    released = asyncio.Event()
    endpoint = ScriptedEndpoint(lambda _body, _variant: completion("x"), before_reply=released.wait)
    async with connected(endpoint, RetryPolicy(attempts=1, reply_timeout=0.05)) as (model, _):
        with pytest.raises(UnreachableError, match=r"gave no reply within 0\.05 s"):
            await model.complete(ASKED)
        released.set()


async def test_number_of_concurrent_requests_is_limited() -> None:
    running, most = 0, 0

    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await until(lambda: most >= 3)
        running -= 1

    endpoint = ScriptedEndpoint(lambda _body, _variant: completion("x"), before_reply=count)
    async with connected(endpoint, concurrency=3) as (model, _):
        await asyncio.gather(*(model.complete(ASKED) for _ in range(12)))
    assert most == 3


async def test_first_model_without_a_variant_suffix_is_used() -> None:
    async with ScriptedEndpoint(lambda _b, _v: completion("x")).server() as server:
        assert await first_model(str(server.make_url("/v1/")), None, 5) == "tiny"
        with pytest.raises(ModelError, match="404"):
            await first_model(str(server.make_url("/nowhere")), None, 5)


def test_repr_of_an_endpoint_hides_the_key() -> None:
    assert "the-key" not in repr(Endpoint("http://x/v1", "m", "the-key"))
