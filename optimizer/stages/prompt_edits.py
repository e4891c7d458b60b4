"""Edits a prompt without calling a model: random operators change its sentences and list items, called units here.

drop      removes a unit
shorten   removes the last clause of a unit, or its text in brackets
add       inserts a sentence from templates/pool.txt that the prompt does not contain
replace   puts such a sentence in the place of a unit

No operator changes the order of units or their punctuation alone, because a model rarely answers differently after such
an edit. An operator returns an empty text if it finds nothing to change.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from index.bundle.differences import prompt_units
from optimizer.templates import template

Units = tuple[str, ...]
"""The sentences and list items of a prompt, each with the white space that follows it. Together they are the prompt."""

_LAST_CLAUSE = re.compile(r"(?:[,;:]| -| \u2014)\s[^,;:.!?]+(?=[.!?]?\s*$)")
_CONDITIONS = ("If ", "When ", "Where ", "Unless ")
_BRACKETS = re.compile(r"\s*\([^()]*\)")
_MAX_TRIES_PER_EDIT = 20
_BASE_WEIGHT: Final = 0.05
"""The weight of a sentence that can correct no failure. The weights of all failures together are 1."""
_NOTHING: Final[Mapping[str, float]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Edit:
    """An edited prompt.

    Attributes:
        prompt: The prompt after the edit.
        change: The name of the operator.
    """

    prompt: str
    change: str


@dataclass(frozen=True, slots=True)
class PoolSentence:
    """A sentence that the operator `add` can insert.

    Attributes:
        text: The sentence.
        answers: The criteria of the failures that the sentence can correct (optimizer.stages.proposers.failures).
    """

    text: str
    answers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Chance:
    """What an operator needs to draw at random.

    Attributes:
        rng: The source of random numbers.
        failures: The weights of the failures of the prompt, by criterion. They decide which sentences are inserted.
    """

    rng: random.Random
    failures: Mapping[str, float]


def edits(
    prompt: str, count: int, seed: str, max_words: int, failures: Mapping[str, float] = _NOTHING
) -> Sequence[Edit]:
    """Return edited prompts. Each of them differs from `prompt` by one edit, and no two are equal.

    Args:
        prompt: The prompt to edit.
        count: Maximum number of edited prompts.
        seed: Seed of the random edits. The same seed gives the same edited prompts.
        max_words: Edited prompts with more words are left out. If 0, there is no maximum.
        failures: The weights of the failures of the prompt, by criterion.
    """
    chance = Chance(random.Random(f"{seed}:{prompt}"), failures)  # noqa: S311 - no secure random numbers needed
    found: dict[str, Edit] = {}
    for _ in range(count * _MAX_TRIES_PER_EDIT):
        if len(found) == count:
            break
        operator = chance.rng.choice(_OPERATORS)
        edited = operator(units(prompt), chance)
        if edited and edited != prompt and (not max_words or len(edited.split()) <= max_words):
            found.setdefault(edited, Edit(edited, operator.__name__))
    return list(found.values())


def pool_sentences() -> Sequence[PoolSentence]:
    """Return the sentences of templates/pool.txt. Each line has the failures to correct, a bar, and the sentence."""
    lines = [line.partition(" | ") for line in template("pool").splitlines()]
    return [PoolSentence(text, frozenset(answers.split(", "))) for answers, _, text in lines]


def units(prompt: str) -> Units:
    """Split a prompt into its units. `"".join` of the units gives the prompt again."""
    return prompt_units(prompt)


def drop(parts: Units, chance: Chance) -> str:
    """Remove one unit, unless the prompt has only one."""
    if len(parts) < 2:
        return ""
    index = chance.rng.randrange(len(parts))
    return _join(parts[:index] + parts[index + 1 :])


def shorten(parts: Units, chance: Chance) -> str:
    """Remove the last clause of a unit, or its text in brackets."""
    shorter = [(index, short) for index, part in enumerate(parts) for short in _shortened(part)]
    if not shorter:
        return ""
    index, short = chance.rng.choice(shorter)
    return _join((*parts[:index], short, *parts[index + 1 :]))


def add(parts: Units, chance: Chance) -> str:
    """Insert a sentence from templates/pool.txt at a random position.

    If the unit before this position is a list item, the sentence becomes a list item. A sentence that is inserted at
    the beginning of the prompt becomes a list item if the first unit is a list item.
    """
    line = _draw_sentence(parts, chance)
    return line and _insert(parts, line, chance.rng.randrange(len(parts) + 1))


def replace(parts: Units, chance: Chance) -> str:
    """Put a sentence from templates/pool.txt in the place of a unit."""
    line = _draw_sentence(parts, chance)
    if not line or len(parts) < 2:
        return ""
    index = chance.rng.randrange(len(parts))
    return _insert(parts[:index] + parts[index + 1 :], line, index)


def _draw_sentence(parts: Units, chance: Chance) -> str:
    """Draw a sentence that the prompt lacks. A sentence that can correct large failures is drawn more often."""
    present = {part.strip().lstrip("-* ") for part in parts}
    unused = [one for one in pool_sentences() if one.text not in present]
    weights = [_BASE_WEIGHT + sum(chance.failures.get(name, 0.0) for name in sorted(one.answers)) for one in unused]
    return chance.rng.choices(unused, weights)[0].text if unused else ""


def _insert(parts: Units, line: str, index: int) -> str:
    neighbour = parts[index - 1] if index else (parts[0] if parts else "")
    mark = found[0] if (found := re.match(r"\s*[-*] ", neighbour)) else ""
    gap = "\n" if mark or "\n" in _trailing_space(neighbour) else " "
    before = parts[:index] if not index else (*parts[: index - 1], parts[index - 1].rstrip() + gap)
    return _join((*before, f"{mark}{line}{gap}", *parts[index:]))


_OPERATORS: Sequence[Callable[[Units, Chance], str]] = (drop, shorten, replace, add, add)


def _shortened(part: str) -> Iterator[str]:
    for pattern in (_LAST_CLAUSE, _BRACKETS):
        short = pattern.sub("", part, count=1)
        if short != part and len(short.split()) >= 2 and not short.startswith(_CONDITIONS):
            yield short


def _trailing_space(part: str) -> str:
    return part[len(part.rstrip()) :]


def _join(parts: Units) -> str:
    return "".join(parts).strip()
