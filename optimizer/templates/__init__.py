"""The prompts for the optimizer model and the judge, and the judge's criteria, as files."""

import tomllib
from functools import cache
from importlib import resources


@cache
def template(name: str) -> str:
    """The text of NAME.txt, to fill with str.format."""
    return resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")


@cache
def criteria_table() -> dict[str, dict[str, str]]:
    """The content of criteria.toml: by name, the criterion's question and the anchors of the scores 1, 3 and 5."""
    return tomllib.loads(resources.files(__name__).joinpath("criteria.toml").read_text(encoding="utf-8"))
