"""Runs the soak test for one minute; `make soak` runs it for twenty."""

import pytest
from rich.console import Console

from tests.faults.soak import soak


@pytest.mark.slow
async def test_soak_of_one_minute_finds_no_violation(capsys: pytest.CaptureFixture[str]) -> None:
    status = await soak(1.0, Console(stderr=True))
    assert status == 0, capsys.readouterr().out
