"""Measures how long `drpo-optimizer harvest` takes for a large store, and how much memory it needs.

    python -m tests.bench.feedback.harvest [--exposures 50000] [--folder DIR] [--postgresql URL]

The store holds synthetic requests: short questions of many users. One in ten is rated, one in fifty has a comment, and
one in twenty is asked again. A quarter of the answers is streamed. The time to write the store is not measured. The
harvest then runs in a process of its own, whose highest memory is printed.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from proxy.experiments.records import Content, Exposure, Feedback
from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.store import Batch, Store

_BATCH: Final = 1_000
_SUBJECTS: Final = ("tea", "rain", "iron", "chess", "honey", "stars", "bread", "ships", "maps", "wool")
_ASPECTS: Final = ("history", "colour", "price", "origin", "taste", "weight", "name", "future")
_MIB: Final = 1024  # KiB; ru_maxrss counts KiB on Linux


def main() -> None:
    """Write a store, harvest it, and print the time and the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exposures", type=int, default=50_000, help="requests in the store [50000]")
    parser.add_argument("--folder", type=Path, help="where the store and the harvest stay [a temporary folder]")
    parser.add_argument("--postgresql", help="the URL of an empty database, in place of an SQLite file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        store = options.postgresql or f"sqlite:{folder}/store.sqlite3"
        started = time.monotonic()
        write_store(store, options.exposures)
        print(f"{options.exposures:,} exposures written in {time.monotonic() - started:.0f} s", flush=True)
        measure(store, folder / "harvest")


def measure(store: str, out: Path) -> None:
    """Harvest a store in a process of its own, and print the time and the highest memory."""
    command = [sys.executable, "-m", "optimizer", "harvest", "--store", store, "--out", str(out), "--yes"]
    started = time.monotonic()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"harvest: {time.monotonic() - started:.0f} s, {cpu:.0f} s of CPU, {used.ru_maxrss / _MIB:,.0f} MiB at most")


def write_store(store: str, count: int) -> None:
    """Write synthetic requests with their texts and feedback."""
    rng = random.Random(0)
    with Store(dsn_of(store)) as opened:
        for start in range(0, count, _BATCH):
            exposures, contents, feedback = [], [], []
            for number in range(start, min(start + _BATCH, count)):
                exposure, content, votes = _request(number, rng)
                exposures.append(exposure)
                contents.append(content)
                feedback += votes
            opened.write(Batch(exposures, contents, (), feedback))


def _request(number: int, rng: random.Random) -> tuple[Exposure, Content, Sequence[Feedback]]:
    is_again = number % 20 == 1
    topic = number - 1 if is_again else number
    identity = number.to_bytes(16)
    query = f"Tell me about the {_ASPECTS[topic % 8]} of {_SUBJECTS[topic % 10]}, case {topic // 3}."
    words = rng.choices(_SUBJECTS + _ASPECTS, k=rng.randint(20, 120))
    exposure = Exposure(
        id=identity,
        experiment="bench",
        arm="a",
        propensity=0.5,
        override=False,
        unit=f"user {topic // 12}".encode(),
        request_id=f"request-{number}",
        completion_id=f"chatcmpl-{number}",
        time=1_700_000_000.0 + number,
        model="m",
        variant="aligned",
        bundle=None,
        asked=b"%d" % topic,
        latency=1.0,
        time_to_first_token=None,
        prompt_tokens=20,
        completion_tokens=80,
        ended_by_itself=True,
        truncated=False,
        error=False,
        client_gone=False,
    )
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": query}]})
    answer = f"Case {number}: {' '.join(words)}."
    return exposure, Content(identity, body, _reply(answer, is_stream=number % 4 == 0)), list(_feedback(number, rng))


def _reply(answer: str, *, is_stream: bool) -> str:
    if not is_stream:
        return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": answer}}]})
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "google/gemma-3-270m"}
    parts = (
        json.dumps({**chunk, "choices": [{"index": 0, "delta": {"content": f"{word} "}}]}) for word in answer.split()
    )
    return "".join(f"data: {part}\n\n" for part in parts) + "data: [DONE]\n\n"


def _feedback(number: int, rng: random.Random) -> Iterator[Feedback]:
    if number % 10 == 0:
        value = float(rng.random() < 0.7)
        yield Feedback(f"request-{number}", "thumbs_up", value, None, 1_800_000_000.0)
    if number % 50 == 0:
        yield Feedback(f"chatcmpl-{number}", "comment", None, f"Comment {number}: too long.", 1_800_000_000.0)


if __name__ == "__main__":
    main()
