"""How long `make run` takes to its first aligned answer: from nothing, and with the environment in place.

    python -m tests.bench.start              prints the table
    python -m tests.bench.start --runs 5     more runs with the environment in place

Runs in a copy of the repository's files. From nothing means no .venv, no weights in the cache and an empty pip cache.
An answer is 24 greedy tokens; ready is when `make run` says so.
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
    """A copy of the repository's files, and of nothing else that lies there."""
    for path in tracked_files():
        target = project / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return project


def first_answer(project: Path, environment: Mapping[str, str]) -> tuple[float, float]:
    """Seconds from the command to its word that it is ready, and to the end of the first answer."""
    start = time.monotonic()
    with make_run(project, environment, PORT):
        ready = time.monotonic() - start
        ask()
        return ready, time.monotonic() - start


@contextmanager
def make_run(project: Path, environment: Mapping[str, str], port: int) -> Iterator[str]:
    """`make run`, once it is ready; gives what it said until then. Raises RuntimeError where it ends before."""
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
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Stop with"):
                break
        else:
            raise RuntimeError("".join(said))
        yield "".join(said)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.communicate()


def ask() -> None:
    """One short question; raises if it is not answered."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "What is a rainbow?"}]}
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
