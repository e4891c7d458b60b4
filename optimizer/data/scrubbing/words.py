"""Reads words.toml, which lists the words by which private data is found, and joins the words of a group."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources


@cache
def word_groups() -> Mapping[str, Sequence[str]]:
    """Return the groups of words.toml by name. Each word is a regular expression."""
    return tomllib.loads(resources.files(__package__).joinpath("words.toml").read_text(encoding="utf-8"))


def any_of(group: str) -> str:
    """Return a regular expression that matches any word of a group."""
    return "(?:" + "|".join(word_groups()[group]) + ")"
