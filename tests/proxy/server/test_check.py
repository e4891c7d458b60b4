"""Tests what `drpo-proxy check` and the start print about the kinds of models, on scripted servers."""

import asyncio
import io
import re
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from typing import Any

import pytest
from rich.console import Console

from index.version import version_line
from proxy.backends.kinds.probe import QUESTIONS
from proxy.server.announcement import announcer
from proxy.server.check import check
from proxy.server.service import Status, status
from tests.clock import MovedClock
from tests.faults.scripted import Received, Reply, Script, scripted_backend
from tests.proxy.backends.kinds.test_kinds_served import (
    CUT,
    ENDS,
    LOOP,
    PARIS,
    RAMBLE,
    always,
    by_question,
    counting,
)
from tests.proxy.serving import make_settings, serving


async def _printed(url: str, **values: Any) -> tuple[int, str]:
    output = io.StringIO()
    settings = make_settings(backend=(url,), **values)
    code = await check(settings, lambda _: None, Console(file=output, width=200))
    return code, output.getvalue()


@pytest.mark.parametrize(
    ("reported", "questions", "says", "warns"),
    [
        ("chat", always(PARIS), "scripted is a chat model: each of 3 short chat answers ends by itself.", ""),
        ("chat", always(RAMBLE), "an answer has the template token '<|im_end|>'; a text completion ends by", ""),
        ("chat", by_question(PARIS, PARIS, LOOP), "2 of 3 short chat answers end by themselves", "only 2 of 3"),
        ("unknown", always(CUT), "scripted is a completion model", "the only sign of a base model"),
        ("completion", always(PARIS), "scripted is a completion model: the server has no chat template for it.", ""),
    ],
)
async def test_check_says_which_kind_was_decided_and_why(
    reported: str, questions: Script, says: str, warns: str
) -> None:
    async with scripted_backend(always(ENDS), kind=reported, questions=questions) as backend:
        code, printed = await _printed(backend.url)
        assert printed.startswith(version_line())
        assert says in printed
        assert warns in printed
        assert ("warning:" in printed) == bool(warns)
        assert ("--kind scripted=" in printed) == bool(warns)
        assert code == 0


@pytest.mark.parametrize(
    ("listing", "answer_status", "says"),
    [
        ({"object": "list", "data": []}, "200 OK", "The backend lists no model. Load a model into it"),
        ({"data": [None, {"id": 5}]}, "200 OK", "The backend lists no model. Load a model into it"),
        ({"error": {"message": "no key"}}, "401 Unauthorized", "needs a key. Put it into a file, and give --backend-a"),
        ({"error": "forbidden"}, "403 Forbidden", "needs a key. Put it into a file, and give --backend-api-key-file"),
        ({"detail": "Not Found"}, "404 Not Found", "must be the base URL of an OpenAI-compatible server, such as http"),
        ({"models": [{"name": "scripted"}]}, "200 OK", "GET /v1/models answered 200 without a list of models."),
    ],
)
async def test_check_says_what_to_do_about_a_backend_without_models(
    listing: Any, answer_status: str, says: str
) -> None:
    async def lists(reply: Reply, request: Received) -> None:
        await reply.whole(listing, answer_status)

    async with scripted_backend(always(ENDS), listing=lists) as backend:
        code, printed = await _printed(backend.url)
    assert code == 1
    assert f"problem: {backend.url}: " in printed
    assert says in printed
    assert "Everything fits" not in printed


async def test_check_says_nothing_about_bundles_while_no_backend_answers() -> None:
    async with scripted_backend(always(ENDS)) as backend:
        code, printed = await _printed(backend.url, bundle=("my-base=hand-written",))
        assert (code, printed.count("problem: ")) == (1, 1)
        assert "is for my-base, which no backend lists (listed: scripted)" in printed
        assert "give --bundle scripted=hand-written\n" in printed
    code, printed = await _printed(backend.url, bundle=("my-base=hand-written",))
    assert (code, printed.count("problem: ")) == (1, 1)
    assert f"problem: {backend.url}: " in printed


