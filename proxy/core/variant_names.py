"""The names of the variants that a request can be served as."""

from typing import Final

ALIGNED: Final = "aligned"
RAW: Final = "raw"
RAW_MATCHED: Final = "raw-matched"
VARIANTS: Final = (ALIGNED, RAW, RAW_MATCHED)
