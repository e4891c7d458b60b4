"""Reads a secret key from a file. The key never appears in an error or in the log."""

from pathlib import Path

from proxy.core.errors import StartupError


def read_key(file: str, flag: str) -> str | None:
    """Return the key in a file, without surrounding white space; None if no file is given.

    Args:
        file: The path of the file; empty if no file is given.
        flag: The command-line flag that gave the path, for error messages.

    Raises:
        StartupError: The file cannot be read, or does not contain one line of printable characters.
    """
    if not file:
        return None
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"{flag} {file}: cannot be read ({type(error).__name__}).") from error
    if not key or not key.isprintable():
        raise StartupError(f"{flag} {file}: holds no key on a single line.")
    return key
