"""Tests the verdicts of whole runs, with the real proxy in this process in front of scripted models."""

import asyncio
import io
import json
import os
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from index.bundle.bundle import default_bundle_directory
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from proxy.backends.dialects.registry import DIALECTS
from proxy.backends.discovery import Model
from proxy.core.errors import StartupError
from proxy.core.settings import InjectionSettings
from proxy.core.settings_reader import build_settings
from proxy.fit.arms import choose_model, load_for_model, models_of
from proxy.fit.client import PAUSES
from proxy.fit.questions import SHIPPED, mixed, read_questions
from proxy.fit.report import FitResult, print_result, result_json
from proxy.fit.session import FitOptions, measure_fit
from proxy.fit.verdict import Decision
from proxy.inference.injection.bundle_flags import parse_bundle_flag
from tests.faults.scripted import Received, Reply, Script, ScriptedBackend, completion_events, scripted_backend
from tests.index.shipped_library import CHAT_MODEL, Learned, write_library
from tests.proxy.fit import scripted_models as models

CONCURRENCY = 8
QUIET = Console(file=io.StringIO())


async def fit(
    backend: ScriptedBackend,
    *bundles: str,
    baseline: str = "raw",
    limit: int | None = None,
    messages: Console = QUIET,
    pauses: Sequence[float] = PAUSES,
    **settings: Any,
) -> FitResult:
    values = {"backend": (backend.url,), "bundle": bundles or ("default",), "retrieval_timeout": 30.0, **settings}
    questions = mixed(read_questions(SHIPPED), limit)
    options = FitOptions(questions, CONCURRENCY, baseline, pauses, ("--backend", backend.url))
    return await measure_fit(build_settings(values, {}), options, messages)


async def run_fit(script: Script, *bundles: str, kind: str = "chat", **options: Any) -> FitResult:
    async with scripted_backend(script, kind=kind) as backend:
        return await fit(backend, *bundles, **options)


def printed(result: FitResult) -> str:
    output = io.StringIO()
    print_result(result, Console(file=output, width=200))
    return output.getvalue()


def only(result: FitResult) -> Decision:
    (verdict,) = result.verdicts
    return verdict.decision


async def test_a_perfect_model_has_little_headroom() -> None:
    result = await run_fit(models.perfect)
    assert only(result) is Decision.LITTLE_HEADROOM
    assert result.verdicts[0].sentence.startswith("Little headroom: nearly all answers are sound without the bundle.")
    assert "gives sound answers to 74 of 74 harmless questions (raw: 74; difference +0.00 [" in printed(result)
    assert printed(result).rstrip().splitlines()[-1] == result.verdicts[0].sentence
    measures = {arm["name"]: arm["measures"] for arm in result_json(result)["arms"]}
    aligned = measures[result.arms.candidates[0].name]
    assert aligned["injected_tokens"]["estimate"] == 400.0
    assert aligned["uncached_tokens"]["estimate"] == 20.0
    assert measures["raw"]["uncached_tokens"]["estimate"] == 20.0
    expected = {"estimate": 1.0, "low": 0.923, "high": 1.0, "count": 46}
    assert aligned["right_refusals"] == pytest.approx(expected, abs=1e-3)
    assert aligned["wrong_refusals"]["estimate"] == 0.0


@pytest.mark.parametrize(
    "broken",
    [
        models.rambles,
        models.loops,
        models.is_silent,
        models.shouts,
        models.refuses_all,
        models.leaks_markers,
        models.leaks_control_tokens,
        models.answers_400,
        models.answers_500,
        models.answers_html,
    ],
)
async def test_a_model_that_breaks_under_a_system_prompt_is_harmed(broken: models.Break) -> None:
    result = await run_fit(models.breaking(broken), limit=40, pauses=(0.01, 0.02, 0.04))
    assert only(result) is Decision.HARMS
    assert result.verdicts[0].sentence.startswith("Harms: ")
    assert not result.outcomes.stopped


async def test_failed_questions_are_named_and_in_no_table() -> None:
    result = await run_fit(models.breaking(models.answers_400), limit=20)
    text = printed(result)
    name = result.arms.candidates[0].name
    assert f"{name} failed on 20 questions: 400: System role not supported (general-" in text
    assert "The tables leave out 20 questions" in text
    failures = result_json(result)["failures"]
    assert [(one["arm"], one["status"]) for one in failures] == [(name, 400)] * 20


