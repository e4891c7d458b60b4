"""Reads a secret key from a file. The key never appears in an error or in the log."""

from pathlib import Path

from index.bundle.input_files import decode_text
from index.errors import BundleFormatError
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
        key = decode_text(Path(file).read_bytes(), f"{flag} {file}").strip()
    except OSError as error:
        raise StartupError(f"{flag} {file}: cannot be read ({type(error).__name__}).") from error
    except BundleFormatError as error:
        raise StartupError(f"{error}.") from error
    if not key or not key.isprintable():
        raise StartupError(f"{flag} {file}: the file must contain one key, on a single line.")
    return key
