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
_BLANK: Final = "\n" * 5
_HELP: Final = f"# The question is above the line with the dashes, the answer below it. This line is removed.{_BLANK}"
"""vi obeys commands in the first and the last five lines of a file, so the text of a user stands in none of them."""


def edited(example: Example) -> tuple[str, str]:
    """Return the question and the answer after the user has edited them.

    Raises:
        DataError: The editor cannot be started or failed, or the line between question and answer is gone.
    """
    command = _command(os.environ.get("VISUAL") or os.environ.get("EDITOR") or _DEFAULT)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "example.txt"
        path.write_text(f"{_HELP}{example.query}\n{_SEPARATOR}\n{example.response}\n{_BLANK}", encoding="utf-8")
        _run([*command, str(path)])
        return _parsed(_read(path))


def _command(text: str) -> list[str]:
    try:
        return shlex.split(text) or [_DEFAULT]
    except ValueError:
        raise DataError(
            "the environment variable VISUAL or EDITOR has an unclosed quotation mark. Close it, or unset the variable."
        ) from None


def _run(command: list[str]) -> None:
    try:
        status = os.spawnvp(os.P_WAIT, command[0], command)  # noqa: S606 - the user's own editor
    except OSError:
        status = 127
    if status:
        raise DataError(f"the editor {command[0]} failed. Set the environment variable EDITOR to an editor that works.")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise DataError("the edited text cannot be read. Save it in the same file, in UTF-8.") from None


def _parsed(text: str) -> tuple[str, str]:
    query, separator, answer = text.removeprefix(_HELP.rstrip()).partition(f"\n{_SEPARATOR}\n")
    if not separator:
        raise DataError(f"the line {_SEPARATOR} is gone. Keep it between the question and the answer.")
    if f"\n{_SEPARATOR}\n" in f"\n{answer}":
        raise DataError(f"the line {_SEPARATOR} occurs twice. Keep it only between the question and the answer.")
    return query.strip(), answer.strip()
