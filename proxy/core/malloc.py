"""A setting of glibc's allocator that returns freed memory to the operating system sooner."""

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # the parameter's number in malloc.h
_MMAP_THRESHOLD_BYTES: Final = 256 * 1024


def return_large_blocks_to_system() -> None:
    """Allocate each block of 256 KiB or more with mmap, so that the system gets it back when it is freed.

    By default, glibc raises this threshold to the largest mapped block that was freed, up to 32 MiB (mallopt(3)). The
    buffers of large bodies then lie on the heap, and any small block above them keeps the heap from shrinking. With
    another C library this does nothing.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
