"""Writes tables as TOML. The standard library only reads it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def toml_text(document: Mapping[str, Any]) -> str:
    """Return a document as TOML.

    Args:
        document: Tables by name. Their values are texts, numbers, flags, lists, and tables of these.
    """
    return "\n".join(line for name, table in document.items() for line in _table(name, table)) + "\n"


def toml_value(value: Any) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {toml_value(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _table(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table: its plain values, and then each inner table under its own heading."""
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    if plain or len(plain) == len(table):
        yield f"[{name}]"
        yield from (f"{_key(key)} = {toml_value(value)}" for key, value in plain.items())
        yield ""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _table(f"{name}.{_key(key)}", value)


def _key(name: str) -> str:
    is_bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if is_bare else json.dumps(name, ensure_ascii=False)
