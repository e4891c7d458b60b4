"""Repeats the tests that depend on time on a busy machine, and reports which of them failed how often.

    make flaky                         20 repeats of the tests in tests/timing.txt
    make flaky ARGS="--repeats 3"      fewer repeats
    make flaky ARGS="--only streams"   only tests with this text in their name

Meanwhile two processes keep two cores busy. Each repeat is a separate run of pytest. The exit status is 1 if any test
failed in any repeat, because its result then depends on time or on other tests.
"""

import argparse
import multiprocessing
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
TESTS: Final = Path(__file__).with_name("timing.txt")
BUSY_PROCESSES: Final = 2
_TIMEOUT: Final = 3600.0  # seconds for each repeat


def listed() -> list[str]:
    """Return the ids of the listed tests, without parameters."""
    lines = TESTS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def main() -> int:
    """Run the tests and print a report. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20, help="number of repeats (%(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only tests with this text in their name")
    options = parser.parse_args()
    tests = [test for test in listed() if options.only in test]
    failures: Counter[str] = Counter()
    with _busy():
        for number in range(options.repeats):
            failed = _failed(tests)
            failures.update(failed)
            print(f"repeat {number + 1} of {options.repeats}: {', '.join(failed) or 'all passed'}", flush=True)
    for test, count in failures.most_common():
        print(f"{count} of {options.repeats} failed: {test}")
    return 1 if failures else 0


@contextmanager
def _busy() -> Iterator[None]:
    """Keep two cores busy."""
    busy = [multiprocessing.Process(target=_compute, daemon=True) for _ in range(BUSY_PROCESSES)]
    for one in busy:
        one.start()
    try:
        yield
    finally:
        for one in busy:
            one.terminate()
            one.join()


def _compute() -> None:
    while True:
        sum(range(100_000))


def _failed(tests: Sequence[str]) -> list[str]:
    """Return the tests that fail in one repeat."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--tb=short",
            f"--junitxml={report}",
            *tests,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        if done.returncode:
            print(done.stdout[-8000:], done.stderr[-2000:], flush=True)
        if not report.exists():
            return ["pytest itself"]
        cases = ElementTree.parse(report).iter("testcase")
        failed = [one for one in cases if one.find("failure") is not None or one.find("error") is not None]
        names = [f"{one.get('classname')}::{one.get('name')}" for one in failed]
        return names or ["pytest itself"] * bool(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
