"""Replaces a file atomically: if the process is killed or the disk is full, the old file stays as it was."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def replace_file(path: Path, blocks: Iterable[bytes]) -> None:
    """Write a file that only its owner can read. If a file or a link is at this path, the new file replaces it.

    The content is written to a temporary file and flushed to the disk, and the temporary file is renamed. If the
    process is killed, it can leave the temporary file behind. The name of the temporary file consists of the file's
    name, a random part and `.part`.

    Args:
        path: The file. Its folder must exist.
        blocks: The content, in parts.

    Raises:
        OSError: The file cannot be written. An older file is then unchanged.
    """
    handle, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(blocks)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
