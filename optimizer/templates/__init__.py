"""Meta-prompts and criteria, as files: what the optimizer and judge models are told."""

import tomllib
from functools import cache
from importlib import resources


@cache
def template(name: str) -> str:
    """The text of NAME.txt; its {fields} are filled with str.format."""
    return resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")


@cache
def criteria_table() -> dict[str, dict[str, str]]:
    """criteria.toml: by name, what a criterion asks, and what scores of 1, 3 and 5 look like."""
    return tomllib.loads(resources.files(__name__).joinpath("criteria.toml").read_text(encoding="utf-8"))