async def test_check_says_that_the_kind_was_given() -> None:
    async with scripted_backend(always(ENDS), kind="chat", questions=always(PARIS)) as backend:
        _, printed = await _printed(backend.url, kind=("scripted=completion",))
        assert "scripted is a completion model: --kind says so." in printed


async def test_check_waits_for_a_slow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.backends.pool._KINDS_PATIENCE", 0.1)

    async def slow(reply: Any, request: Any) -> None:
        await asyncio.sleep(0.5)
        await always(RAMBLE)(reply, request)

    for reported in ("chat", "unknown"):
        async with scripted_backend(always(ENDS), kind=reported, questions=slow) as backend:
            code, printed = await _printed(backend.url)
            assert "scripted is a completion model" in printed
            assert (code, "warning" in printed) == (0, False)


async def test_start_warns_of_a_doubtful_kind() -> None:
    async with scripted_backend(always(ENDS), kind="chat", questions=always(CUT)) as backend:
        async with serving(backend.url) as proxy:
            (warning,) = status(proxy.gateway).warnings
            assert warning.startswith("scripted is served as a completion model, but ")
    async with scripted_backend(always(ENDS), kind="chat") as backend, serving(backend.url) as proxy:
        assert status(proxy.gateway).warnings == ()


async def test_workers_ask_the_model_once_together() -> None:
    asked: list[Received] = []
    async with scripted_backend(always(ENDS), kind="chat", questions=counting(asked)) as backend:
        command = (sys.executable, "-m", "proxy", "--backend", backend.url, "--port", "0", "--workers", "3")
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
        assert process.stdout is not None
        try:
            while b"Stop with Ctrl-C" not in (line := await process.stdout.readline()):
                assert line, "the server did not start"
        finally:
            process.terminate()
            await process.communicate()
    assert len(asked) == len(QUESTIONS)


def _caching(*, reports: bool, caches: bool) -> Script:
    """Return a script of a server with or without a prefix cache, which reports usage as OpenAI does or not at all."""
    known: set[bytes] = set()
    clock = MovedClock()

    async def script(reply: Reply, request: Received) -> None:
        words, cached = len(request.body.split()), caches and request.body in known
        known.add(request.body)
        if not reports:
            await clock.forward(0 if cached or words < 100 else 20)
        usage = {"prompt_tokens": words, "prompt_tokens_details": {"cached_tokens": words if cached else 0}}
        await reply.whole({**ENDS, "usage": usage if reports else None})

    return script


@pytest.mark.parametrize("reports", [True, False], ids=["reports tokens", "reports nothing"])
@pytest.mark.parametrize(
    ("caches", "says"),
    [
        (True, "the prefix cache of {url} for scripted works: "),
        (False, "warning: the prefix cache of {url} for scripted does nothing: "),
    ],
)
async def test_check_says_whether_the_prefix_cache_works(caches: bool, says: str, reports: bool) -> None:
    async with scripted_backend(_caching(reports=reports, caches=caches)) as backend:
        code, printed = await _printed(backend.url)
        assert says.format(url=backend.url) in printed
        assert ("--enable-prefix-caching" in printed) is not caches
        assert code == 0


async def test_check_says_which_bundle_a_model_gets_and_why() -> None:
    async with scripted_backend(always(ENDS)) as backend:
        code, printed = await _printed(backend.url, bundle=("default",))
        because = "because no bundle of drpo was learned for scripted."
        assert f"scripted gets the bundle hand-written, {because}" in printed
        assert "note: The bundle hand-written was written for google/gemma-3-270m" in printed
        assert code == 0
        _, printed = await _printed(backend.url, bundle=("scripted=hand-written",))
        assert "scripted gets the bundle hand-written, because --bundle names it for this model." in printed


