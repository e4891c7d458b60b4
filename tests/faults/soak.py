"""The soak test: twenty minutes of load and faults, in which memory must not grow and every request must end correctly.

    make soak                       20 minutes
    make soak ARGS="--minutes 2"

The real command runs with two workers, in front of four scripted backends in another process. Two dozen clients with
different behaviours select a mixture of faults, and the configuration is reloaded each minute. Each answer is checked
when it is received. Memory, files and threads of the workers are measured every few seconds. The exit status is 1 if a
fault does not explain the end of a request, if the proxy counted other statuses than the clients, or if the median of a
measurement grew from the second quarter to the last.
"""

import argparse
import asyncio
import os
import random
import re
import statistics
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGHUP

import aiohttp
from rich.console import Console

from tests.faults.catalogue import FAULTS, play
from tests.faults.history import Asked, client_violations
from tests.faults.process import ROOT, children
from tests.faults.scripted import scripted_backend
from tests.faults.visitor import BEHAVIOURS, ClientRequest, visit

CLIENTS = 24
LOOK_EVERY = 5.0  # seconds
RELOAD_EVERY = 60.0
MEGABYTE = 2**20
MAY_GROW = {"memory": 8 * MEGABYTE, "files": CLIENTS, "threads": 0}
"""The allowed growth of the median from the second quarter to the last.

The memory of an allocator varies a little, and the number of open connections varies by up to the number of clients. A
slower leak of files is found at the end, when no more files may be open than at the beginning.
"""


@dataclass(frozen=True, slots=True)
class Look:
    """One measurement of all workers together.

    Attributes:
        memory: Resident bytes.
        files: Open files.
        threads: Threads.
        answered: The requests that had ended by then.
    """

    memory: int
    files: int
    threads: int
    answered: int


@dataclass(slots=True)
class Findings:
    """The results of a run.

    Attributes:
        ends: Requests by fault and end, as the clients recorded them.
        statuses: Requests by status, without those whose client left.
        left: Requests whose client left.
        wrong: Violations.
        looks: Measurements.
    """

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    left: int = 0
    wrong: list[str] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    def note(self, asked: Asked) -> None:
        """Check and count one request."""
        self.wrong += client_violations(asked)
        self.ends[asked.fault, _end(asked)] += 1
        if asked.left:
            self.left += 1
        else:
            self.statuses[asked.status or 0] += 1


def _end(asked: Asked) -> str:
    if asked.left:
        return "the client left"
    cut = asked.stream and asked.status == 200 and b"[DONE]" not in asked.body
    return f"{asked.status}{', cut with an error event' if cut else ''}"


async def soak(minutes: float, console: Console) -> int:
    """Run, print the results, and return the exit status."""
    findings = Findings()
    async with _backends() as urls, _proxy(urls) as (process, url):
        idle = await _settled(process)
        await _load(process, url, minutes * 60, findings, console)
        after = await _settled(process, idle.files)
        counted = await _counted(url)
    complaints = [*findings.wrong[:20], *_miscounts(findings, counted), *_growth(findings.looks)]
    if after.files > idle.files:
        complaints.append(f"{after.files} files are open when all is over, {idle.files} were before it began")
    for line in (*_looks_table(idle, findings, after), "", *_ends_table(findings), *_verdict(complaints)):
        print(line)
    return 1 if complaints else 0


async def _load(process: Process, url: str, seconds: float, findings: Findings, console: Console) -> None:
    end = time.monotonic() + seconds
    clients = [asyncio.create_task(_client(number, url, end, findings)) for number in range(CLIENTS)]
    next_reload = time.monotonic() + RELOAD_EVERY
    with console.status("soaking") as status:
        while time.monotonic() < end:
            await asyncio.sleep(min(LOOK_EVERY, max(0.0, end - time.monotonic())))
            look = _look(process, sum(findings.ends.values()))
            findings.looks.append(look)
            if time.monotonic() > next_reload:
                process.send_signal(SIGHUP)
                next_reload += RELOAD_EVERY
            left = end - time.monotonic()
            progress = (
                f"{left:4.0f} s left, {look.answered} requests, {look.memory / MEGABYTE:.0f} MB, {look.files} files, "
            )
            status.update(f"{progress}{len(findings.wrong)} unexplained")
            if not console.is_terminal and len(findings.looks) % 12 == 0:
                console.print(f"{progress}{len(findings.wrong)} unexplained")
    await asyncio.gather(*clients)


async def _client(number: int, url: str, end: float, findings: Findings) -> None:
    chance = random.Random(number)
    for count in range(sys.maxsize):
        if time.monotonic() > end:
            return
        fault = chance.choices(["none", "slow", chance.choice(sorted(FAULTS))], [60, 15, 25])[0]
        behaviour = chance.choices(["reads", chance.choice(BEHAVIOURS)], [70, 30])[0]
        kind, stream = chance.choice(["chat", "completion"]), chance.random() < 0.7
        request = ClientRequest(f"soak-{number}-{count}", kind, fault, stream, behaviour, chance.random() < 0.5)
        findings.note(await visit(url, request))


