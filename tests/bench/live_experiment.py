"""Runs two experiments on the embedded model and prints whether a winner is found: reports of docs/experiments.md.

    python -m tests.bench.live_experiment --queries references.jsonl --folder DIR [--count 300]

The experiment `aligned-or-raw` compares the default bundle with `raw-matched`. The experiment `answers-moved` compares
the default bundle with a bundle in which each answer belongs to another query. The two experiments share a layer, and
each has half of the units. Each query is a unit. The metrics need no feedback. The store stays in the folder with the
experiment files, for `drpo-proxy experiment report`. The queries are a JSONL file with the field `query`. This
repository contains none.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import aiohttp

from index.bundle.bundle import default_bundle_directory, read_bundle, write_bundle
from index.bundle.bundle_input import BundleInput
from index.embedders.registry import open_embedder
from proxy.backends.embedded.model_file import MODEL_NAME

_PORT: Final = 8195
_TOKENS: Final = 80
_CONCURRENCY: Final = 2

_ARMS: Final = """
models = ["{model}"]
layer = "bench"
slots = {slots}
metrics = ["ended_by_itself", "completion_tokens", "latency", "error"]

[[arms]]
name = "{control}"
{of_control}
weight = 50

[[arms]]
name = "{treatment}"
{of_treatment}
weight = 50
"""


def main() -> None:
    """Run both experiments and print their reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=Path, help="JSONL with the field `query`")
    parser.add_argument("--folder", type=Path, help="where the store and the files stay")
    parser.add_argument("--count", type=int, default=300, help="requests [300]")
    parser.add_argument("--skip", type=int, default=0, help="queries of an earlier run that are left out [0]")
    options = parser.parse_args()
    if options.queries is None or options.folder is None:
        print("not run: it needs --queries and --folder")
        return
    rows = [json.loads(line) for line in options.queries.read_text(encoding="utf-8").splitlines()]
    queries = [row["query"] for row in rows if row.get("split") != "sealed"]
    queries = queries[options.skip : options.skip + options.count]
    options.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(_run(options.folder, queries))


def _write_files(folder: Path) -> list[Path]:
    _move_answers(folder / "moved")
    aligned = 'variant = "aligned"'
    files = {
        "aligned-or-raw": ("[0.0, 0.5]", "raw-matched", 'variant = "raw-matched"', "aligned", aligned),
        "answers-moved": ("[0.5, 1.0]", "aligned", aligned, "moved", 'bundle = "moved"'),
    }
    for name, (slots, control, of_control, treatment, of_treatment) in files.items():
        text = _ARMS.format(
            model=MODEL_NAME,
            slots=slots,
            control=control,
            of_control=of_control,
            treatment=treatment,
            of_treatment=of_treatment,
        )
        (folder / f"{name}.toml").write_text(f'name = "{name}"\ncontrol = "{control}"{text}', encoding="utf-8")
    return [folder / f"{name}.toml" for name in files]


def _move_answers(directory: Path) -> None:
    """Write the default bundle with each answer moved to another example's query."""
    if directory.exists():
        return
    bundle = read_bundle(default_bundle_directory())
    answers = [example.response for example in bundle.examples]
    moved = [
        replace(example, response=answer)
        for example, answer in zip(bundle.examples, [*answers[1:], answers[0]], strict=True)
    ]
    manifest = bundle.manifest
    draft = BundleInput(
        name="moved",
        model=manifest.model,
        layout=manifest.layout,
        retrieval=manifest.retrieval,
        sampling=manifest.sampling,
        prompt=bundle.prompt,
        examples=tuple(moved),
        provenance={},
        sets=bundle.sets,
    )
    write_bundle(directory, draft, open_embedder(manifest.embedder.name))


async def _run(folder: Path, queries: Sequence[str]) -> None:
    files = _write_files(folder)
    store = f"sqlite:{folder / 'experiments.sqlite3'}"
    named = [part for file in files for part in ("--experiment", str(file))]
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", "--port", str(_PORT), "--workers", "2", "--store", store, *named,
        stderr=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, env=dict(os.environ),
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{_PORT}") as session:
            await _until_ready(session)
            turns = asyncio.Semaphore(_CONCURRENCY)
            await asyncio.gather(*(_ask(session, turns, number, query) for number, query in enumerate(queries)))
    finally:
        server.send_signal(signal.SIGTERM)
        await server.wait()
    for file in files:
        report = [sys.executable, "-m", "proxy", "experiment", "report", str(file), "--store", store]
        await (await asyncio.create_subprocess_exec(*report)).wait()


async def _until_ready(session: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(120):
        while True:
            try:
                async with session.get("/health/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)


async def _ask(session: aiohttp.ClientSession, turns: asyncio.Semaphore, number: int, query: str) -> None:
    unit = sha256(query.encode()).hexdigest()
    body = {"model": MODEL_NAME, "max_tokens": _TOKENS, "messages": [{"role": "user", "content": query[:500]}]}
    async with (
        turns,
        session.post("/v1/chat/completions", json=body, headers={"x-drpo-unit": unit}) as response,
    ):
        await response.read()
        if number % 50 == 0:
            print(f"... {number}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
