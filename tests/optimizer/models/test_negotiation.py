"""Tests that a run finds the form of requests that a server accepts, remembers it, and repeats no paid call."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from optimizer.core.budget import Budget, Cost, Limits, Prices
from optimizer.core.errors import RefusedRequestError
from optimizer.core.journal import Journal
from optimizer.core.request_form import RequestForm
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.http_client import Client, Endpoint, RetryPolicy
from optimizer.models.paid_replies import PricedClient
from optimizer.models.request import Json, Request, reply_reader
from tests.optimizer.limited_server import LIMITS, limited_endpoint
from tests.optimizer.scripted_endpoint import ScriptedEndpoint, completion, failure

PATIENT = RetryPolicy(attempts=2, first_wait=0.001)
BODY = {
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
    "max_tokens": 64,
    "temperature": 0.0,
    "n": 4,
    "seed": 7,
    "stop": ["a", "b", "c", "d", "e"],
    "frequency_penalty": 0.4,
    "logprobs": True,
    "top_logprobs": 20,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
}


@reply_reader("tests.read_texts")
def read_texts(reply: Any) -> Json:
    return {"texts": [choice["message"]["content"] for choice in reply["choices"]]}


@asynccontextmanager
async def calls(
    endpoint: ScriptedEndpoint, folder: Path, form: RequestForm | None = None
) -> AsyncIterator[tuple[CachedCalls, Budget]]:
    """Yield a CachedCalls for an endpoint, with the journal in `folder`. The model's role is `judge`."""
    async with endpoint.server() as server:
        budget = Budget(Limits())
        async with Client(Endpoint(str(server.make_url("/v1")), "tiny"), 4, PATIENT) as client:
            with Journal(folder) as journal:
                made = CachedCalls({"judge": PricedClient(client, Prices(), form or RequestForm())}, journal, budget)
                yield made, budget
                await made.close(print)


def request_with(body: Json = BODY, replicate: int = 0) -> Request:
    return Request("judge", "chat/completions", body, replicate)


NAMED = [name for name in LIMITS if not name.startswith("vague")]
PAIRS = [list(pair) for pair in itertools.combinations(NAMED, 2)]


@pytest.mark.parametrize("limits", [*([name] for name in LIMITS), *PAIRS, NAMED], ids="+".join)
async def test_run_works_with_a_server_that_accepts_less(limits: list[str], tmp_path: Path) -> None:
    endpoint = limited_endpoint(limits, "Yes.")
    async with calls(endpoint, tmp_path) as (made, budget):
        assert await made.ask(request_with(), read_texts) == {"texts": ["Yes."] * 4}
        first = len(endpoint.seen)
        assert await made.ask(request_with(replicate=1), read_texts) == {"texts": ["Yes."] * 4}
        paid = len(endpoint.seen) - first
        assert paid <= 4, "the second request is not refused"
        form, spent = made.form("judge"), budget.spent
        assert spent.tokens % 2 == 0
    resumed = limited_endpoint(limits, "Yes.")
    async with calls(resumed, tmp_path) as (made, budget):
        assert made.form("judge") == form
        assert budget.spent == spent
        assert await made.ask(request_with(), read_texts) == {"texts": ["Yes."] * 4}
        assert not resumed.seen, "nothing that was paid for is sent again"
        await made.ask(request_with(replicate=2), read_texts)
        assert len(resumed.seen) == paid, "the form that was found is used at once"


@pytest.mark.parametrize("name", NAMED)
async def test_only_the_refused_part_is_simplified(name: str, tmp_path: Path) -> None:
    async with calls(limited_endpoint([name], "Yes."), tmp_path) as (made, _):
        await made.ask(request_with(), read_texts)
        assert len(made.form("judge").differences) <= 2


