"""Lets the user edit an example in the editor that the environment variables VISUAL or EDITOR name."""

import os
import shlex
import tempfile
from pathlib import Path
from typing import Final

from index.types import Example
from optimizer.core.errors import DataError

_DEFAULT: Final = "vi"
_SEPARATOR: Final = "--- answer ---"
_HELP: Final = (
    "# The question is above the line with the dashes, the answer below it. Lines at the top with # are removed.\n"
)


def edited(example: Example) -> tuple[str, str]:
    """Return the question and the answer after the user has edited them.

    Raises:
        DataError: The editor cannot be started or failed, or the line between question and answer is gone.
    """
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or _DEFAULT)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "example.txt"
        path.write_text(f"{_HELP}{example.query}\n{_SEPARATOR}\n{example.response}\n", encoding="utf-8")
        _run([*command, str(path)])
        return _parsed(path.read_text(encoding="utf-8"))


def _run(command: list[str]) -> None:
    try:
        status = os.spawnvp(os.P_WAIT, command[0], command)  # noqa: S606 - the user's own editor
    except OSError:
        status = 127
    if status:
        raise DataError(f"the editor {command[0]} failed: set the environment variable EDITOR")


def _parsed(text: str) -> tuple[str, str]:
    query, separator, answer = text.removeprefix(_HELP).partition(f"\n{_SEPARATOR}\n")
    if not separator:
        raise DataError(f"the line {_SEPARATOR} is gone: keep it between the question and the answer")
    return query.strip(), answer.strip()
