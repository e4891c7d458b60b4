"""Guards that a fault of one backend does not affect the requests to the others."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from proxy.backends import pool
from proxy.backends.load_balancing import BackendHealth
from tests.faults.scripted import Received, Reply, ScriptedBackend, completion, scripted_backend
from tests.proxy.serving import Serving, serving, until

Script = Callable[[Reply, Received], Awaitable[None]]
QUIET = {"connect_timeout": 10.0, "health_interval": 60.0}


async def answer(reply: Reply, request: Received) -> None:
    await reply.whole(completion("Yes."))


async def hang(reply: Reply, request: Received) -> None:
    await asyncio.sleep(60)


async def close(reply: Reply, request: Received) -> None:
    reply.writer.close()


def status(code: int) -> Script:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole(b'{"error": {"message": "busy"}}', f"{code} Whatever")

    return script


def hits(*backends: ScriptedBackend) -> list[int]:
    return [len(backend.generating) for backend in backends]


async def test_backend_that_fails_requests_is_ejected_even_if_it_answers_health_checks() -> None:
    async with scripted_backend(status(502)) as broken, scripted_backend(answer) as well:
        async with serving(broken.url, well.url, bundles={}, health_interval=0.05) as proxy:
            for backend in proxy.gateway.pool.backends:
                backend.health = BackendHealth(lambda: 1000.0)  # so that the ejection does not end meanwhile
                backend.health.record_check(answering=True)
            statuses = [(await proxy.chat(f"question {n}"))[0] for n in range(60)]
            checked = _checks(broken)
            await until(lambda: _checks(broken) >= checked + 3)
            statuses += [(await proxy.chat(f"another {n}"))[0] for n in range(20)]
            assert len(broken.generating) == statuses.count(502) == 3
            assert proxy.gateway.pool.backends[0].healthy
            assert "drpo_backend_ejections_total" in await _metrics(proxy)


async def test_ejected_backend_returns_after_its_ejection_time() -> None:
    clock = [1000.0]
    async with scripted_backend(close) as flapping, scripted_backend(answer) as well:
        async with serving(flapping.url, well.url, bundles={}, **QUIET) as proxy:
            for backend in proxy.gateway.pool.backends:
                backend.health = BackendHealth(lambda: clock[0])
                backend.health.record_check(answering=True)
            for number in range(40):
                await proxy.chat(f"question {number}")
            assert not proxy.gateway.pool.backends[0].health.available
            flapping.script = answer
            before = hits(flapping)
            assert {(await proxy.chat(f"question {n}"))[0] for n in range(20)} == {200}
            assert hits(flapping) == before
            clock[0] += 30
            assert {(await proxy.chat(f"question {n}"))[0] for n in range(40)} == {200}
            assert hits(flapping) > before


async def test_last_backend_is_never_ejected() -> None:
    async with scripted_backend(status(502)) as only, serving(only.url, bundles={}, **QUIET) as proxy:
        for _ in range(10):
            assert (await proxy.chat())[0] == 502
        only.script = answer
        assert (await proxy.chat())[0] == 200


async def test_requests_that_cause_status_500_eject_no_backend() -> None:
    async with scripted_backend(status(500)) as one, scripted_backend(status(500)) as two:
        async with serving(one.url, two.url, bundles={}, **QUIET) as proxy:
            for number in range(30):
                await proxy.chat(f"question {number}")
            assert all(backend.health.available for backend in proxy.gateway.pool.backends)


async def test_hung_backend_does_not_delay_requests_to_others() -> None:
    async with scripted_backend(hang) as hung, scripted_backend(answer) as one, scripted_backend(answer) as two:
        async with serving(hung.url, one.url, two.url, bundles={}, **QUIET) as proxy:
            asking = [asyncio.create_task(proxy.chat(f"question {n}")) for n in range(100)]
            async with asyncio.timeout(60):  # all but those that hang are answered
                while sum(task.done() for task in asking) < len(asking) - hits(hung)[0]:
                    await asyncio.sleep(0.01)
            stuck = [task for task in asking if not task.done()]
            assert {task.result()[0] for task in asking if task.done()} == {200}
            assert len(stuck) == hits(hung)[0]
            assert len(stuck) <= 100 * 1.25 / 3 + 1, "no more than its share of what is in flight"
            later = await asyncio.wait_for(asyncio.gather(*(proxy.chat(f"later {n}") for n in range(30))), 60)
            assert {reply[0] for reply in later} == {200}, "a backend with open requests is passed over"
            for task in stuck:
                task.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)


async def test_hung_health_check_does_not_delay_other_checks() -> None:
    async with scripted_backend(answer) as hung, scripted_backend(answer) as well:
        async with serving(hung.url, well.url, bundles={}, health_interval=0.05):
            hung.listing = hang
            checks, of_hung = _checks(well), _checks(hung)
            await until(lambda: _checks(well) >= checks + 5)
            assert _checks(hung) <= of_hung + 2, "one that had begun, and one that hangs"


async def test_503_is_retried_once_on_another_backend() -> None:
    async with scripted_backend(status(503)) as one, scripted_backend(answer) as two:
        async with serving(one.url, two.url, bundles={}, **QUIET) as proxy:
            assert {(await proxy.chat(f"question {n}"))[0] for n in range(6)} == {200}
    async with scripted_backend(status(503)) as one, scripted_backend(status(503)) as two:
        async with scripted_backend(status(503)) as three:
            async with serving(one.url, two.url, three.url, bundles={}, **QUIET) as proxy:
                code, _, reply = await proxy.chat()
                assert (code, reply) == (503, {"error": {"message": "busy"}})
                assert sum(hits(one, two, three)) == 2


@pytest.mark.parametrize("code", [429, 500, 502])
async def test_status_other_than_503_is_not_retried(code: int) -> None:
    async with scripted_backend(status(code)) as one, scripted_backend(status(code)) as two:
        async with serving(one.url, two.url, bundles={}, **QUIET) as proxy:
            assert (await proxy.chat())[0] == code
            assert sum(hits(one, two)) == 1


async def test_retry_budget_limits_the_retries_of_failing_backends() -> None:
    gates = asyncio.Event(), asyncio.Event()

    async def busy(reply: Reply, request: Received) -> None:
        await gates[sum(hits(one, two)) > 50].wait()
        await status(503)(reply, request)

    async with scripted_backend(busy) as one, scripted_backend(busy) as two:
        async with serving(one.url, two.url, bundles={}, **QUIET) as proxy:
            asking = [asyncio.create_task(proxy.chat(f"question {n}")) for n in range(50)]
            async with asyncio.timeout(60):
                while sum(hits(one, two)) < 50:
                    await asyncio.sleep(0.01)
                gates[0].set()
                while sum(task.done() for task in asking) < 40 or sum(hits(one, two)) < 60:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert sum(hits(one, two)) == 60, "a fifth of 50 may be on their second try"
            gates[1].set()
            assert {reply[0] for reply in await asyncio.gather(*asking)} == {503}


async def test_turns_of_a_conversation_share_a_backend_and_conversations_spread() -> None:
    async with scripted_backend(answer) as one, scripted_backend(answer) as two:
        async with serving(one.url, two.url, **QUIET) as proxy:
            number = 0
            while number < 12 or not min(hits(one, two)):  # which backend a conversation gets depends on their ports
                assert number < 100, "all conversations have the same backend"
                before = hits(one, two)
                await _converse(proxy, f"What is the number {number}?")
                after = hits(one, two)
                assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0, 3]
                number += 1


async def _busy(reply: Reply, _: Received) -> None:
    await reply.whole({}, "429 Too Many Requests")


async def test_model_whose_kind_cannot_be_found_out_does_not_hide_the_other_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "_KIND_TIMEOUT", 0.1)
    async with scripted_backend(answer, second_model="mystery", questions=_busy) as backend:
        async with serving(backend.url, bundles={}, **QUIET) as proxy:
            assert (await proxy.chat())[0] == 200
            code, headers, reply = await proxy.chat(model="mystery")
            assert (code, reply["error"]["code"]) == (503, "backend_unavailable")
            assert "Retry-After" in headers
            assert "--kind mystery=chat" in proxy.gateway.pool.backends[0].problem
            assert "429" in proxy.gateway.pool.backends[0].problem


async def _converse(proxy: Serving, question: str) -> None:
    messages: list[dict[str, Any]] = []
    for text in (question, "And then?", "Thanks."):
        messages.append({"role": "user", "content": text})
        status_, _, reply = await proxy.post("/v1/chat/completions", {"model": "scripted", "messages": messages})
        assert status_ == 200
        messages.append(reply["choices"][0]["message"])


def _checks(backend: ScriptedBackend) -> int:
    return sum(one.path == "/v1/models" for one in backend.received)


async def _metrics(proxy: Serving) -> str:
    async with proxy.session.get("/metrics") as response:
        return await response.text()
