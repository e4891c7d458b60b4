"""The type of the callback that long operations report their progress to."""

from collections.abc import Callable

ProgressCallback = Callable[[str], None]
"""Takes one line of text for the operator."""
