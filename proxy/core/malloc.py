"""Changes two settings of glibc's allocator: when freed memory returns to the operating system."""

import ctypes
from typing import Final

_MIB: Final = 2**20
_M_TRIM_THRESHOLD: Final = -1  # the numbers of the parameters in malloc.h
_M_MMAP_THRESHOLD: Final = -3
_MMAP_THRESHOLD: Final = 1 * _MIB
_TRIM_THRESHOLD: Final = 32 * _MIB


def set_malloc_thresholds() -> None:
    """Let freed blocks of 1 MiB or more return to the operating system, and keep up to 32 MiB of free heap.

    Blocks of 1 MiB or more are mapped, and freeing them unmaps them. By default, this threshold is not fixed: when a
    mapped block is freed, glibc raises the threshold to the size of this block, up to 32 MiB (mallopt(3)). The buffers
    of large bodies are then allocated on the heap. A small block that lies above these buffers then keeps the heap from
    shrinking after the buffers are freed.

    By default, glibc also returns the free end of the heap as soon as it is larger than 128 KiB. A request of 100 KB
    allocates and frees more than that, so that the system had to provide about 50 new pages for each of these requests.
    The system spent 200 µs on this, a quarter of the CPU time of such a request.

    If the C library has no mallopt, the function does nothing.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
