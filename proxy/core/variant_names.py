"""The names of the variants. The variant of a request decides how the proxy serves it (docs/glossary.md)."""

from typing import Final

from index import model_names

ALIGNED: Final = model_names.ALIGNED
RAW: Final = model_names.RAW
RAW_MATCHED: Final = model_names.RAW_MATCHED
VARIANTS: Final = model_names.VARIANTS