@pytest.mark.parametrize(
    ("name", "differences"),
    [
        ("max_tokens renamed", {"max_tokens_field": "max_completion_tokens"}),
        ("default temperature only", {"omit": ["temperature"]}),
        ("n of 2", {"max_choices": 2}),
        ("no field n", {"max_choices": 1}),
        ("no json_schema", {"reply_format": "json_object"}),
        ("no response_format", {"reply_format": "json"}),
        ("5 top_logprobs", {"max_top_logprobs": 5}),
        ("no logprobs", {"max_top_logprobs": 0}),
        ("no system role", {"system_role": "user"}),
        ("4 stop strings", {"max_stop_strings": 4}),
        ("no seed", {"omit": ["seed"]}),
        ("vague about temperature", {"omit": ["temperature"]}),
    ],
)
async def test_found_form_is_the_one_to_write_into_run_toml(name: str, differences: Json, tmp_path: Path) -> None:
    endpoint = limited_endpoint([name], "Yes.")
    async with calls(endpoint, tmp_path) as (made, _):
        await made.ask(request_with(), read_texts)
        assert made.form("judge").differences == differences
    endpoint = limited_endpoint([name], "Yes.")
    async with calls(endpoint, tmp_path / "set", RequestForm.from_differences(differences)) as (made, budget):
        await made.ask(request_with(), read_texts)
        assert budget.spent.calls == len(endpoint.seen) <= 4, "no request is refused"


async def test_form_of_run_toml_is_sent(tmp_path: Path) -> None:
    extra = {"reasoning_effort": "low", "temperature": 1}
    form = RequestForm("max_completion_tokens", 512, ("seed", "stop"), extra, 2, -1, 5, "developer", "json_object")
    endpoint = limited_endpoint([], "Yes.")
    async with calls(endpoint, tmp_path, form) as (made, _):
        await made.ask(request_with(), read_texts)
    sent = endpoint.seen[0][0]
    assert sent == {
        "model": "tiny",
        "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
        "max_completion_tokens": 512,
        "temperature": 1,
        "n": 2,
        "frequency_penalty": 0.4,
        "logprobs": True,
        "top_logprobs": 5,
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
    }


@pytest.mark.parametrize(
    ("asked", "sizes"), [(lambda n: 1, [4, 1, 1, 1]), (lambda n: min(n, 3), [4, 1]), (lambda n: min(n, 2), [4, 2])]
)
async def test_choices_that_a_server_leaves_out_are_requested_again(asked: Any, sizes: Json, tmp_path: Path) -> None:
    endpoint = limited_endpoint([], "Yes.", asked)
    async with calls(endpoint, tmp_path) as (made, budget):
        assert await made.ask(request_with(), read_texts) == {"texts": ["Yes."] * 4}
        assert sorted((body.get("n", 1) for body, _ in endpoint.seen), reverse=True) == sizes
        assert budget.spent.calls == len(sizes)
        assert made.form("judge").max_choices == asked(4)
    resumed = limited_endpoint([], "Yes.", asked)
    async with calls(resumed, tmp_path) as (made, _):
        assert await made.ask(request_with(), read_texts) == {"texts": ["Yes."] * 4}
        assert not resumed.seen


async def test_interrupted_choices_are_completed_after_a_restart(tmp_path: Path) -> None:
    left = [completion("one"), completion("two"), failure(401, "no key")]
    endpoint = ScriptedEndpoint(lambda _body, _variant: left.pop(0) if len(left) > 1 else left[0])
    async with calls(endpoint, tmp_path, RequestForm(max_choices=1)) as (made, _):
        with pytest.raises(RefusedRequestError, match="no key"):
            await made.ask(request_with({**BODY, "n": 3}), read_texts)
    resumed = ScriptedEndpoint(lambda _body, _variant: completion("three"))
    async with calls(resumed, tmp_path, RequestForm(max_choices=1)) as (made, _):
        found = await made.ask(request_with({**BODY, "n": 3}), read_texts)
        assert sorted(found["texts"]) == ["one", "three", "two"]
        assert len(resumed.seen) == 1


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. Please reduce the length of the messages or max_tokens.",
        "the request exceeds the available context size, try increasing it",
        "'max_tokens' is too large: 64. This model's maximum context length is 10 tokens.",
        "prompt is too long: 5000 tokens > 4096 maximum",
    ],
)
async def test_request_that_is_too_long_is_not_simplified(message: str, tmp_path: Path) -> None:
    endpoint = ScriptedEndpoint(lambda _body, _variant: failure(400, message))
    async with calls(endpoint, tmp_path) as (made, budget):
        with pytest.raises(RefusedRequestError, match=r"too l|context"):
            await made.ask(request_with(), read_texts)
        assert (len(endpoint.seen), budget.spent) == (1, Cost(1))
        assert not made.form("judge").differences


