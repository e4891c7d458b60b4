import ctypes
import subprocess
import sys

import pytest

# To free a block of 8 MB raises glibc's threshold. The script prints whether a block of 1 MB is still mapped.
_MAPPED_AFTER = """
import ctypes
from proxy.core.malloc import return_large_blocks_to_system

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
c.mallinfo2.restype = Info
{first}
c.free(c.malloc(8_000_000))
before = c.mallinfo2().hblks
c.malloc(1_000_000)
print(c.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc 2.33 or later")
@pytest.mark.parametrize(("first", "mapped"), [("", "0"), ("return_large_blocks_to_system()", "1")])
def test_large_block_is_mapped_after_a_larger_one_was_freed(first: str, mapped: str) -> None:
    script = _MAPPED_AFTER.format(first=first)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == mapped
