import ctypes
import subprocess
import sys

import pytest

_BEGIN = """
import ctypes
from proxy.core.malloc import set_malloc_thresholds

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
c.mallinfo2.restype = Info
{first}
"""
# To free a block of 8 MB raises glibc's threshold. The script prints whether a block of 2 MB is still mapped.
_MAPPED_AFTER = """
c.free(c.malloc(8_000_000))
before = c.mallinfo2().hblks
c.malloc(2_000_000)
print(c.mallinfo2().hblks - before)
"""


# Blocks of 64 KB lie on the heap. The script prints how many MB of the heap stay after ten MB of them were freed.
_KEPT_AFTER = """
before = c.mallinfo2().arena
for block in [c.malloc(64_000) for _ in range(160)]:
    c.free(block)
print(round((c.mallinfo2().arena - before) / 1e6))
"""
needs_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc 2.33 or later"
)


@needs_glibc
@pytest.mark.parametrize(("first", "mapped"), [("", "0"), ("set_malloc_thresholds()", "1")])
def test_large_block_is_mapped_after_a_larger_one_was_freed(first: str, mapped: str) -> None:
    assert output(_BEGIN.format(first=first) + _MAPPED_AFTER) == mapped


@needs_glibc
@pytest.mark.parametrize(("first", "kept"), [("", "0"), ("set_malloc_thresholds()", "10")])
def test_free_end_of_the_heap_is_kept_for_the_next_request(first: str, kept: str) -> None:
    assert output(_BEGIN.format(first=first) + _KEPT_AFTER) == kept


def output(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
