"""Asks questions drawn at random, with the default bundle and raw: docs/benchmarks/drawn-answers.md.

    python -m tests.bench.drawn_answers            prints the page
    python -m tests.bench.drawn_answers --write    writes the page

The real proxy answers one question at a time, with the embedded model and greedy decoding. An answer has at most 128
tokens, as in `drpo-proxy fit`. Answers that were generated before come from the cache of
tests/bench/policies/answer_cache.py, so an interrupted run continues where it stopped.
"""

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from time import perf_counter
from typing import Final

import aiohttp

from index.bundle.bundle import default_bundle_directory, read_manifest
from index.model_names import VARIANT_HEADER
from proxy.backends.embedded.model_file import MODEL_NAME
from proxy.core.variant_names import ALIGNED, RAW
from proxy.fit.client import MAX_ANSWER_TOKENS
from proxy.fit.questions import SHIPPED, Question, read_questions, wire_messages
from tests.bench.bundle_answers import served_from
from tests.bench.drawn_answers.draw import README_QUESTIONS, drawn
from tests.bench.drawn_answers.page import PAGE, Answer, Pair, page
from tests.bench.embedders import say
from tests.bench.policies.answers import cached_backend, serving

_REPORTED: Final = 10  # questions between two lines of progress


def main() -> None:
    """Ask the questions, and print or write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.drawn_answers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="write the page")
    options = parser.parse_args()
    questions, directory = drawn(), default_bundle_directory()
    pairs = asyncio.run(_ask_all((*questions, *README_QUESTIONS)))
    count, total = len(questions), len(read_questions(SHIPPED))
    date = datetime.now(UTC).date().isoformat()
    text = page(pairs[:count], pairs[count:], total, read_manifest(directory).name, date)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
        say(f"written: {PAGE.name}")
    else:
        print(text)


async def _ask_all(questions: Sequence[Question]) -> list[Pair]:
    served = served_from(default_bundle_directory())
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        cached_backend() as backend,
        serving(backend, served) as url,
        aiohttp.ClientSession(timeout=timeout) as to,
    ):
        return [
            Pair(one, await _ask(to, url, ALIGNED, one), await _ask(to, url, RAW, one)) for one in _reporting(questions)
        ]


async def _ask(session: aiohttp.ClientSession, url: str, variant: str, question: Question) -> Answer:
    """Ask a question once. If it gets fewer examples, exit: the answer would not show the effect of the bundle."""
    fields = {"model": MODEL_NAME, "max_tokens": MAX_ANSWER_TOKENS, "temperature": 0}
    body = {**fields, "messages": wire_messages(question)}
    async with session.post(f"{url}/chat/completions", json=body, headers={VARIANT_HEADER: variant}) as response:
        reply = await response.json()
        if response.status != 200:
            raise SystemExit(f"drawn_answers: {question.id}: {reply}")
        if reduced := response.headers.get("x-drpo-reduced"):
            raise SystemExit(
                f"drawn_answers: {question.id} got fewer examples ({reduced}): run it on a quieter machine"
            )
    (choice,) = reply["choices"]
    return Answer(choice["message"]["content"], choice["finish_reason"])


def _reporting(questions: Sequence[Question]) -> Iterator[Question]:
    """Yield the questions, and report how many are done, and about how long the others take."""
    started = perf_counter()
    for done, question in enumerate(questions):
        yield question
        if (done + 1) % _REPORTED == 0:
            rest = (perf_counter() - started) / (done + 1) * (len(questions) - done - 1)
            say(f"{done + 1} of {len(questions)} questions, about {rest / 60:.1f} minutes left")


if __name__ == "__main__":
    main()
