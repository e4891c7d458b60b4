"""How much memory a process keeps that it has freed. Knows the C library's allocator, where that is glibc's."""

import ctypes
from typing import Final

_MMAP_THRESHOLD: Final = -3  # M_MMAP_THRESHOLD of malloc.h
_LARGE: Final = 256 * 1024  # bytes


def give_back_large_blocks() -> None:
    """Have each block of 256 KiB or more mapped by itself, so that it goes back to the system as soon as it is freed.

    Left alone, glibc raises that bound to the largest such block it has seen freed, up to 32 MiB (mallopt(3)); the
    buffers of large bodies then lie on the heap, and whatever small comes to lie above them keeps it from shrinking.
    Nothing is done where the C library is another one.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _LARGE)
