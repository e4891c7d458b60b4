"""Changes a setting of glibc's allocator, so that freed memory returns to the operating system sooner."""

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # the parameter's number in malloc.h
_MMAP_THRESHOLD_BYTES: Final = 256 * 1024


def return_large_blocks_to_system() -> None:
    """Make glibc allocate blocks of 256 KiB or more with mmap, so that a freed block returns to the operating system.

    By default, the threshold is not fixed: when a mapped block is freed, glibc raises the threshold to the size of this
    block, up to 32 MiB (mallopt(3)). The buffers of large bodies are then allocated on the heap. A small block that
    lies above these buffers keeps the heap from shrinking. If the C library has no mallopt, the function does nothing.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
