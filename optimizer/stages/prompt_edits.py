"""New prompts from an old one, without a model: operators on its sentences and bullets. Pure; knows no score.

drop      one sentence                      shorten   cut a sentence's last clause, or what stands in brackets
swap      two neighbours                    merge     two neighbours into one sentence
add       a sentence from the written pool (templates/pool.txt) that the prompt does not have yet
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence

from optimizer.templates import template

Units = tuple[str, ...]
"""Sentences and bullets, each with the white space that follows it, so that together they are the prompt."""

_UNIT = re.compile(r"[^\n]*?(?:[.!?](?=\s)|\n|\Z)\s*")
_LAST_CLAUSE = re.compile(r"(?:[,;:]| -| \u2014)\s[^,;:.!?]+(?=[.!?]?\s*$)")
_CONDITIONS = ("If ", "When ", "Where ", "Unless ")
_BRACKETS = re.compile(r"\s*\([^()]*\)")
_TRIES = 20


def edits(prompt: str, count: int, seed: str, words: int) -> list[str]:
    """Up to `count` different prompts, one edit away from `prompt`; always the same ones for a seed. words: at most."""
    chance = random.Random(f"{seed}:{prompt}")  # noqa: S311 - chooses edits, hides nothing
    found: dict[str, None] = {}
    for _ in range(count * _TRIES):
        if len(found) == count:
            break
        edited = chance.choice(_OPERATORS)(units(prompt), chance)
        if edited and edited != prompt and len(edited.split()) <= words:
            found[edited] = None
    return list(found)


def units(prompt: str) -> Units:
    """The sentences and bullets of a prompt; joined, they are the prompt again."""
    return tuple(found for found in _UNIT.findall(prompt) if found)


def drop(parts: Units, chance: random.Random) -> str:
    """Without one of them; never without the last one left."""
    if len(parts) < 2:
        return ""
    place = chance.randrange(len(parts))
    return _joined(parts[:place] + parts[place + 1 :])


def swap(parts: Units, chance: random.Random) -> str:
    """Two neighbours exchanged; each keeps its place's white space."""
    if len(parts) < 2:
        return ""
    place = chance.randrange(len(parts) - 1)
    first, second = parts[place], parts[place + 1]
    exchanged = second.rstrip() + _tail(first), first.rstrip() + _tail(second)
    return _joined(parts[:place] + exchanged + parts[place + 2 :])


def merge(parts: Units, chance: random.Random) -> str:
    """Two neighbouring sentences of one line, joined by a semicolon."""
    places = [place for place in range(len(parts) - 1) if _are_one_line(parts[place], parts[place + 1])]
    if not places:
        return ""
    place = chance.choice(places)
    first, second = parts[place].rstrip().rstrip(".!"), parts[place + 1]
    begins = second if second.startswith(("I ", "I'")) else second[:1].lower() + second[1:]
    return _joined((*parts[:place], f"{first}; {begins}", *parts[place + 2 :]))


def shorten(parts: Units, chance: random.Random) -> str:
    """One of them without its last clause, or without its brackets."""
    shorter = [(place, short) for place, part in enumerate(parts) for short in _shorter(part)]
    if not shorter:
        return ""
    place, short = chance.choice(shorter)
    return _joined((*parts[:place], short, *parts[place + 1 :]))


def add(parts: Units, chance: random.Random) -> str:
    """With one from the pool, before, between or behind them, written as its neighbours are."""
    present = {part.strip().lstrip("-* ") for part in parts}
    unused = [line for line in template("pool").splitlines() if line not in present]
    if not unused:
        return ""
    line, place = chance.choice(unused), chance.randrange(len(parts) + 1)
    neighbour = parts[place - 1] if place else (parts[0] if parts else "")
    mark = found[0] if (found := re.match(r"\s*[-*] ", neighbour)) else ""
    gap = "\n" if mark or "\n" in _tail(neighbour) else " "
    before = parts[:place] if not place else (*parts[: place - 1], parts[place - 1].rstrip() + gap)
    return _joined((*before, f"{mark}{line}{gap}", *parts[place:]))


_OPERATORS: Sequence[Callable[[Units, random.Random], str]] = (drop, swap, merge, shorten, add, add)


def _shorter(part: str) -> Iterator[str]:
    for pattern in (_LAST_CLAUSE, _BRACKETS):
        short = pattern.sub("", part, count=1)
        if short != part and len(short.split()) >= 2 and not short.startswith(_CONDITIONS):
            yield short


def _are_one_line(first: str, second: str) -> bool:
    return "\n" not in first and first.rstrip().endswith((".", "!")) and not second.startswith(("-", "*"))


def _tail(part: str) -> str:
    return part[len(part.rstrip()) :]


def _joined(parts: Units) -> str:
    return "".join(parts).strip()
