"""Lets a test move the clock of the event loop, so that results do not depend on how busy the machine is."""

import asyncio


class MovedClock:
    """The clock of the running event loop. `forward` moves it, and timers that are due then end at once."""

    def __init__(self) -> None:
        self._skipped = 0.0
        self._loop = asyncio.get_running_loop()
        real = self._loop.time
        self._loop.time = lambda: real() + self._skipped  # type: ignore[method-assign]

    async def forward(self, seconds: float) -> None:
        """Move the clock, and let the timers that are due then run."""
        self._skipped += seconds
        for _ in range(5):
            await asyncio.sleep(0)
