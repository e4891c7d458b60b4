"""Guards the child process with the real model: it answers, its death is noticed, and it never outlives its parent."""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from proxy.backends.embedded.child_process import MODEL_NAME, EmbeddedModel
from proxy.backends.embedded.weights import Weights
from proxy.core.errors import EmbeddedError

PARENT = """
import asyncio, sys
from proxy.backends.embedded.child_process import EmbeddedModel

async def main():
    model = EmbeddedModel()
    starting = asyncio.create_task(model.start(lambda _: None))
    while model.pid is None:
        await asyncio.sleep(0.01)
    if sys.argv[1] == "ready":
        await starting
    print(model.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
async def model() -> AsyncIterator[EmbeddedModel]:
    model = EmbeddedModel(context=1024)
    yield model
    await model.stop()


async def _ask(
    model: EmbeddedModel, url: str, body: dict[str, Any] | None = None, key: str | None = None
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {model.api_key if key is None else key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.request("POST" if body else "GET", url, json=body) as response:
            return response.status, await response.json()


async def _gone(pid: int) -> bool:
    for _ in range(1200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        await asyncio.sleep(0.05)
    return False


async def test_model_answers_requests_with_its_key_only_and_stops_without_a_process_left(model: EmbeddedModel) -> None:
    url = await model.start(lambda _: None)
    pid = model.pid
    assert pid
    _, models = await _ask(model, f"{url}/v1/models")
    assert [card["id"] for card in models["data"]] == [MODEL_NAME]
    prompt = {"prompt": "The capital of France is", "max_tokens": 3, "temperature": 0}
    _, answer = await _ask(model, f"{url}/v1/completions", prompt)
    assert answer["choices"][0]["text"].strip()
    assert answer["usage"]["prompt_tokens"] == 6, "five words and the beginning-of-text token"
    assert (await _ask(model, f"{url}/v1/completions", prompt, key="wrong"))[0] == 401
    assert model.api_key not in " ".join(psutil.Process(pid).cmdline())
    await model.stop()
    assert not psutil.pid_exists(pid)
    assert not model.exited.is_set()


async def test_prompt_longer_than_the_context_of_a_slot_is_refused(model: EmbeddedModel) -> None:
    url = await model.start(lambda _: None)
    status, answer = await _ask(model, f"{url}/v1/completions", {"prompt": "word " * 1100, "max_tokens": 1})
    assert (status, answer["error"]["n_ctx"]) == (400, 1024), "neither four slots' context, nor a quarter of it"


async def test_model_list_answers_while_requests_wait_for_a_slot(model: EmbeddedModel) -> None:
    url = await model.start(lambda _: None)
    story = {"prompt": "Once upon a time", "max_tokens": 1000, "temperature": 0, "ignore_eos": True}
    stories = [asyncio.create_task(_ask(model, f"{url}/v1/completions", story)) for _ in range(12)]
    await asyncio.sleep(0.5)
    assert (await _ask(model, f"{url}/v1/models"))[0] == 200
    assert not any(task.done() for task in stories), "the health check waited for an answer to end"
    for task in stories:
        task.cancel()
    await asyncio.gather(*stories, return_exceptions=True)


async def test_death_of_the_child_sets_exited_and_the_model_can_be_restarted(model: EmbeddedModel) -> None:
    await model.start(lambda _: None)
    key, pid = model.api_key, model.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(model.exited.wait(), 60)
    url = await model.start(lambda _: None)
    assert not model.exited.is_set()
    assert model.api_key != key
    assert (await _ask(model, f"{url}/v1/models"))[0] == 200


async def test_failed_start_sets_exited(model: EmbeddedModel, tmp_path: Path) -> None:
    model._weights = _garbage(tmp_path)
    model._cache = tmp_path / "cache"
    with pytest.raises(EmbeddedError):
        await model.start(lambda _: None)
    assert model.exited.is_set()


@pytest.mark.parametrize("when", ["loading", "ready"])
async def test_child_ends_when_its_parent_is_killed(when: str) -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, when, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout
    pid = int(await parent.stdout.readline())
    assert psutil.pid_exists(pid)
    parent.kill()
    await parent.wait()
    assert await _gone(pid)


async def test_child_that_does_not_react_is_killed(model: EmbeddedModel) -> None:
    await model.start(lambda _: None)
    pid = model.pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
        await asyncio.sleep(0.01)
    await asyncio.wait_for(model.stop(), 60)
    assert not psutil.pid_exists(pid)


async def test_cancelled_start_leaves_no_process(model: EmbeddedModel) -> None:
    starting = asyncio.create_task(model.start(lambda _: None))
    while not (pid := model.pid):
        await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not psutil.pid_exists(pid)


async def test_invalid_weights_are_reported_with_the_end_of_the_log(tmp_path: Path) -> None:
    model = EmbeddedModel(tmp_path / "cache", weights=_garbage(tmp_path))
    with pytest.raises(EmbeddedError, match=r"(?s)did not start: .*failed to load model"):
        await model.start(lambda _: None)


async def test_missing_extra_is_reported_with_the_install_command(
    model: EmbeddedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(EmbeddedError, match=r"xllamacpp.*pip install 'drpo-proxy\[embedded\]'"):
        await model.start(lambda _: None)


@pytest.mark.parametrize("context", [1, 511, 32769])
async def test_context_out_of_range_is_reported_with_the_flag(context: int) -> None:
    with pytest.raises(EmbeddedError, match=f"--context {context}"):
        await EmbeddedModel(context=context).start(lambda _: None)


def _garbage(folder: Path) -> Weights:
    content = b"no model at all"
    (folder / "chunk").write_bytes(content)
    return Weights("garbage.gguf", hashlib.sha256(content).hexdigest(), lambda: [folder / "chunk"])
