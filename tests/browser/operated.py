"""Runs a proxy with all that the operator page can show: bundles, experiments, feedback, and hard texts.

Hard texts are long, have no spaces, run from right to left, or contain markup. Names are as long as they may be. The
backend is scripted, because the tests check how texts look, and not what models answer.
"""

import asyncio
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from index.bundle.bundle import write_bundle
from index.bundle.bundle_input import BundleInput
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from index.types import Example, ExampleSet, RetrievalPolicy
from proxy.experiments.config import read_experiment
from proxy.experiments.definition import assign
from proxy.experiments.records import Content, Exposure, Feedback
from proxy.experiments.store.dsn import dsn_of
from proxy.experiments.store.store import Batch, Store
from tests.faults.scripted import Received, Reply, completion, completion_events, scripted_backend
from tests.proxy.experiments.store.test_store import exposure

MARKUP: Final = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> **bold**"
ARABIC: Final = "كيف يمكنني إعادة تعيين كلمة المرور؟ لقد نسيتها، والبريد (user@example.com) لا يصل."
HEBREW: Final = "איך מכינים קפה?"
UNBROKEN: Final = "https://example.com/" + "a-path-without-any-space" * 12
PARAGRAPHS: Final = "\n\n".join(f"Paragraph {number}. " + "Some words of a long answer. " * 12 for number in range(6))
MIXED: Final = f"An English paragraph (with brackets).\n\n{ARABIC}\n\n{HEBREW}"
HARD: Final = (MARKUP, UNBROKEN, ARABIC, MIXED, PARAGRAPHS)
ANSWER: Final = f"A short answer first.\n\n{ARABIC}\n\n{UNBROKEN}\n\n{PARAGRAPHS}"
LONG_NAME: Final = "an-experiment-with-a-name-of-sixty-characters-in-this-world"
ENDED: Final = "tone"
LONG_BUNDLE: Final = "A bundle with a name of sixty characters, which is very long"
ARABIC_BUNDLE: Final = "حزمة خدمة العملاء"
LONG_MODEL: Final = "an-organisation-with-a-long-name/a-model-with-a-long-name-7b-instruct-q4_k_m"
MODEL: Final = "scripted"
_DAY: Final = 86_400.0
_UNITS: Final = 900
_DAYS: Final = 9  # that an experiment lasts
_EXPERIMENT: Final = """
name = "{name}"
metrics = ["thumbs_up", "latency", "ended_by_itself", "a_metric_with_a_long_name_that_somebody_gave_it_in_a_hurry"]
control = "{control}"
{limit}
[[arms]]
name = "{control}"
variant = "aligned"
bundle = "{folder}/now"
weight = 50

[[arms]]
name = "{arm}"
variant = "aligned"
bundle = "{folder}/next"
weight = 50

[[guardrails]]
metric = "latency"
tolerance = 0.5
"""


@contextmanager
def operated(folder: Path) -> Iterator[str]:
    """Run the proxy during the block, and yield the URL of its page. The folder must be empty at first."""
    _write_bundles(folder)
    _write_experiments(folder)
    _fill_store(folder)
    with _backend() as backend, _proxy(folder, backend) as page:
        yield page


def _write_bundles(folder: Path) -> None:
    hard = [
        Example(f"hard-{number}", text, text, pinned=not number, tags=("hard",)) for number, text in enumerate(HARD)
    ]
    plain = [
        Example(f"plain-{number}", f"What is {number} times {number}?", f"It is {number**2}.", tags=("sums",))
        for number in range(70)
    ]
    shown = ("plain-1", "hard-2", "hard-1")
    sets = (
        ExampleSet("sums-and-other-plain-questions-that-a-pupil-could-ask-one-day", shown, ("plain-1", "plain-2")),
        ExampleSet("hard", shown, ("hard-1", "hard-2", "hard-3"), prompt=ARABIC),
    )
    policy = RetrievalPolicy(policy="set_and_nearest", k=2, minimum_similarity=0.0, max_injected_tokens=10_000)
    embedder = open_embedder(DEFAULT_EMBEDDER)
    for place, name, prompt, chosen in (
        ("now", LONG_BUNDLE, f"Answer well.\n\n{ARABIC}\n{UNBROKEN}", sets),
        ("next", ARABIC_BUNDLE, f"Answer well and briefly.\n\n{HEBREW}", sets[:1]),
    ):
        source = BundleInput(
            name, MODEL, "query-answer", prompt, [*hard, *plain], policy, {"max_tokens": 160}, {}, chosen
        )
        write_bundle(folder / place, source, embedder)


