"""Guards that the proxy decides by behaviour which kind a model is, on scripted servers that behave in many ways."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.backends.discovery import Model
from proxy.backends.kinds import judge
from proxy.backends.kinds.probe import QUESTIONS
from tests.faults.scripted import Received, Reply, Script, ScriptedBackend, completion, scripted_backend
from tests.proxy.backends.kinds.test_answers import reply as chat_reply
from tests.proxy.serving import Serving, serving, until

PARIS = chat_reply("Paris.")
RAMBLE = chat_reply("Paris<|im_end|>\n<|im_start|>user\nAnd of Spain?<|im_end|>\n<|im_start|>assistant\n", "length")
STRIPPED = chat_reply("Paris\nuser\nAnd of Spain?\nassistant\nMadrid\nuser\nAnd of", "length")
LOOP = chat_reply("The capital of France is Paris. " * 6, "length")
CUT = chat_reply("France has several cities, of which one is", "length")
ALOUD = chat_reply("Okay, so someone wants to know which city it is, and I recall that", "length")
REASONING = chat_reply(None, "length", reasoning_content="The question asks for a city")
REFUSED = ({"error": {"message": "this model has no chat template", "code": 400}}, "400 Bad Request")
ENDS, RUNS_ON = completion("Paris."), completion("Paris. Paris. Paris", "length")

Body = Mapping[str, Any]


def always(*given: Any) -> Script:
    """Return a script that sends the same reply each time: a payload, and possibly a status."""

    async def script(reply: Reply, _: Received) -> None:
        await reply.whole(*given)

    return script


def counting(asked: list[Received]) -> Script:
    """Return a script that answers as a chat model, and appends each request to a list."""

    async def script(reply: Reply, request: Received) -> None:
        asked.append(request)
        await reply.whole(PARIS)

    return script


def by_body(choose: Callable[[Body], Any]) -> Script:
    async def script(reply: Reply, request: Received) -> None:
        payload = choose(request.json)
        await reply.whole(*(payload if isinstance(payload, tuple) else (payload,)))

    return script


def by_question(*payloads: Any) -> Script:
    """Return a script that sends a payload for each of the questions."""
    return by_body(lambda body: dict(zip(QUESTIONS, payloads, strict=True))[body["messages"][0]["content"]])


def _at_length(body: Body) -> Any:
    """Reply as a chat model that explains every answer in 200 words."""
    return PARIS if body["max_tokens"] >= 300 else CUT


def _strict(body: Body) -> Any:
    """Reply as a server that knows only the newest fields of OpenAI."""
    known = {"model", "messages", "max_completion_tokens"}
    return PARIS if set(body) <= known else ({"error": {"message": "unknown parameter"}}, "400 Bad Request")


def _model(proxy: Serving) -> Model:
    (model,) = proxy.gateway.pool.models.values()
    return model


@pytest.mark.parametrize("reported", ["chat", "unknown"])
@pytest.mark.parametrize(
    ("questions", "completes", "kind", "doubt"),
    [
        pytest.param(always(PARIS), ENDS, "chat", "", id="ends each answer"),
        pytest.param(always(REASONING), ENDS, "chat", "", id="reasons in a field"),
        pytest.param(always(chat_reply("<think>\nHm", "length")), ENDS, "chat", "", id="reasons in the text"),
        pytest.param(by_body(_at_length), ENDS, "chat", "", id="explains at length"),
        pytest.param(by_body(_strict), ENDS, "chat", "", id="strict fields"),
        pytest.param(always(ALOUD), ENDS, "chat", "only 0 of 3", id="thinks aloud without marks"),
        pytest.param(by_question(PARIS, LOOP, PARIS), ENDS, "chat", "only 2 of 3", id="one answer of three loops"),
        pytest.param(always(RAMBLE), ENDS, "completion", "", id="writes template tokens"),
        pytest.param(always(STRIPPED), ENDS, "completion", "", id="writes turns"),
        pytest.param(always(LOOP), ENDS, "completion", "", id="repeats itself"),
        pytest.param(by_question(PARIS, RAMBLE, LOOP), ENDS, "completion", "1 of 3", id="one answer of three ends"),
        pytest.param(always(RAMBLE), RUNS_ON, "completion", "does not end", id="neither ends"),
        pytest.param(always(CUT), ENDS, "completion", "the only sign", id="only never ends"),
        pytest.param(always(CUT), RUNS_ON, "chat", "only 0 of 3", id="nothing ends, without a sign"),
        pytest.param(always(chat_reply("")), ENDS, "completion", "the only sign", id="answers nothing"),
        pytest.param(always(*REFUSED), ENDS, "completion", "", id="has no template"),
        pytest.param(always({"detail": "Not Found"}, "404 Not Found"), ENDS, "completion", "", id="has no chat"),
        pytest.param(always({"choices": None}), ENDS, "completion", "", id="sends no chat completion"),
    ],
)
async def test_kind_follows_from_the_answers(
    questions: Script, completes: Any, kind: str, doubt: str, reported: str
) -> None:
    async with scripted_backend(always(completes), kind=reported, questions=questions) as backend:
        async with serving(backend.url) as proxy:
            model = _model(proxy)
            assert (model.kind, model.decision.settled) == (kind, True)
            assert doubt in model.decision.doubt
            assert bool(doubt) == bool(model.decision.doubt)
            assert model.decision.evidence


@pytest.mark.parametrize(
    ("questions", "kind", "doubt"),
    [
        (always(PARIS), "chat", ""),
        (always(RAMBLE), "chat", "takes no text completions"),
        (always({}, "404 Not Found"), "chat", "generates no text"),
    ],
)
async def test_server_without_completions_has_a_chat_model(questions: Script, kind: str, doubt: str) -> None:
    missing = always({"detail": "Not Found"}, "404 Not Found")
    async with scripted_backend(missing, kind="unknown", questions=questions) as backend:
        async with serving(backend.url) as proxy:
            assert _model(proxy).kind == kind
            assert doubt in _model(proxy).decision.doubt


@pytest.mark.parametrize("given", ["chat", "completion"])
async def test_kind_flag_wins_and_nothing_is_asked(given: str) -> None:
    asked: list[Received] = []
    async with scripted_backend(counting(asked), kind="chat", questions=counting(asked)) as backend:
        async with serving(backend.url, kind=(f"scripted={given}",)) as proxy:
            assert _model(proxy).kind == given
            assert not asked


async def test_base_model_without_a_template_is_not_asked() -> None:
    async with scripted_backend(always(ENDS)) as backend, serving(backend.url) as proxy:
        assert _model(proxy).kind == "completion"
        assert not backend.generating


async def test_questions_are_short_greedy_and_keep_template_tokens() -> None:
    bodies: list[Body] = []

    def remember(body: Body) -> Any:
        bodies.append(body)
        return PARIS

    async with scripted_backend(always(ENDS), kind="chat", questions=by_body(remember)) as backend:
        async with serving(backend.url):
            assert [body["messages"][0]["content"] for body in bodies] == list(QUESTIONS)
            for body in bodies:
                assert body["temperature"] == 0
                assert body["max_tokens"] < 100
                assert body["skip_special_tokens"] is False


async def test_model_that_cannot_be_asked_now_is_asked_again_after_a_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_MIN_RETRY_DELAY", 0.1)
    monkeypatch.setattr(judge, "_MAX_UNDECIDED", 0.0)
    busy = {"error": {"message": "busy"}}

    def overloaded(body: Body) -> Any:
        return RAMBLE if ready else (busy, "503 Service Unavailable")

    ready: list[bool] = []
    async with scripted_backend(always(ENDS), kind="chat", questions=by_body(overloaded)) as backend:
        async with serving(backend.url, health_interval=0.1) as proxy:
            assert _model(proxy).kind == "chat"
            assert "503" in _model(proxy).decision.doubt
            ready.append(True)
            await until(lambda: _model(proxy).kind == "completion")


async def test_model_that_replaces_another_under_the_same_name_is_asked_anew() -> None:
    backend = ScriptedBackend(always(ENDS), kind="chat")
    async with scripted_backend(backend), serving("http://127.0.0.1:9", health_interval=0.05) as proxy:
        proxy.gateway.pool.backends[0].url = backend.url
        await until(lambda: bool(proxy.gateway.pool.models))
        assert _model(proxy).kind == "chat"
        backend.listing = always({}, "503 Service Unavailable")
        await until(lambda: not proxy.gateway.pool.healthy)
        backend.listing, backend.questions = None, always(RAMBLE)
        await until(lambda: proxy.gateway.pool.healthy)
        assert _model(proxy).kind == "completion"


async def test_model_is_asked_once_while_it_stays() -> None:
    asked: list[Received] = []
    async with scripted_backend(always(ENDS), kind="chat", questions=counting(asked)) as backend:
        async with serving(backend.url, health_interval=0.05) as proxy:
            await until(lambda: sum(one.path == "/v1/models" for one in backend.received) > 5)
            assert _model(proxy).kind == "chat"
            assert len(asked) == len(QUESTIONS)


async def test_server_of_many_models_is_not_asked_about_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "MAX_MODELS", 2)
    cards = {"data": [{"id": f"m{n}"} for n in range(5)]}
    questions = always(RAMBLE)
    backend = ScriptedBackend(always(ENDS), kind="unknown", questions=questions, listing=always(cards))
    async with scripted_backend(backend), serving(backend.url, bundles={}, health_interval=0.1) as proxy:
        await until(lambda: [one.kind for one in proxy.gateway.pool.models.values()][:2] == ["completion"] * 2)
        models = list(proxy.gateway.pool.models.values())
        assert [one.id for one in models] == [f"m{n}" for n in range(5)]
        assert [one.kind for one in models] == ["completion"] * 2 + ["chat"] * 3
        assert "more than 2 models" in models[-1].decision.doubt


async def test_workers_ask_once_together(tmp_path: Path) -> None:
    asked = 0

    async def probe() -> Any:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.1)
        return judge.Decision("completion", "it rambles")

    decisions = await asyncio.gather(*(judge.decide_once(tmp_path, "key", 0.0, probe) for _ in range(4)))
    assert asked == 1
    assert {one.kind for one in decisions} == {"completion"}
    await judge.decide_once(tmp_path, "key", (tmp_path / "kind-key").stat().st_mtime + 1, probe)
    assert asked == 2, "a decision from before the backend was away is not used"