def test_the_start_says_which_bundle_the_model_gets_and_why() -> None:
    output = io.StringIO()
    console = Console(file=output, width=200)
    chosen = {"b": "learned-chat, because it was learned for b"}
    ready = Status(("a", "b"), ("b",), (), keyed=False, chosen=chosen)
    announcer(console)("http://127.0.0.1:1/v1", None, ready)
    assert "\nBundle    learned-chat, because it was learned for b\n" in output.getvalue()
    announcer(console)("http://127.0.0.1:1/v1", None, Status(("a",), (), (), keyed=False))
    assert output.getvalue().count("Bundle    ") == 1


@pytest.mark.parametrize("models", [("a",), ()])
def test_the_start_names_the_store_and_the_experiments(models: tuple[str, ...]) -> None:
    """Also while the server waits for a backend. The password of a store is not printed."""
    for store, experiments, line in (
        ("sqlite:a b.db", ("tone", "old (ended)"), "sqlite:a b.db     (experiments: tone, old (ended))"),
        ("postgresql://u:secret@h/d", (), "postgresql://h/d     (no experiments)"),
        ("", (), ""),
    ):
        output = io.StringIO()
        announce = announcer(Console(file=output, width=200), (), store)
        announce("http://127.0.0.1:1/v1", None, Status(models, (), ("down",), keyed=False, experiments=experiments))
        printed = output.getvalue()
        assert (f"\nStore     {line}\n" in printed) == bool(store)
        assert "secret" not in printed
        assert ("Store" in printed) == bool(store)


@pytest.mark.parametrize(
    ("flag", "model", "listed", "advice"),
    [
        ("my-base=hand-written", "my-base", ("a",), "--bundle a=hand-written"),
        ("hand-written", "google/gemma-3-270m", ("a",), "--bundle a=hand-written"),
        ("my-base=default", "my-base", ("a", "b"), "--bundle MODEL=default"),
    ],
)
def test_the_start_says_how_to_serve_a_bundle_for_a_listed_model(
    flag: str, model: str, listed: tuple[str, ...], advice: str
) -> None:
    output = io.StringIO()
    announce = announcer(Console(file=output, width=200), (flag,))
    announce("http://127.0.0.1:1/v1", None, Status(listed, (model,), (), keyed=False))
    assert f"A bundle is for {model}, but backends list only {', '.join(listed)}. " in output.getvalue()
    assert f"for a listed model, give {advice}\n" in output.getvalue()


def test_the_calls_that_the_start_prints_have_a_key_if_the_server_requires_one() -> None:
    shown = []
    for keyed in (False, True):
        output = io.StringIO()
        announcer(Console(file=output, width=200))("http://127.0.0.1:1/v1", None, Status(("a",), (), (), keyed=keyed))
        shown.append(output.getvalue())
    assert ["Authorization" in one for one in shown] == [False, True]
    assert ['api_key="any"' in one for one in shown] == [True, False]
    calls = shown[1].replace("drpo-...", "drpo-mine")
    (curl,) = re.findall(r"^KEY=.*\ncurl .*\\\n.*$", calls, re.MULTILINE)
    told = subprocess.run(["sh", "-c", f'curl() {{ printf "%s\\n" "$@"; }}\n{curl}'], capture_output=True, check=True)
    assert b"Authorization: Bearer drpo-mine\n-d\n{" in told.stdout
    assert 'api_key="drpo-mine"' in calls


async def test_check_tries_the_cache_with_the_model_that_has_a_bundle() -> None:
    script = _caching(reports=True, caches=True)
    async with scripted_backend(script, second_model="other") as backend:
        _, printed = await _printed(backend.url, bundle=("other=default",), kind=("other=completion",))
        assert f"the prefix cache of {backend.url} for other works" in printed
        assert "for scripted" not in printed
        assert {one.json["model"] for one in backend.generating} == {"other"}


async def test_check_says_that_it_cannot_tell_whether_the_prefix_cache_works() -> None:
    async with scripted_backend(always({"error": {"message": "no"}}, "400 Bad Request")) as backend:
        code, printed = await _printed(backend.url)
        assert (
            f"it is not known whether the prefix cache of {backend.url} for scripted works: /v1/completions" in printed
        )
        assert code == 0
