"""The types of JSON objects. The proxy reads single fields of them and does not convert them into models."""

from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]
"""A JSON object that is read only."""

JsonDict = dict[str, Any]
"""A JSON object that may be changed."""
