"""Tests of the cache of answers and of the names of policies, which the benches share."""

import json
from argparse import ArgumentTypeError
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from proxy.backends.backend import Backend
from tests.bench.policies.answer_cache import AnswerCache, caching, request_key
from tests.bench.policies.spec import parse_policy
from tests.faults.scripted import Received, Reply, completion, scripted_backend


async def answer(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Yes."))


async def test_answer_is_generated_once_also_in_another_run(tmp_path: Path) -> None:
    body = {"prompt": "Hello", "max_tokens": 4, "temperature": 0}
    async with scripted_backend(answer) as backend, aiohttp.ClientSession() as session:
        replies = []
        for identity in ("one model", "one model", "another model"):
            with closing(AnswerCache(tmp_path / "answers.sqlite")) as cache:
                async with caching(Backend(backend.url), cache, identity) as relay:
                    for extra in ({}, {"user": None}):
                        async with session.post(f"{relay.url}/v1/completions", json={**body, **extra}) as reply:
                            replies.append((reply.status, await reply.json()))
                    async with session.get(f"{relay.url}/v1/models") as listed:
                        assert listed.status == 200
        assert len(backend.generating) == 2, "one for each model"
        assert all(one == replies[0] for one in replies[:4])


@pytest.mark.parametrize("status", [400, 500])
async def test_error_is_not_kept(tmp_path: Path, status: int) -> None:
    async def fail(reply: Reply, request: Received) -> None:
        await reply.whole({"error": {"message": "no"}}, status)

    with closing(AnswerCache(tmp_path / "answers.sqlite")) as cache:
        async with (
            scripted_backend(fail) as backend,
            caching(Backend(backend.url), cache, "model") as relay,
            aiohttp.ClientSession() as session,
        ):
            for _ in range(2):
                async with session.post(f"{relay.url}/v1/completions", json={"prompt": "Hello"}) as reply:
                    assert reply.status == status
            assert len(backend.generating) == 2
        assert not list(cache.items())


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"prompt": "a", "seed": 1}, {"seed": 1, "prompt": "a"}, True),
        ({"prompt": "a"}, {"prompt": "a", "stream": False, "stop": None}, True),
        ({"prompt": "a"}, {"prompt": "b"}, False),
        ({"prompt": "a"}, {"prompt": "a", "max_tokens": 1}, False),
        ({"prompt": "a"}, {"prompt": "a", "model": "other"}, False),
    ],
)
def test_requests_for_the_same_answer_have_the_same_key(
    first: dict[str, object], second: dict[str, object], same: bool
) -> None:
    keys = [request_key("m", "/v1/completions", json.dumps(one).encode()) for one in (first, second)]
    assert (keys[0] == keys[1]) is same
    assert request_key("m", "/v1/completions", b'{"prompt": "a", "stream": true}') is None
    assert request_key("m", "/tokenize", b'{"prompt": "a"}') is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 nearest", (0, 0, 3, None, None)),
        ("sets", (None, 0, 0, None, None)),
        ("sets and 1 nearest", (None, 0, 1, None, None)),
        ("12 sets of 544", (12, 544, 0, None, None)),
        ("1 set of 384 and 2 nearest within 96 floor 0.3", (1, 384, 2, 96, 0.3)),
        ("6 nearest floor -0.1", (0, 0, 6, None, -0.1)),
    ],
)
def test_name_of_a_policy_is_read(text: str, expected: tuple[object, ...]) -> None:
    spec = parse_policy(text)
    assert (spec.count, spec.tokens, spec.nearest, spec.within, spec.floor) == expected
    assert not spec.is_own
    assert parse_policy("own").is_own


@pytest.mark.parametrize("text", ["", "nearest", "12 sets", "sets of 384", "3 nearest and sets", "sets floor", "set"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no policy"):
        parse_policy(text)
