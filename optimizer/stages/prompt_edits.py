"""Edits a prompt without calling a model: random operators change its sentences and list items, called units here.

drop      removes a unit
swap      exchanges two neighbouring units
merge     joins two neighbouring sentences into one sentence
shorten   removes the last clause of a unit, or its text in brackets
add       inserts a sentence from templates/pool.txt that the prompt does not contain

An operator returns an empty text if it finds nothing to change.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence

from optimizer.templates import template

Units = tuple[str, ...]
"""The sentences and list items of a prompt, each with the white space that follows it. Together they are the prompt."""

_UNIT = re.compile(r"[^\n]*?(?:[.!?](?=\s)|\n|\Z)\s*")
_LAST_CLAUSE = re.compile(r"(?:[,;:]| -| \u2014)\s[^,;:.!?]+(?=[.!?]?\s*$)")
_CONDITIONS = ("If ", "When ", "Where ", "Unless ")
_BRACKETS = re.compile(r"\s*\([^()]*\)")
_MAX_TRIES_PER_EDIT = 20


def edits(prompt: str, count: int, seed: str, max_words: int) -> list[str]:
    """Return edited prompts. Each of them differs from `prompt` by one edit, and no two are equal.

    Args:
        prompt: The prompt to edit.
        count: Maximum number of edited prompts.
        seed: Seed of the random edits. The same seed gives the same edited prompts.
        max_words: Edited prompts with more words are left out. If 0, there is no maximum.
    """
    rng = random.Random(f"{seed}:{prompt}")  # noqa: S311 - random edits need no secure random numbers
    found: dict[str, None] = {}
    for _ in range(count * _MAX_TRIES_PER_EDIT):
        if len(found) == count:
            break
        edited = rng.choice(_OPERATORS)(units(prompt), rng)
        if edited and edited != prompt and (not max_words or len(edited.split()) <= max_words):
            found[edited] = None
    return list(found)


def units(prompt: str) -> Units:
    """Split a prompt into its units. `"".join` of the units gives the prompt again."""
    return tuple(found for found in _UNIT.findall(prompt) if found)


def drop(parts: Units, rng: random.Random) -> str:
    """Remove one unit, unless the prompt has only one."""
    if len(parts) < 2:
        return ""
    index = rng.randrange(len(parts))
    return _join(parts[:index] + parts[index + 1 :])


def swap(parts: Units, rng: random.Random) -> str:
    """Exchange two neighbouring units. The white space between units stays where it is."""
    if len(parts) < 2:
        return ""
    index = rng.randrange(len(parts) - 1)
    first, second = parts[index], parts[index + 1]
    exchanged = second.rstrip() + _trailing_space(first), first.rstrip() + _trailing_space(second)
    return _join(parts[:index] + exchanged + parts[index + 2 :])


def merge(parts: Units, rng: random.Random) -> str:
    """Join two neighbouring sentences of the same line with a semicolon."""
    indexes = [index for index in range(len(parts) - 1) if _are_on_one_line(parts[index], parts[index + 1])]
    if not indexes:
        return ""
    index = rng.choice(indexes)
    first, second = parts[index].rstrip().rstrip(".!"), parts[index + 1]
    begins = second if second.startswith(("I ", "I'")) else second[:1].lower() + second[1:]
    return _join((*parts[:index], f"{first}; {begins}", *parts[index + 2 :]))


def shorten(parts: Units, rng: random.Random) -> str:
    """Remove the last clause of a unit, or its text in brackets."""
    shorter = [(index, short) for index, part in enumerate(parts) for short in _shortened(part)]
    if not shorter:
        return ""
    index, short = rng.choice(shorter)
    return _join((*parts[:index], short, *parts[index + 1 :]))


def add(parts: Units, rng: random.Random) -> str:
    """Insert a sentence from templates/pool.txt at a random position.

    If the unit before this position is a list item, the sentence becomes a list item. A sentence that is inserted at
    the beginning of the prompt becomes a list item if the first unit is a list item.
    """
    present = {part.strip().lstrip("-* ") for part in parts}
    unused = [line for line in template("pool").splitlines() if line not in present]
    if not unused:
        return ""
    line, index = rng.choice(unused), rng.randrange(len(parts) + 1)
    neighbour = parts[index - 1] if index else (parts[0] if parts else "")
    mark = found[0] if (found := re.match(r"\s*[-*] ", neighbour)) else ""
    gap = "\n" if mark or "\n" in _trailing_space(neighbour) else " "
    before = parts[:index] if not index else (*parts[: index - 1], parts[index - 1].rstrip() + gap)
    return _join((*before, f"{mark}{line}{gap}", *parts[index:]))


_OPERATORS: Sequence[Callable[[Units, random.Random], str]] = (drop, swap, merge, shorten, add, add)


def _shortened(part: str) -> Iterator[str]:
    for pattern in (_LAST_CLAUSE, _BRACKETS):
        short = pattern.sub("", part, count=1)
        if short != part and len(short.split()) >= 2 and not short.startswith(_CONDITIONS):
            yield short


def _are_on_one_line(first: str, second: str) -> bool:
    return "\n" not in first and first.rstrip().endswith((".", "!")) and not second.startswith(("-", "*"))


def _trailing_space(part: str) -> str:
    return part[len(part.rstrip()) :]


def _join(parts: Units) -> str:
    return "".join(parts).strip()
