"""The dialect of a server that no other dialect detects: what OpenAI's reference promises, and nothing more."""

from typing import Final

from proxy.backends.dialects.base import Dialect

UNKNOWN: Final = Dialect("unknown")
