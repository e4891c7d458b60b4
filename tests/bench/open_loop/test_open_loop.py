"""Guards the open-loop benchmark: what client and backend count, the search for the knee, the page and the picture."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.bench.open_loop import page
from tests.bench.open_loop.chart import draw
from tests.bench.open_loop.figures import (
    CPU_RATES,
    MIX,
    OURS,
    ROUTER,
    TWO,
    Cpu,
    Figures,
    Knees,
    Search,
    read,
    write,
)
from tests.bench.open_loop.knee import Criteria, find
from tests.bench.open_loop.plan import (
    DIRECT,
    GATEWAY,
    QUERY_LENGTH,
    Arrival,
    Shape,
    Target,
    arrivals,
    encoded,
    known_queries,
    poisson,
)
from tests.bench.open_loop.programs import Programs, backend, build_programs
from tests.bench.open_loop.step import (
    DEGRADED,
    FAILED,
    RESULT,
    TIMEOUT,
    WHOLE,
    Bench,
    Step,
    measure,
    run_client,
    summary,
)
from tests.bench.peers.gateways import Gateway
from tests.bench.peers.machine import CannotRunError

WORDS = ("how", "do", "rainbows", "bend", "light")
EVENT = b'data: {"choices":[{"delta":{"content":" word"}}]}\n\n'
STEP = Step(10.0, 100, 0, 0, 1.0, 1.0, 5.0, 1.0, 0.1, 26.0, 9.0, 0.3)


@pytest.fixture(scope="module")
def programs() -> Programs:
    try:
        return build_programs(print)
    except CannotRunError as error:
        pytest.skip(str(error))


def test_streams_of_a_step_come_whole_and_in_order(programs: Programs) -> None:
    with backend(programs, 40, core=None) as running:
        bench = Bench(programs, running, WORDS, pace=40, seconds=1.5)
        step = measure(bench, Gateway(running.url, running.pid), 20.0, Shape("", tokens=20, new=0.2), "seed")
        stats = running.take_stats()
    assert (step.failed, step.degraded) == (0, 0)
    assert 5 < step.requests < 60
    assert stats["tokens"] == 20 * stats["streams"]


def test_times_of_a_request_are_in_order_and_count_from_the_plan(programs: Programs) -> None:
    planned = [Arrival(at, GATEWAY, "Why?") for at in (0.1, 0.1, 0.2)]
    with backend(programs, 200, core=None) as running:
        results, _ = run_client(programs, encoded(planned, [Target(running.port, "m", {})], 5))
    assert (results["flags"] == WHOLE).all()
    assert (results["tokens"] == 5).all()
    assert list(results["at"]) == [0.1, 0.1, 0.2]
    for earlier, later in (("at", "started"), ("started", "headers"), ("headers", "first"), ("first", "last")):
        assert (results[earlier] <= results[later]).all(), later


def test_base_model_gets_a_text_stream_and_a_plain_request_a_plain_reply(programs: Programs) -> None:
    with backend(programs, 200, core=None) as running:
        streamed = asyncio.run(post(running.port, "/v1/completions", b'{"stream":true,"max_tokens":3}', b"[DONE]"))
        plain = asyncio.run(post(running.port, "/v1/chat/completions", b'{"max_tokens":3}', b'"}]'))
    assert streamed.count(b'"text":" word"') == 3
    assert b'"finish_reason":"length"' in streamed
    assert b'"message"' in plain


async def post(port: int, path: str, body: bytes, until: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    said = b""
    async with asyncio.timeout(20):
        while until not in said and (data := await reader.read(65536)):
            said += data
    writer.close()
    return said


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def reply(body: bytes, status: str = "200 OK", header: str = "Transfer-Encoding: chunked") -> bytes:
    return f"HTTP/1.1 {status}\r\n{header}\r\n\r\n".encode() + body


GOOD = chunked(EVENT, EVENT, b"data: [DONE]\n\n") + b"0\r\n\r\n"
LENGTH = f"Content-Length: {len(EVENT) * 2 + 14}"


@pytest.mark.parametrize(
    ("said", "flags", "status"),
    [
        pytest.param(reply(GOOD), WHOLE, 200, id="whole"),
        pytest.param(reply(EVENT + EVENT + b"data: [DONE]\n\n", header=LENGTH), WHOLE, 200, id="whole, without chunks"),
        pytest.param(
            reply(GOOD, header="x-drpo-reduced: timeout\r\nTransfer-Encoding: chunked"),
            WHOLE | DEGRADED,
            200,
            id="degraded",
        ),
        pytest.param(reply(chunked(EVENT, b"data: [DONE]\n\n") + b"0\r\n\r\n"), FAILED, 200, id="a token is missing"),
        pytest.param(reply(chunked(EVENT, EVENT) + b"0\r\n\r\n"), FAILED, 200, id="no end"),
        pytest.param(reply(chunked(EVENT)), FAILED, 200, id="cut off"),
        pytest.param(reply(b"", "503 Service Unavailable", "Content-Length: 0"), FAILED, 503, id="refused"),
        pytest.param(b"", FAILED, 0, id="no reply"),
    ],
)
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_client_counts_what_a_reply_says_however_it_is_cut(
    said: bytes, flags: int, status: int, piece: int, programs: Programs
) -> None:
    results = asyncio.run(ask(programs, said, piece))
    assert [(int(one["flags"]), int(one["status"])) for one in results] == [(flags, status)] * 2


async def ask(programs: Programs, said: bytes, piece: int) -> np.ndarray:
    """Return what the client reports about two successive requests to a server that gives this reply."""
    planned = [Arrival(0.0, GATEWAY, "Why?"), Arrival(0.1, GATEWAY, "Why?")]
    async with server(said, piece) as port:
        plan = encoded(planned, [Target(port, "m", {})], 2)
        return (await asyncio.to_thread(run_client, programs, plan))[0]


@asynccontextmanager
async def server(said: bytes, piece: int) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(said), piece):
            writer.write(said[start : start + piece])
            await writer.drain()
        writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with running:
        yield running.sockets[0].getsockname()[1]


async def test_requests_are_sent_although_earlier_ones_have_no_answer(programs: Programs) -> None:
    """The server answers when all requests have arrived. A client that waits for answers would not send them all."""
    arrived = asyncio.Barrier(5)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await arrived.wait()
        writer.write(reply(GOOD))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as running:
        target = Target(running.sockets[0].getsockname()[1], "m", {})
        plan = encoded([Arrival(number / 10, GATEWAY, "Why?") for number in range(5)], [target], 2)
        results, about = await asyncio.to_thread(run_client, programs, plan)
    assert list(results["flags"]) == [WHOLE] * 5
    assert about["open_most"] == 5


def test_requests_to_a_closed_port_fail(programs: Programs) -> None:
    with backend(programs, 200, core=None) as running:
        port = running.port
    results, _ = run_client(programs, encoded([Arrival(0.0, GATEWAY, "Why?")], [Target(port, "m", {})], 2))
    assert list(results["flags"]) == [FAILED]


def test_arrivals_are_as_many_and_as_new_as_planned() -> None:
    found = arrivals(100.0, 40.0, Shape("", 1, new=0.2), WORDS, "seed")
    ours = [one for one in found if one.target == GATEWAY]
    known = set(known_queries(WORDS))
    assert [one.at for one in found] == sorted(one.at for one in found)
    assert len(ours) == pytest.approx(4_000, rel=0.08)
    assert sum(one.target == DIRECT for one in found) == pytest.approx(200, rel=0.3)
    assert {len(one.query) for one in found} == {QUERY_LENGTH}
    new = [one.query for one in found if one.query not in known]
    assert len(new) == pytest.approx(0.2 * len(found), rel=0.1)
    assert len(set(new)) == len(new)


def test_gaps_between_arrivals_vary_as_those_of_a_poisson_process() -> None:
    gaps = np.diff(list(poisson(10.0, 1000.0, random.Random("seed"))))
    assert float(np.std(gaps)) == pytest.approx(float(np.mean(gaps)), rel=0.05)


def results_of(*times: tuple[float, int, float, int]) -> np.ndarray:
    """Return results of requests that took 1 s. Each argument: (arrival, target, seconds to the first token, flags)."""
    results = np.zeros(len(times), RESULT)
    for one, (at, target, to_first, flags) in zip(results, times, strict=True):
        one["at"], one["target"], one["flags"] = at, target, flags
        one["first"], one["ended"] = (at + to_first, at + 1) if to_first else (0, 0)
    return results


ALSO = {"cpu": 1.0, "busy": 0.1, "gap": 25.0}


def test_added_time_is_what_the_gateway_takes_longer_than_the_backend() -> None:
    results = results_of((1, DIRECT, 0.025, WHOLE), (1, GATEWAY, 0.027, WHOLE), (2, GATEWAY, 0.035, WHOLE))
    step = summary(results, 1.0, 1.0, 2.0, ALSO)
    assert (step.p50, step.p99) == pytest.approx((10, 10))


def test_warm_up_counts_for_failures_but_not_for_times() -> None:
    results = results_of((0.5, GATEWAY, 9.0, FAILED), (1, DIRECT, 0.025, WHOLE), (1.5, GATEWAY, 0.026, WHOLE))
    step = summary(results, 1.0, 1.0, 2.0, ALSO)
    assert step.failed == 1
    assert step.p99 == pytest.approx(1)


def test_requests_that_were_never_sent_are_failed_and_slow() -> None:
    results = results_of(*[(1.0, target, 0, 0) for target in (GATEWAY, DIRECT)])
    step = summary(results, 1.0, 1.0, 2.0, ALSO)
    assert (step.failed, step.p99, step.late_p99) == (1, 1e3 * TIMEOUT, 0)


def test_streams_that_end_late_are_not_completed() -> None:
    results = results_of(*[(at / 10, GATEWAY, 0.1, WHOLE) for at in range(20)], (1, DIRECT, 0.025, WHOLE))
    assert summary(results, 10.0, 1.0, 1.0, ALSO).completed == 1
    results["ended"][5:] += 2
    assert summary(results, 10.0, 1.0, 1.0, ALSO).completed == 0.5


def gateway_with(faulty: Callable[[float], dict[str, float]]) -> Callable[[float], Step]:
    return lambda rate: replace(STEP, rate=rate, **faulty(rate))


@pytest.mark.parametrize(
    "faulty",
    [{"failed": 1}, {"degraded": 1}, {"p99": 500.0}, {"completed": 0.9}, {"p99": 60.0}],
    ids=str,
)
def test_knee_is_the_highest_rate_without_a_fault(faulty: dict[str, float]) -> None:
    found = find(gateway_with(lambda rate: faulty if rate > 130 else {}), 25.0, Criteria())
    assert 130 / 1.1 < found.rate <= 130
    assert found.is_limit
    assert [step.rate for step in found.steps] == sorted(step.rate for step in found.steps)


def test_rate_that_misses_the_bound_by_little_is_tried_twice() -> None:
    tried: list[float] = []

    def once_slow(rate: float) -> Step:
        tried.append(rate)
        return replace(STEP, rate=rate, p99=60.0 if tried.count(rate) == 1 and rate == 50 else 5.0)

    assert find(once_slow, 25.0, Criteria(largest=100)).rate == 100
    assert tried.count(50) == 2


def test_slow_client_ends_the_search_without_a_verdict_on_the_gateway() -> None:
    found = find(gateway_with(lambda rate: {"busy": 0.95} if rate > 60 else {}), 25.0, Criteria())
    assert (found.rate, found.is_limit) == (50, False)


def test_search_ends_for_a_gateway_that_serves_no_rate() -> None:
    assert find(gateway_with(lambda rate: {"failed": 1}), 25.0, Criteria()).rate == 0


def knees() -> Knees:
    searches = {
        name: Search(find(gateway_with(lambda rate, most=most: {"failed": rate > most}), 25.0, Criteria()), STEP)
        for name, most in ((OURS, 90), (TWO, 90), (ROUTER, 100))
    }
    return Knees("2026-01-01", "command", "machine", 10.0, 50.0, searches)


def cpu() -> Cpu:
    rates = {shape.name: rate for shape, rate in CPU_RATES.items()}
    times = {OURS: 10.0, TWO: 12.0, ROUTER: 8.0}
    return Cpu("2026-01-01", "c", "m", rates, {name: dict.fromkeys(rates, [time] * 3) for name, time in times.items()})


def test_goals_are_judged_and_missing_figures_are_named() -> None:
    goals = page.goals(Figures(knees(), cpu()))
    assert "5.0 ms: met" in goals
    assert "0.84: met" in goals
    assert "0 failed, 0 degraded at half of the knee: met" in goals
    assert f"1.00 at {STEP.rate:.3g} requests/s, 1.00 at 84.1 requests/s: met" in goals
    assert "1.20 (median of 3 turns, 1.20 to 1.20): **missed**" in page.goals(Figures(None, cpu()))
    assert page.goals(Figures(None, None)).count(page.MISSING) == 4


def test_two_workers_must_meet_their_goal_at_half_of_the_knee_too() -> None:
    found = knees()
    dear = replace(found.searches[TWO], half=replace(STEP, cpu=1.2 * STEP.cpu))
    goals = page.goals(Figures(replace(found, searches={**found.searches, TWO: dear}), None))
    assert f"1.20 at {STEP.rate:.3g} requests/s, 1.00 at 84.1 requests/s: **missed**" in goals
    elsewhere = replace(dear, half=replace(STEP, rate=2 * STEP.rate, cpu=1.2 * STEP.cpu))
    goals = page.goals(Figures(replace(found, searches={**found.searches, TWO: elsewhere}), None))
    assert "| 1.00 at 84.1 requests/s: met" in goals


def test_goals_are_not_judged_where_the_client_was_the_limit() -> None:
    found = knees()
    open_end = replace(found.searches[ROUTER].knee, is_limit=False)
    router = {ROUTER: replace(found.searches[ROUTER], knee=open_end)}
    assert "not decided" in page.goals(Figures(replace(found, searches={**found.searches, **router}), None))


def test_cpu_time_of_a_step_with_degraded_requests_is_no_figure() -> None:
    times: dict[str, dict[str, list[float | None]]] = {name: {MIX.name: [10.0, 10.0]} for name in (OURS, TWO)}
    times[TWO][MIX.name][0] = None
    found = replace(cpu(), rates={MIX.name: 5.0}, milliseconds=times)
    assert page.ratios(found, TWO, OURS) == [1.0]
    assert found.times(TWO, MIX) == [10.0]
    times[TWO][MIX.name][1] = None
    assert f"| {TWO} | {page.MISSING} |" in page.cpu(found)


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    write(Figures(None, cpu()), file)
    write(Figures(knees(), None), file)
    assert read(file).cpu == cpu()
    assert read(file).knees is not None
    assert page.knees(read(file).knees) == page.knees(knees())


def test_page_and_picture_say_what_was_measured() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.written(text, read()), "run `python -m tests.bench.open_loop.page`"
    found = read().knees
    if found:
        assert page.PICTURE.read_text(encoding="utf-8") == draw(found)


def test_picture_names_each_gateway_with_its_knee() -> None:
    drawn = draw(knees())
    ElementTree.fromstring(drawn)
    for name, search in knees().searches.items():
        assert f"{name}: knee at {search.knee.rate:.3g}/s" in drawn
    assert MIX.tokens == 200
