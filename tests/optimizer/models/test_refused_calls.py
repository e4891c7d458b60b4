"""Tests which failed calls are final: a resumed run does not send them again. It repeats all other failed calls."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from index.token_estimate import estimated_tokens
from optimizer.core.errors import ModelError, RefusedRequestError, UnparsableReplyError
from optimizer.core.journal import STOPPED, Journal
from tests.optimizer.models.test_cached_calls import calls, endpoint_with, read_text, request_for
from tests.optimizer.scripted_endpoint import Reply, ScriptedEndpoint, completion, failure


async def failed_requests(reply: Reply, folder: Path, *earlier: Reply) -> tuple[int, ModelError]:
    """Return the number of requests of one session that ends with an error, and the error."""
    endpoint = endpoint_with(*earlier, reply)
    async with calls(endpoint, folder) as (made, _):
        for number, _ in enumerate(earlier):
            await made.ask(request_for(f"earlier {number}"), read_text)
        with pytest.raises(ModelError) as caught:
            await made.ask(request_for("one"), read_text)
    return len(endpoint.seen) - len(earlier), caught.value


@pytest.mark.parametrize("status", [400, 413, 414, 415, 422, 431, 451])
async def test_refusal_of_the_request_itself_is_final(status: int, tmp_path: Path) -> None:
    sent, first = await failed_requests(failure(status, "too long"), tmp_path)
    assert (sent, first.is_final) == (1, True)
    sent, again = await failed_requests(completion("Yes."), tmp_path)
    assert (sent, str(again), again.is_final) == (0, str(first), True)
    assert isinstance(again, RefusedRequestError)
    assert again.status == status


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 408, 429, 500, 502, 503, 504])
async def test_failure_that_may_end_is_tried_again_by_the_next_session(status: int, tmp_path: Path) -> None:
    _, first = await failed_requests(failure(status), tmp_path)
    assert not first.is_final
    endpoint = endpoint_with(completion("Yes."))
    async with calls(endpoint, tmp_path) as (made, _):
        assert await made.ask(request_for("one"), read_text) == {"text": "Yes."}


async def test_server_error_of_two_sessions_is_final(tmp_path: Path) -> None:
    assert not (await failed_requests(failure(500), tmp_path))[1].is_final
    assert (await failed_requests(failure(500), tmp_path))[1].is_final
    assert (await failed_requests(failure(500), tmp_path))[0] == 0


@pytest.mark.parametrize("status", [502, 504])
@pytest.mark.parametrize("is_up", [True, False])
async def test_request_at_which_a_gateway_fails_is_final_if_the_model_answers_others(
    status: int, is_up: bool, tmp_path: Path
) -> None:
    def script(body: Mapping[str, Any], _variant: str) -> Reply:
        is_trial = "France" in str(body["messages"])
        return completion("Paris.") if is_trial and is_up else failure(status)

    for session in range(3):
        endpoint = ScriptedEndpoint(script)
        async with calls(endpoint, tmp_path) as (made, _):
            with pytest.raises(ModelError) as caught:
                await made.ask(request_for("one"), read_text)
        assert caught.value.is_final == (is_up and session > 0)
    assert bool(endpoint.seen) != is_up, "a final failure is not tried again"


class BreakingEndpoint(ScriptedEndpoint):
    """Breaks the connection at every request but the trial."""

    async def _chat(self, request: web.Request) -> web.Response:
        if "France" not in await request.text() and request.transport:
            request.transport.close()
        return await super()._chat(request)


async def test_request_that_breaks_the_connection_is_final_if_the_model_answers_others(tmp_path: Path) -> None:
    for session in range(2):
        endpoint = BreakingEndpoint(lambda _body, _variant: completion("Paris."))
        async with calls(endpoint, tmp_path) as (made, _):
            with pytest.raises(ModelError) as caught:
                await made.ask(request_for("one"), read_text)
        assert caught.value.is_final == (session > 0)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"choices": [{"finish_reason": "error", "message": {"content": "half"}}]}',
        b'{"choices": [{"finish_reason": "abort", "message": {"content": ""}}]}',
        b'{"choices": [{"error": {"code": 503}, "message": {"content": ""}}]}',
        b'{"choices": [], "error": {"code": "503"}}',
        b'{"choices": null, "error": {"message": "x"}}',
        b'{"errors": [{"message": "x"}], "success": false}',
        b'{"message": "busy", "code": 429}',
        b'{"detail": "busy"}',
        b'{"object": "error", "message": "busy", "code": 503}',
    ],
)
async def test_failure_inside_of_a_reply_with_status_200_is_tried_again(raw: bytes, tmp_path: Path) -> None:
    replies = [(200, {}, raw), completion("Yes.")]
    endpoint = ScriptedEndpoint(lambda _body, _variant: replies.pop(0))
    async with calls(endpoint, tmp_path) as (made, _):
        assert await made.ask(request_for("one"), read_text) == {"text": "Yes."}


@pytest.mark.parametrize(
    "raw", [b"", b'{"choices": [{"message": {"content": "Y', b"<html>Please wait</html>", b"null\0"]
)
async def test_reply_that_was_cut_on_its_way_is_requested_again(raw: bytes, tmp_path: Path) -> None:
    replies = [(200, {}, raw), completion("Yes.")]
    endpoint = ScriptedEndpoint(lambda _body, _variant: replies.pop(0))
    async with calls(endpoint, tmp_path) as (made, budget):
        assert await made.ask(request_for("one"), read_text) == {"text": "Yes."}
        assert budget.spent.calls == 2


@pytest.mark.parametrize("status", [408, 409, 425])
async def test_status_that_passes_is_tried_again_at_once(status: int, tmp_path: Path) -> None:
    replies = [failure(status), completion("Yes.")]
    endpoint = ScriptedEndpoint(lambda _body, _variant: replies.pop(0))
    async with calls(endpoint, tmp_path) as (made, _):
        assert await made.ask(request_for("one"), read_text) == {"text": "Yes."}


@pytest.mark.parametrize("text", ['{"error": 1}', '"abort"', 'The key "error" says why.', '{"finish_reason": "error"}'])
async def test_answer_that_speaks_of_errors_is_an_answer(text: str, tmp_path: Path) -> None:
    async with calls(endpoint_with(completion(text)), tmp_path) as (made, _):
        assert await made.ask(request_for("one"), read_text) == {"text": text}


@pytest.mark.parametrize("status", [429, 503])
async def test_busy_server_is_never_a_final_failure(status: int, tmp_path: Path) -> None:
    for _ in range(3):
        sent, error = await failed_requests(failure(status), tmp_path)
        assert (sent, error.is_final) == (3, False)


async def test_forbidden_request_is_final_if_the_server_accepts_the_key(tmp_path: Path) -> None:
    sent, error = await failed_requests(failure(403), tmp_path, completion("Yes."))
    assert (sent, error.is_final) == (1, True)


async def test_failures_before_a_stop_are_tried_again(tmp_path: Path) -> None:
    await failed_requests(failure(400), tmp_path)
    with pytest.raises(UnparsableReplyError):
        async with calls(endpoint_with(completion("?")), tmp_path) as (made, _):
            await made.ask(request_for("two"), read_text)
    with Journal(tmp_path) as journal:
        await journal.note(STOPPED)
    async with calls(endpoint_with(completion("Yes.")), tmp_path) as (made, _):
        assert await made.ask(request_for("one"), read_text) == {"text": "Yes."}
        assert await made.ask(request_for("two"), read_text) == {"text": "Yes."}


@pytest.mark.parametrize(
    "usage", [b"null", b"[]", b'"many"', b'{"prompt_tokens": "12 tokens"}', b'{"prompt_tokens": -5}']
)
async def test_malformed_usage_is_estimated(usage: bytes, tmp_path: Path) -> None:
    status, headers, body = completion("Yes.")
    odd = body.replace(b'{"prompt_tokens":12,"completion_tokens":3}', usage)
    assert odd != body
    async with calls(endpoint_with((status, headers, odd)), tmp_path) as (made, budget):
        assert await made.ask(request_for("one"), read_text) == {"text": "Yes."}
        assert budget.spent.tokens == estimated_tokens("one") + estimated_tokens("Yes.")
