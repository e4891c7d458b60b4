"""Text files: prompts for models, the judge's criteria, sentences that edits add to prompts, and the report's CSS."""

import tomllib
from functools import cache
from importlib import resources
from typing import Any


@cache
def template(name: str) -> str:
    """Return the text of NAME.txt.

    A text that is a prompt contains fields in braces, which the caller fills with str.format.
    """
    return resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")


@cache
def criteria_table() -> dict[str, dict[str, str]]:
    """Return the content of criteria.toml: a dict from the name of each criterion to a dict with its entries.

    The entry `asks` is a question about an answer. The entries `1`, `3` and `5` each describe an answer that deserves
    this score.
    """
    return _toml("criteria")


@cache
def verdict_phrases() -> dict[str, dict[str, Any]]:
    """Return the content of verdicts.toml: for each language, the regular expressions of each kind of phrase."""
    return _toml("verdicts")


def _toml(name: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
