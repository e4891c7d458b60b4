"""Guards that a minute of load and faults at once leaves nothing behind; `make soak` takes twenty."""

import pytest
from rich.console import Console

from tests.faults.soak import soak


@pytest.mark.slow
async def test_a_minute_of_everything_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    status = await soak(1.0, Console(stderr=True))
    assert status == 0, capsys.readouterr().out
