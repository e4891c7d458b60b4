"""Shows the progress of a run: on a terminal as one line that changes, else as a new line every 10 seconds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from rich.console import Console

from proxy.fit.run import Progress

_REPORT_INTERVAL: Final = 10.0  # seconds between two lines if the output is not a terminal


@contextmanager
def showing_progress(messages: Console) -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows how far the run is. After the first round, it prints an estimate of the time."""
    last = monotonic()
    with messages.status("Asking the first questions") as status:

        def report(progress: Progress) -> None:
            nonlocal last
            text = f"{progress.done} of {progress.total} answers, about {_duration(progress.remaining)} left"
            if progress.is_estimate:
                messages.print(
                    f"The first {progress.done} answers took {_duration(progress.seconds)}. The other "
                    f"{progress.total - progress.done} take about {_duration(progress.remaining)}. "
                    "Ctrl-C ends the run and shows the result so far.",
                    markup=False,
                )
            elif messages.is_terminal:
                status.update(text)
            elif monotonic() - last > _REPORT_INTERVAL:
                last = monotonic()
                messages.print(f"... {text}", markup=False)

        yield report


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
