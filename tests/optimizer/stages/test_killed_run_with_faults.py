"""A run with rows that cannot be used is killed and resumed: it ends like an undisturbed run."""

import asyncio
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from optimizer.core.journal import read_journal
from tests.optimizer.scripted_models import open_scripted_models, write_run
from tests.optimizer.stages.test_run import start_process

UNUSABLE = ("train question number 2", "sealed question number 5")


@pytest.mark.parametrize("moment", [40, pytest.param(120, marks=pytest.mark.slow)])
async def test_killed_run_leaves_out_the_same_rows_and_repeats_no_refused_request(moment: int, tmp_path: Path) -> None:
    started: list[asyncio.subprocess.Process] = []

    def fault(body: Mapping[str, Any]) -> tuple[int, bytes] | None:
        text = "\n".join(message["content"] for message in body["messages"])
        if started and len(models.requests) >= moment:
            started.pop().send_signal(signal.SIGKILL)
        if body["model"] != "task" or not text.endswith(UNUSABLE):
            return None
        return 400, b'{"error": {"message": "the context is too short"}}'

    async with open_scripted_models(fault=fault) as (models, url):
        config = write_run(tmp_path, url, rows=8, search={"depth": 1, "alpha": 0.05})  # a strict race uses all rows
        whole = await start_process("run", str(config), "--out", str(tmp_path / "undisturbed"))
        output, _ = await whole.communicate()
        assert whole.returncode == 0, output.decode()
        models.requests.clear()
        killed = await start_process("run", str(config), "--out", str(tmp_path / "killed"))
        started.append(killed)
        await killed.communicate()
        assert killed.returncode == -signal.SIGKILL
        known = {event["key"] for event in read_journal(tmp_path / "killed") if event.get("call") == "refused"}
        resumed = await start_process("resume", str(tmp_path / "killed"))
        output, _ = await resumed.communicate()
        assert resumed.returncode == 0, output.decode()
    events = read_journal(tmp_path / "killed")
    assert all(count == 1 for count in Counter(e["key"] for e in events if e.get("call") == "refused").values())
    last = {event["key"]: number for number, event in enumerate(events) if event.get("call") == "refused"}
    assert not any(
        event.get("call") == "sent" for key in known for event in events[last[key] :] if event.get("key") == key
    )
    manifests = [(tmp_path / out / "bundle" / "manifest.json").read_bytes() for out in ("undisturbed", "killed")]
    assert manifests[0] == manifests[1]
    rows = {event["row"] for event in events if event.get("note") == "unusable"}
    assert rows == {"train.jsonl, line 3", "sealed.jsonl, line 6"}
