"""The dialect for a server that no other dialect recognizes. This dialect relies only on OpenAI's reference."""

from typing import Final

from proxy.backends.dialects.base import Dialect

UNKNOWN: Final = Dialect("unknown")
