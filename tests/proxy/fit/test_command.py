"""Tests the command `drpo-proxy fit` as users start it: flags, exit statuses, files, JSON and signals."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.__main__ import main
from tests.faults.scripted import Received, Reply, Script, scripted_backend
from tests.proxy.fit import scripted_models as models

ROOT = Path(__file__).parents[3]


async def run(script: Script, *arguments: str, interrupt_at: bytes = b"") -> tuple[int | None, str, str]:
    """Run the command in front of a scripted chat model. Return the exit status and both output streams."""
    async with scripted_backend(script, kind="chat") as backend:
        command = [sys.executable, "-m", "proxy", "fit", "--backend", backend.url, "--retrieval-timeout", "30"]
        process = await asyncio.create_subprocess_exec(*command, *arguments, stdout=PIPE, stderr=PIPE, cwd=ROOT)
        assert process.stderr is not None
        messages = b""
        while interrupt_at and interrupt_at not in messages:
            messages += await process.stderr.readline()
        if interrupt_at:
            process.send_signal(signal.SIGINT)
        output, more = await process.communicate()
        return process.returncode, output.decode(), (messages + more).decode()


async def test_json_goes_to_standard_output_and_answers_to_a_file(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    status, output, messages = await run(models.perfect, "--limit", "40", "--json", "--answers", str(answers))
    assert status == 0, messages
    result = json.loads(output)
    assert result["verdicts"][0]["verdict"] == "little headroom"
    assert (result["questions"], result["compared"], result["interrupted"]) == (40, 40, False)
    assert "The first 12 answers took" in messages
    lines = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 120
    first = {"arm": "raw", "question": "general-01", "kind": "general", "text": models.ANSWER, "finish_reason": "stop"}
    assert lines[0] == first


async def test_a_bundle_that_harms_has_its_own_exit_status(tmp_path: Path) -> None:
    questions = tmp_path / "own.jsonl"
    row = '{"kind": "general", "question": "Number %d?"}\n'
    questions.write_text("".join(row % number for number in range(20)), encoding="utf-8")
    status, output, _ = await run(models.breaking(models.is_silent), "--questions", str(questions))
    assert status == 3
    assert output.rstrip().splitlines()[-1].startswith("Harms: fewer harmless questions get")
    assert "empty answers" in output


async def test_control_c_prints_the_table_so_far() -> None:
    async def slow_at_the_end(reply: Reply, request: Received) -> None:
        count.append(1)
        await asyncio.sleep(60 if len(count) > 30 else 0)
        await models.perfect(reply, request)

    count: list[int] = []
    status, output, messages = await run(slow_at_the_end, interrupt_at=b"The first 12 answers took")
    assert status == 130, messages
    assert "Interrupted: 4 of 120 questions were asked in all arms." in output
    assert "ends by itself" in output
    assert "Cannot tell: " in output


async def test_a_wrong_key_stops_after_the_first_questions() -> None:
    async def script(reply: Reply, request: Received) -> None:
        count.append(1)
        await reply.whole({"error": {"message": "invalid api key"}}, "401 Unauthorized")

    count: list[int] = []
    status, output, _ = await run(script)
    assert status == 1
    assert len(count) == 12
    assert "no question was answered any more: 401: invalid api key" in output


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "message"),
    [
        (["fit", "--limit", "0"], {}, 2, "--limit 0: give a number from 1"),
        (["fit", "--concurrency", "1000"], {}, 2, "--concurrency 1000: give a number from 1 to 128"),
        (["fit", "--questions", "nowhere"], {}, 1, "--questions nowhere: No such file"),
        (["fit", "--answers", "nowhere/at/all"], {}, 1, "--answers nowhere/at/all: No such file"),
        (
            ["fit", "--bundle", "nowhere"],
            {},
            1,
            "--bundle nowhere: there is no directory nowhere, and no bundle of drpo has",
        ),
        (["fit", "--baseline", "nowhere"], {}, 1, "there is no directory nowhere, and no bundle of drpo has"),
        (["fit", "--kind", "x"], {}, 1, "--kind x: expected MODEL=chat or MODEL=completion."),
        (["fit"], {"DRPO_BACKEND": "http://127.0.0.1:9"}, 1, "no model to measure. http://127.0.0.1:9: "),
        (
            ["fit", "--backend", "http://127.0.0.1:9", "--kind", "m=chat", "--limit", "1"],
            {},
            1,
            "Run `drpo-proxy check --backend http://127.0.0.1:9 --kind m=chat` to try again.",
        ),
        (["--backend", "embedded", "fit"], {}, 2, "Write fit before all flags"),
    ],
)
def test_mistakes_are_explained(
    arguments: list[str],
    variables: Mapping[str, str],
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    errors = capsys.readouterr().err
    assert message in errors.replace("\n", " ")
    assert ended.value.code == status
    assert "Traceback" not in errors


def test_help_shows_the_flags_of_backends_and_hides_those_of_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for shown in ("--backend URL", "--bundle", "--kind", "--backend-api-key-file", "--baseline", "exit status: 0"):
        assert shown in text
    for hidden in ("--port", "--workers", "--experiment", "--api-keys-file"):
        assert f"  {hidden}" not in text
