"""Prepares the standard output of a command for all texts. It does not depend on what a command prints."""

import io
import sys


def escape_unprintable() -> None:
    """Let the standard output print the characters that its encoding lacks as escape sequences, such as \\xe4.

    Without it, a path with umlauts ends a command in an ASCII locale. Python prepares the standard error in this way.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
