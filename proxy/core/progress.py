"""The type of the callback that long operations report their progress to."""

from collections.abc import Callable

ProgressCallback = Callable[[str], None]
"""A function that takes one line of text, which is meant for the operator."""
