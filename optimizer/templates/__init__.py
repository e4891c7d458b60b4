"""Text files: prompts for models, the judge's criteria, sentences for prompt edits, and the style of the report."""

import tomllib
from functools import cache
from importlib import resources


@cache
def template(name: str) -> str:
    """Return the text of NAME.txt. A prompt has fields in braces, which the caller fills with str.format."""
    return resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")


@cache
def criteria_table() -> dict[str, dict[str, str]]:
    """Return the content of criteria.toml by the name of the criterion.

    `asks` is the question of the criterion. `1`, `3` and `5` describe an answer with this score.
    """
    return tomllib.loads(resources.files(__name__).joinpath("criteria.toml").read_text(encoding="utf-8"))
