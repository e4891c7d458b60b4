"""The types of JSON values that pass through: objects are looked at field by field, never turned into a model."""

from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]
"""A JSON object that is only read."""

JsonDict = dict[str, Any]
"""A JSON object that is being built."""