def _look(process: Process, answered: int = 0) -> Look:
    memory = files = threads = 0
    for pid in children(process.pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            memory += 1024 * int(re.findall(r"VmRSS:\s+(\d+)", status)[0])
            threads += int(re.findall(r"Threads:\s+(\d+)", status)[0])
            files += len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
    return Look(memory, files, threads, answered)


async def _settled(process: Process, files: int = 0) -> Look:
    """Measure when no request runs and idle connections are closed, which takes a few seconds."""
    look = _look(process)
    for _ in range(40):
        await asyncio.sleep(0.5)
        look = _look(process)
        if look.files <= files:
            break
    return look


async def _counted(url: str) -> Counter[int]:
    """Return the requests by status, as the proxy counted them."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        page = await response.text()
    counted: Counter[int] = Counter()
    for status, count in re.findall(r'^drpo_requests_total\{.*status="(\d+)".*\} (\S+)', page, re.MULTILINE):
        counted[int(status)] += int(float(count))
    return counted


def _miscounts(findings: Findings, counted: Counter[int]) -> Iterator[str]:
    """Compare the counts. The proxy may count a client that left under any status, or not at all."""
    surplus = counted - findings.statuses
    missing = findings.statuses - counted
    if missing:
        yield f"the proxy counted fewer than the clients saw: {dict(missing)}"
    if sum(surplus.values()) > findings.left:
        yield f"the proxy counted more than the clients saw, beyond those {findings.left} who left: {dict(surplus)}"


def _growth(looks: Sequence[Look]) -> Iterator[str]:
    for name, allowed in MAY_GROW.items():
        grown = _quarter(looks, name, 3) - _quarter(looks, name, 1)
        if grown > allowed:
            yield f"{name} grew by {grown:.0f} from the second quarter to the last ({allowed} are allowed)"


def _quarter(looks: Sequence[Look], name: str, quarter: int) -> float:
    size = max(1, len(looks) // 4)
    return statistics.median(getattr(look, name) for look in looks[quarter * size : (quarter + 1) * size] or looks[-1:])


def _looks_table(idle: Look, findings: Findings, after: Look) -> Iterator[str]:
    yield "| | requests so far | memory of both workers | open files | threads |"
    yield "| --- | --- | --- | --- | --- |"
    yield _row("idle, before", 0, idle.memory, idle.files, idle.threads)
    for quarter, name in enumerate(("first", "second", "third", "last")):
        median = [_quarter(findings.looks, what, quarter) for what in ("answered", "memory", "files", "threads")]
        yield _row(f"{name} quarter, median", *median)
    yield _row("idle, after", sum(findings.ends.values()), after.memory, after.files, after.threads)


def _row(name: str, requests: float, memory: float, files: float, threads: float) -> str:
    return f"| {name} | {requests:,.0f} | {memory / MEGABYTE:.0f} MB | {files:.0f} | {threads:.0f} |"


def _ends_table(findings: Findings) -> Iterator[str]:
    yield "| fault | ends, as clients saw them |\n| --- | --- |"
    for fault in FAULTS:
        ends = sorted((end, count) for (name, end), count in findings.ends.items() if name == fault)
        yield f"| {fault} | {'; '.join(f'{end}: {count:,}' for end, count in ends)} |"


def _verdict(complaints: Sequence[str]) -> Iterator[str]:
    yield f"\n{'Nothing grew, and every end is explained.' if not complaints else 'Not good:'}"
    yield from (f"* {complaint}" for complaint in complaints)


@asynccontextmanager
async def _proxy(urls: Sequence[str]) -> AsyncIterator[tuple[Process, str]]:
    """Run the real command without its log."""
    arguments = [sys.executable, "-m", "proxy", "--port", "0", "--workers", "2", "--bundle", "completion=default"]
    arguments += ["--backend-timeout", "2", "--connect-timeout", "1", "--log-format", "json", "--admin", "off"]
    for url in urls:
        arguments += ["--backend", url]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=PIPE, stderr=DEVNULL, cwd=ROOT)
    try:
        assert process.stdout is not None
        while line := (await process.stdout.readline()).decode():
            if line.startswith("Base URL"):
                yield process, line.split()[2].removesuffix("/v1")
                return
        raise SystemExit("drpo-proxy did not start")
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@asynccontextmanager
async def _backends() -> AsyncIterator[list[str]]:
    """Run two backends of each kind in another process, and yield their URLs."""
    arguments = [sys.executable, "-c", "from tests.faults.soak import serve_backends; serve_backends()"]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield (await process.stdout.readline()).decode().split()
    finally:
        process.kill()
        await process.wait()


def serve_backends() -> None:
    """Serve four backends until killed. The first printed line has their URLs."""

    async def serve() -> None:
        async with (
            scripted_backend(play, model="chat", kind="chat", keeps=False) as one,
            scripted_backend(play, model="chat", kind="chat", keeps=False) as two,
            scripted_backend(play, model="completion", keeps=False) as three,
            scripted_backend(play, model="completion", keeps=False) as four,
        ):
            print(*(backend.url for backend in (one, two, three, four)), flush=True)
            await asyncio.Event().wait()

    asyncio.run(serve())


def main() -> None:
    """Run the soak test and exit with its status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="how long [20]")
    sys.exit(asyncio.run(soak(parser.parse_args().minutes, Console(stderr=True))))


if __name__ == "__main__":
    main()