def _write_experiments(folder: Path) -> None:
    (folder / "experiments").mkdir()
    arms = {"control": "the-bundle-that-is-served-today-and-has-been-for-a-long-time", "arm": "the-next-bundle"}
    between = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - _DAYS * _DAY))
    for name, limit, named in (
        (LONG_NAME, f"start = {between}", arms),
        (ENDED, f"end = {between}", {"control": "now", "arm": "next"}),
    ):
        text = _EXPERIMENT.format(name=name, limit=limit, folder=folder, **named)
        (folder / "experiments" / f"{name}.toml").write_text(text, encoding="utf-8")


def _fill_store(folder: Path) -> None:
    """Store the requests of the two experiments, one after the other.

    Only in the one that ended do the bundles differ.
    """
    with Store(dsn_of(f"sqlite:{folder / 'store.sqlite3'}")) as store:
        for number, path in enumerate(sorted((folder / "experiments").iterdir())):
            store.write(_batch(path, number * _UNITS, gain=0.2 * number, first_day=-_DAYS * (1 + number)))
        store.write(_without_experiment(2 * _UNITS))


def _batch(path: Path, first: int, gain: float, first_day: int) -> Batch:
    experiment, dice, now = read_experiment(path).experiment, random.Random(3), time.time()
    exposures, feedback, contents = [], [], []
    for number in range(first, first + _UNITS):
        arm = assign(experiment, b"%016d" % number).name
        ahead = gain if arm != experiment.control else 0.0
        exposures.append(
            exposure(
                number,
                experiment=experiment.name,
                unit=b"%016d" % number,
                arm=arm,
                model=MODEL,
                time=now + _DAY * (first_day + _DAYS * (number - first) / _UNITS),
                latency=dice.lognormvariate(0.2, 0.5),
                ended_by_itself=dice.random() < 0.6 + ahead,
                example_set=dice.choice(("hard", "sums-and-other-plain-questions-that-a-pupil-could-ask-one-day")),
            )
        )
        likes = float(dice.random() < 0.5 + ahead)
        feedback.append(Feedback(exposures[-1].request_id, "thumbs_up", likes, None, now))
        if number % 40 == 0:
            feedback.append(Feedback(exposures[-1].request_id, "comment", None, dice.choice(HARD), now))
            contents.append(_content(exposures[-1], dice.choice(HARD)))
    return Batch(exposures, contents, feedback=feedback)


def _without_experiment(first: int) -> Batch:
    alone = [
        exposure(first + number, experiment="", arm="", model=MODEL, time=time.time()) for number in range(len(HARD))
    ]
    ratings = [
        Feedback(one.request_id, "thumbs_up", float(not number), None, one.time) for number, one in enumerate(alone)
    ]
    return Batch(alone, [_content(one, text) for one, text in zip(alone, HARD, strict=True)], feedback=ratings)


def _content(of: Exposure, question: str) -> Content:
    asked = json.dumps({"messages": [{"role": "user", "content": question}]})
    return Content(of.id, asked, json.dumps({"choices": [{"index": 0, "message": {"content": ANSWER}}]}))


async def _answer(reply: Reply, request: Received) -> None:
    """Answer a request for a stream with texts that are hard to show, and any other request briefly."""
    if request.method != "POST":
        await reply.whole({}, "404 Not Found")
    elif not request.json.get("stream"):
        await reply.whole(completion("Yes."))
    else:
        await reply.begin()
        for event in completion_events(re.findall(r"\S+\s*", ANSWER)):
            await reply.chunk(event)
        await reply.end()


@contextmanager
def _backend() -> Iterator[str]:
    """Run the backend in a thread of its own, because the browser's event loop occupies the thread of the test."""
    url: Future[str] = Future()
    stop = threading.Event()

    async def serve() -> None:
        async with scripted_backend(_answer, model=MODEL, second_model=LONG_MODEL, keeps=False) as backend:
            url.set_result(backend.url)
            await asyncio.to_thread(stop.wait)

    with ThreadPoolExecutor(1) as aside:
        serving = aside.submit(asyncio.run, serve())
        try:
            yield url.result(60)
        finally:
            stop.set()
            serving.result()


@contextmanager
def _proxy(folder: Path, backend: str) -> Iterator[str]:
    command = [sys.executable, "-m", "proxy", "--backend", backend, "--port", "0", "--store-content"]
    command += ["--store", f"sqlite:{folder / 'store.sqlite3'}", "--experiment", str(folder / "experiments")]
    command += ["--bundle", f"{MODEL}={folder / 'now'}", "--bundle", f"{LONG_MODEL}={folder / 'next'}"]
    log = folder / "server.log"
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as server:
        try:
            yield page_of(log, server)
        finally:
            server.terminate()


def page_of(log: Path, server: "subprocess.Popen[bytes]") -> str:
    """Return the URL of the page of a server that starts. `log` is what it prints."""
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        if found := re.search(r"Page +(\S+)", log.read_text()):
            return found[1]
        time.sleep(0.2)
    raise AssertionError(log.read_text())
