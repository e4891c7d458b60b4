"""The names of the variants. The variant of a request decides how the proxy serves it (docs/glossary.md)."""

from typing import Final

ALIGNED: Final = "aligned"
RAW: Final = "raw"
RAW_MATCHED: Final = "raw-matched"
VARIANTS: Final = (ALIGNED, RAW, RAW_MATCHED)
