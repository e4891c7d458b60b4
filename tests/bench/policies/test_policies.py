"""Tests of the cache of answers and of the names of policies, which the benches share."""

import json
from argparse import ArgumentTypeError
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from index import embedders
from index.bundle.bundle import default_bundle_directory, read_bundle
from index.errors import BundleError
from index.retrieval.retriever import pinned
from proxy.backends.backend import Backend
from tests.bench.policies.answer_cache import AnswerCache, caching, request_key
from tests.bench.policies.frontier import point
from tests.bench.policies.spec import parse_policy, with_policy
from tests.bench.prefix import Stream, Texts, token_costs
from tests.faults.scripted import Received, Reply, completion, scripted_backend

PROMPTS = Path(__file__).parents[1] / "data"
MINILM_TOKENIZER = Path(embedders.__path__[0]) / "minilm_tokenizer" / "tokenizer.json"


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


@pytest.mark.parametrize(
    "begin", ["own", "sets", "sets and 1 nearest", "12 sets of 544 and 2 nearest within 9 floor 0.3"]
)
def test_name_of_a_policy_ends_with_its_file_of_prompts(begin: str, tmp_path: Path) -> None:
    file = tmp_path / "my prompts.toml"
    file.write_text('refusal = "No."\nother = "Yes."', encoding="utf-8")
    spec = parse_policy(f"{begin} prompts {file}")
    assert spec.prompts == {"refusal": "No.", "other": "Yes."}
    assert replace(spec, name=begin, prompts={}) == parse_policy(begin)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("3 nearest prompts FILE", "prompts are for sets"),
        ("0 sets of 0 and 3 nearest prompts FILE", "prompts are for sets"),
        ("sets prompts nowhere.toml", "nowhere.toml: cannot be read"),
        ("sets prompts EMPTY", "there is no prompt"),
        ("prompts FILE", "is no policy"),
        ("sets prompts", "is no policy"),
    ],
)
def test_unusable_file_of_prompts_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    for name, content in (("FILE", 'other = "Yes."'), ("EMPTY", "")):
        (tmp_path / name).write_text(content, encoding="utf-8")
        text = text.replace(name, str(tmp_path / name))
    with pytest.raises(ArgumentTypeError, match=reason):
        parse_policy(text)


@pytest.mark.parametrize("begin", ["own", "sets", "sets and 1 nearest"])
def test_prompts_of_a_policy_are_those_of_the_bundles_sets(begin: str) -> None:
    bundle = read_bundle(default_bundle_directory())
    made = with_policy(bundle, parse_policy(f"{begin} prompts {PROMPTS / 'set_prompts.toml'}"))
    assert list(made.set_prompts) == [one.name for one in bundle.sets]
    assert {made.prompt_of(one.name) for one in made.sets if one.kind == "refusal"} == {made.prompt_of("refusal-1")}
    assert len(set(made.set_prompts.values())) == 2
    assert with_policy(bundle, parse_policy(begin)).set_prompts == {}
    with pytest.raises(BundleError, match='a prompt for "harmless"'):
        with_policy(bundle, parse_policy(f"{begin} prompts {PROMPTS / 'set_prompts_harmless.toml'}"))


def test_simulated_cost_of_a_policy_counts_the_prompts_of_sets() -> None:
    bundle, room = read_bundle(default_bundle_directory()), {128: 47}
    texts = Texts(bundle, MINILM_TOKENIZER)
    stream = Stream([one.query for one in bundle.examples[3:9]], bundle.vectors[3:9])
    names = ["own", f"own prompts {PROMPTS / 'set_prompts.toml'}"]
    points = [
        point(with_policy(bundle, parse_policy(name)), name, stream, texts, MINILM_TOKENIZER, room) for name in names
    ]
    assert [one.policy for one in points] == names
    assert points[1].injected < points[0].injected - 20, "the prompts of the sets are shorter than that of the bundle"


def test_sets_that_are_made_for_a_policy_have_its_prompts_and_keep_their_length() -> None:
    bundle, tokenizer = read_bundle(default_bundle_directory()), MINILM_TOKENIZER
    name = f"9 sets of 512 and 1 nearest prompts {PROMPTS / 'set_prompts_harmless.toml'}"
    made = with_policy(bundle, parse_policy(name), tokenizer)
    assert {one.kind for one in made.sets} == {"refusal", "harmless", "other"}
    assert len(set(made.set_prompts.values())) == 3
    prompts, costs = token_costs(made, tokenizer)
    always = sum(costs[one.id] for one in pinned(made))
    for one in made.sets:
        assert 512 <= prompts[one.name] + always + sum(costs[name] for name in one.shown) <= 512 + 64
    assert prompts["refusal-1"] < prompts[""], "its prompt is shorter than that of the bundle"


@pytest.mark.parametrize("text", ["", "nearest", "12 sets", "sets of 384", "3 nearest and sets", "sets floor", "set"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is no policy"):
        parse_policy(text)