async def test_row_that_the_server_refuses_does_not_change_the_form(tmp_path: Path) -> None:
    """A refusal without a reason is tried in other forms twice at most, and the first error is raised."""

    def script(body: Any, _variant: str) -> Any:
        return failure(400, "no") if body["messages"][-1]["content"].startswith("bad") else completion("Yes.")

    endpoint = ScriptedEndpoint(script)
    body = {name: BODY[name] for name in ("temperature", "max_tokens")}
    async with calls(endpoint, tmp_path) as (made, _):
        for number in range(6):
            messages = [{"role": "user", "content": f"bad {number}"}]
            with pytest.raises(RefusedRequestError, match="status 400: no"):
                await made.ask(request_with({**body, "messages": messages}), read_texts)
        assert len(endpoint.seen) <= 2 * 6 + 4
        messages = [{"role": "user", "content": "good"}]
        assert (await made.ask(request_with({**body, "messages": messages}), read_texts))["texts"] == ["Yes."]
        assert not made.form("judge").differences


async def test_refused_form_is_tried_again_after_run_toml_has_changed(tmp_path: Path) -> None:
    async with calls(ScriptedEndpoint(lambda *_: failure(400, "top_k must be 1")), tmp_path) as (made, _):
        with pytest.raises(RefusedRequestError, match="top_k"):
            await made.ask(request_with(), read_texts)
    async with calls(limited_endpoint([], "Yes."), tmp_path, RequestForm(extra={"top_k": 1})) as (made, _):
        assert (await made.ask(request_with(), read_texts))["texts"] == ["Yes."] * 4


@pytest.mark.parametrize(
    ("error", "explained"),
    [
        (b'{"error":{"message":"bad key sk-secret","code":"x"}}', "bad key (the API key)"),
        (b'{"error":"in words"}', "in words"),
        (b'{"object":"error","message":"old vLLM","code":400}', "old vLLM"),
        (b'{"detail":[{"loc":["body","seed"],"msg":"extra"}]}', "extra body seed"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'[{"error":{"message":"a list"}}]', "a list"),
        (b"plain text", "plain text"),
        (b'{"title":"Bad","errors":{"seed":["no","never"]}}', "seed: no never Bad"),
        (b'{"errors":[{"message":"a list of errors"}]}', "a list of errors"),
        (b'{"Message":"in capitals"}', "in capitals"),
        (b'{"fault":{"faultstring":"a gateway"}}', "a gateway"),
        (b'{"error":{"message":"m","details":[{"reason":"r","field":"f"}]}}', "m r (parameter: f)"),
        (b'{"detail":[{"msg":"bad","input":"a secret text"}]}', "bad"),
        (b"<html><body>502</body></html>", "no explanation given"),
        (b"null", "no explanation given"),
        (b"", "no explanation given"),
    ],
)
async def test_error_says_what_the_server_says_without_the_key(error: bytes, explained: str, tmp_path: Path) -> None:
    endpoint = ScriptedEndpoint(lambda *_: (403, {}, error))
    async with (
        endpoint.server() as server,
        Client(Endpoint(str(server.make_url("/v1")), "tiny", "sk-secret"), 1, PATIENT) as client,
    ):
        with pytest.raises(RefusedRequestError) as caught:
            await client.post("chat/completions", b"{}")
    assert str(caught.value).endswith(f"status 403: {explained}")


@pytest.mark.parametrize(("code", "status"), [("401", 401), ("429", 429), ('"x"', 502), ("null", 502), ("7", 502)])
async def test_error_inside_of_a_good_status_is_an_error(code: str, status: int, tmp_path: Path) -> None:
    error = f'{{"error": {{"message": "gone", "code": {code}}}}}'.encode()
    async with calls(ScriptedEndpoint(lambda *_: (200, {}, error)), tmp_path) as (made, _):
        with pytest.raises(RefusedRequestError, match=f"status {status}: gone"):
            await made.ask(request_with(), read_texts)
