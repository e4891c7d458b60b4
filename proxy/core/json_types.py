"""Type aliases for JSON objects. The proxy reads single fields of JSON objects and defines no classes for them."""

from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]
"""A JSON object that the code only reads."""

JsonDict = dict[str, Any]
"""A JSON object that the code may change."""