async def test_a_base_model_that_only_the_examples_make_answer_is_helped() -> None:
    async def script(reply: Reply, request: Received) -> None:
        prompt = request.json["prompt"]
        is_aligned = prompt.endswith("# Answer:\n")
        question = prompt.removesuffix("\n\n# Answer:\n").rpartition("# Query:\n")[2]
        text = models.REFUSAL if question in models.HARMFUL else models.ANSWER
        pieces = (text, "stop") if is_aligned else ("and so on " * 30, "length")
        await reply.begin()
        for event in completion_events([pieces[0]], pieces[1]):
            await reply.chunk(event)
        await reply.end()

    result = await run_fit(script, kind="completion")
    assert only(result) is Decision.HELPS
    assert [arm.variant for arm in result.arms.all] == ["raw", "raw-matched", "aligned"]
    assert result.verdicts[0].sentence.startswith("Helps: ")


def half_right(reply: Reply, request: Received) -> Any:
    """Reply as a model that is right on about half of the questions, whatever the prompt."""
    text = request.json["messages"][-1]["content"]
    return models.send_text(reply, models.right_answer(request), "stop" if len(text) % 2 else "length")


def copy_of_default(folder: Path, name: str) -> str:
    """Copy the default bundle under another name, so that its id differs too."""
    copy = folder / name
    shutil.copytree(default_bundle_directory(), copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    (copy / "manifest.json").write_text(json.dumps({**manifest, "name": name}), encoding="utf-8")
    return str(copy)


@pytest.mark.parametrize("script", [models.perfect, half_right, models.breaking(models.rambles)])
async def test_verdict_on_a_bundle_and_its_copy_is_cannot_tell(script: Script, tmp_path: Path) -> None:
    result = await run_fit(script, copy_of_default(tmp_path, "copy"), baseline="default", limit=40)
    assert result.arms.baseline.served is not None
    assert result.arms.candidates[0].served is not None
    assert result.arms.baseline.served.id != result.arms.candidates[0].served.id
    assert only(result) is Decision.CANNOT_TELL
    assert result.verdicts[0].sentence.startswith("Cannot tell: the bundle and the baseline have equal shares.")


async def test_the_same_bundle_twice_has_two_names() -> None:
    result = await run_fit(half_right, "default", baseline="default", limit=10)
    assert only(result) is Decision.CANNOT_TELL
    assert len({arm.name for arm in result.arms.all}) == len(result.arms.all) == 4


async def test_several_bundles_get_a_verdict_each(tmp_path: Path) -> None:
    result = await run_fit(models.perfect, "default", copy_of_default(tmp_path, "other"), limit=40)
    assert [one.arm for one in result.verdicts] == [arm.name for arm in result.arms.candidates]
    assert {one.decision for one in result.verdicts} == {Decision.LITTLE_HEADROOM}


async def test_a_backend_that_dies_in_the_middle_stops_the_run_and_keeps_what_is_done() -> None:
    count = 0

    async def script(reply: Reply, request: Received) -> None:
        nonlocal count
        count += 1
        await (models.perfect(reply, request) if count <= 60 else models.answers_500(reply))

    result = await run_fit(script)
    assert result.outcomes.stopped == "500: template error"
    assert 8 <= len(result.outcomes.answered) < 60
    assert "Stopped, because no question was answered any more: 500: template error" in printed(result)
    assert only(result) is not Decision.HARMS


async def test_a_rate_limit_is_waited_for() -> None:
    refused = 0

    async def script(reply: Reply, request: Received) -> None:
        nonlocal refused
        refused += 1
        if refused % 7 == 0:
            await reply.whole({"error": {"message": "slow down"}}, "429 Too Many Requests", Retry_After="0")
        else:
            await models.perfect(reply, request)

    result = await run_fit(script, limit=12)
    assert refused > 36
    assert len(result.outcomes.answered) == 12


async def test_max_completion_tokens_replaces_a_limit_that_the_server_refuses() -> None:
    async def script(reply: Reply, request: Received) -> None:
        if "max_tokens" in request.json:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            await reply.whole({"error": {"message": message}}, "400 Bad Request")
        else:
            await models.perfect(reply, request)

    result = await run_fit(script, limit=8)
    assert len(result.outcomes.answered) == 8


async def test_each_arm_has_its_own_part_of_the_prefix_cache() -> None:
    async with scripted_backend(models.perfect, kind="chat") as backend:
        result = await fit(backend, limit=4)
        salts = {(models.has_system(one), one.json["cache_salt"]) for one in backend.generating}
    assert len(salts) == len(result.arms.all) == 3


@pytest.mark.parametrize("interrupted_at", [20, 90, 200])
async def test_an_interrupt_shows_what_is_done(interrupted_at: int) -> None:
    """The questions are asked in short rounds, so at most the answers of one round are missing."""
    count = 0

    async def script(reply: Reply, request: Received) -> None:
        nonlocal count
        count += 1
        if count == interrupted_at:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        await models.perfect(reply, request)

    result = await run_fit(script)
    assert result.signal == signal.SIGINT
    lost = result.outcomes.count - 3 * len(result.outcomes.answered)
    assert 0 <= lost <= 3 * 2 * CONCURRENCY
    assert len(result.outcomes.answered) >= 4
    assert f"Interrupted: {len(result.outcomes.attempted)} of 120 questions were asked in all arms." in printed(result)
    assert result_json(result)["interrupted"] is True


async def test_time_is_estimated_from_the_first_answers() -> None:
    messages = io.StringIO()
    await run_fit(models.perfect, limit=20, messages=Console(file=messages, width=200))
    assert "scripted: 20 questions in 3 arms (raw, raw-matched, " in messages.getvalue()
    assert re.search(r"The first 12 answers took \d+ s\. The other 48 take about \d+ s\.", messages.getvalue())


async def test_fit_says_which_bundle_default_means_and_why() -> None:
    result = await run_fit(models.perfect, "default", "hand-written", limit=10)
    says = "for this model, because no bundle of drpo was learned for scripted."
    names = [arm.name for arm in result.arms.candidates]
    assert [one.startswith("hand-written ") for one in names] == [True, True]
    assert f"`default` means {names[0]} {says}" in printed(result)
    assert f"`default` means {names[1]}" not in printed(result)
    reasons = [arm["bundle"]["reason"] for arm in result_json(result)["arms"] if arm["variant"] == "aligned"]
    assert reasons == ["no bundle of drpo was learned for scripted", None]


def test_default_is_the_bundle_of_the_measured_model(tmp_path: Path) -> None:
    library = write_library(tmp_path / "shipped", Learned("learned-chat"), embedder=open_embedder(DEFAULT_EMBEDDER))
    served = "Qwen/Qwen2.5-Coder-1.5B-Instruct"
    model, flags = Model(served, {"id": served}, "chat", DIALECTS[0], 4096), [parse_bundle_flag("default", library)]
    made_for = models_of(flags, InjectionSettings(), library)
    assert choose_model(flags, made_for, [served, "other"]) == served
    (loaded,) = load_for_model(flags, model, InjectionSettings(), library)
    assert loaded.served.bundle.manifest.name == "learned-chat"
    assert loaded.reason.startswith(f"it was learned for {CHAT_MODEL}")


async def test_no_backend_is_an_error_that_names_it() -> None:
    async with scripted_backend(models.perfect) as backend:
        pass
    with pytest.raises(StartupError, match=rf"{backend.url}: .*\. Run `drpo-proxy check --backend {backend.url}` to "):
        await fit(backend)


@pytest.mark.parametrize(
    ("bundles", "message"),
    [
        (("default",), r"Which model\? Name it with --bundle MODEL=DIR .*Listed: other, scripted\."),
        (("nobody=default",), r"No backend lists the model nobody\."),
        (("scripted=default", "other=default"), "one model at a time, not several: other, scripted"),
    ],
)
async def test_an_unclear_model_is_asked_for(bundles: Sequence[str], message: str) -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole({}, "404 Not Found")  # the proxy asks for the type of the server, and for nothing else

    async with scripted_backend(script, kind="chat", second_model="other") as backend:
        with pytest.raises(StartupError, match=message):
            await fit(backend, *bundles, kind=("other=chat",))


async def test_json_has_no_nan() -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole({"choices": [{"index": 0, "message": {"content": "Yes."}, "finish_reason": "stop"}]})

    result = await run_fit(script, limit=6)
    text = orjson.dumps(result_json(result))
    arms = orjson.loads(text)["arms"]
    assert {arm["measures"]["injected_tokens"]["estimate"] for arm in arms} == {None}
    assert {arm["measures"]["ends_by_itself"]["estimate"] for arm in arms} == {1.0}
    assert re.search(r"injected tokens \(0\) +not reported", printed(result))
