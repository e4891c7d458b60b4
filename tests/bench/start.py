"""Measures the time from `make run` to the first aligned answer, and prints a table that is on no page.

    python -m tests.bench.start              with the environment in place: 3 runs
    python -m tests.bench.start --runs 5     with the environment in place: 5 runs

The bench works in a copy of the repository's files. For the row "from nothing", there is no .venv, the cache has no
weights, and pip's cache is empty. "Ready" is the time until `make run` says that the proxy is ready. The answer has 24
tokens, with greedy decoding.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.test_repository import ROOT, tracked_files

PORT = 18391
MODEL = "google/gemma-3-270m"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs with the environment in place [3]")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="drpo-start-") as folder:
        project = copied(Path(folder, "project"))
        environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache", "PIP_CACHE_DIR": f"{folder}/pip"}
        print("| `make run` | ready | first answer |\n| --- | --- | --- |")
        ready, answered = first_answer(project, environment)
        print(f"| from nothing | {ready:.1f} s | {answered:.1f} s |")
        times = [first_answer(project, environment) for _ in range(runs)]
        ready, answered = (statistics.median(values) for values in zip(*times, strict=True))
        print(f"| environment in place, median of {runs} | {ready:.1f} s | {answered:.1f} s |")


def copied(project: Path) -> Path:
    """Copy the files of the repository, without ignored files."""
    for path in tracked_files():
        target = project / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return project


def first_answer(project: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """Return the seconds until the command reports that it is ready, and until the end of the first answer."""
    start = time.monotonic()
    with make_run(project, environment, PORT):
        ready = time.monotonic() - start
        ask()
        return ready, time.monotonic() - start


@contextmanager
def make_run(project: Path, environment: Mapping[str, str], port: int) -> Iterator[str]:
    """Run `make run` and yield its output once it is ready.

    Raises:
        RuntimeError: The command ended before it was ready.
    """
    process = subprocess.Popen(
        ["make", "run", f"ARGS=--port {port}"],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    try:
        output = []
        for line in process.stdout:
            output.append(line)
            if line.startswith("Stop with"):
                break
        else:
            raise RuntimeError("".join(output))
        yield "".join(output)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.communicate()


def ask() -> None:
    """Send one short question. It raises an error if there is no answer."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "What is DNA?"}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/chat/completions",
        json.dumps({**body, "max_tokens": 24, "temperature": 0}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        assert response.headers["x-drpo-variant"] == "aligned"
        assert json.load(response)["choices"][0]["message"]["content"]


if __name__ == "__main__":
    main()
