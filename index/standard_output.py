"""Prepares the standard output of a command for all texts, and for a reader that ends early, such as `head`."""

import io
import os
import sys
from typing import Final

from rich.console import Console

READER_ENDED: Final = 141  # the exit code of a program that SIGPIPE (signal 13) ends: 128 + 13


def escape_unprintable() -> None:
    """Let the standard output print the characters that its encoding lacks as escape sequences, such as \\xe4.

    Without it, a path with umlauts ends a command in an ASCII locale. Python prepares the standard error in this way.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class OutputConsole(Console):
    """A console on the standard output that does not interpret markup.

    It raises BrokenPipeError if the reader of the output ends early, so that each command ends with `READER_ENDED`.
    rich's own console would end the program with exit code 1.
    """

    def __init__(self, *, highlight: bool = True) -> None:
        super().__init__(markup=False, highlight=highlight)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def discard_rest() -> int:
    """Discard what is still to be printed, after a BrokenPipeError. Return the exit code for it.

    Python flushes stdout once more when it exits. If stdout is /dev/null, this flush cannot fail.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return READER_ENDED
