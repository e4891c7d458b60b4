"""Guards the log: if nobody reads it, lines are lost, but no time or memory, and the process still exits."""

import json
import os
import subprocess
import sys
from pathlib import Path

from proxy.core.log import LOGGER, MAX_QUEUED_LINES, log_event, log_failure, log_lines, lost_lines


def test_json_line_has_a_time_and_only_values_that_are_not_none(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file, log_lines("json", file):
        log_event("request", status=200, variant=None, text="größer\nline")
        try:
            raise ValueError("the key is secret")
        except ValueError as error:
            log_failure("defect", error)
    first, second = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    assert {**first, "time": ""} == {
        "time": "",
        "level": "info",
        "event": "request",
        "status": 200,
        "text": "größer\nline",
    }
    assert (second["error"], second["at"].split(":")[0]) == ("ValueError", "tests.proxy.core.test_log")
    assert "secret" not in str(second)


def test_text_line_contains_no_line_break(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file, log_lines("text", file):
        log_event("backend", trouble="first\nsecond")
    assert len((tmp_path / "log").read_text(encoding="utf-8").splitlines()) == 1


def test_unread_log_drops_lines_and_reports_how_many() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as writer:
        with log_lines("json", writer):
            for number in range(MAX_QUEUED_LINES + 5000):
                log_event("request", number=number)
            assert lost_lines() > 1000
            assert b'"number":0' in reader.readline()
            while (line := json.loads(reader.readline())).get("lines", 0) <= 1000:
                assert line["event"] in ("request", "log lines lost")
            os.set_blocking(reading, False)
            while reader.read(65536):
                pass
    assert LOGGER.handlers == []


def test_process_with_a_blocked_or_closed_log_exits() -> None:
    program = (
        "import sys\nfrom proxy.core.log import log_event, log_lines\n"
        "with log_lines('json'):\n    for n in range(30000): log_event('request', n=n, text='x' * 100)\n"
        "print('ended', flush=True)\n"
    )
    for closed in (False, True):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stderr is not None
        assert process.stdout is not None
        if closed:
            process.stderr.close()
        assert process.wait(60) == 0
        out = process.stdout.read()
        assert out == b"ended\n", (closed, len(out), out[:300])
        process.stdout.close()
        process.stderr.close()
