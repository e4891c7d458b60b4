"""Prepares the standard output of a command for all texts, and for a reader that ends early, such as `head`."""

import io
import os
import sys


def escape_unprintable() -> None:
    """Let the standard output print the characters that its encoding lacks as escape sequences, such as \\xe4.

    Without it, a path with umlauts ends a command in an ASCII locale. Python prepares the standard error in this way.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_rest() -> None:
    """Discard what is still to be printed, after a BrokenPipeError.

    Python flushes stdout once more when it exits. If stdout is /dev/null, this flush cannot fail.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
