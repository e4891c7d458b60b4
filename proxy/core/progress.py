"""The type of the function that long operations report their progress to."""

from collections.abc import Callable

ProgressCallback = Callable[[str], None]
"""Gets one line of text for the person who waits."""
