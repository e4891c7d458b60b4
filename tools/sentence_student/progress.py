"""Prints lines of progress."""

import sys


def say(line: str) -> None:
    """Print a line on standard error at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
