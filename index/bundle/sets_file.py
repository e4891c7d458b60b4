"""sets.json: from bytes to checked example sets and back. Knows the ids of the bank; knows no vector and no directory.

[{"name": ..., "shown": [ids, in the order of the prompt], "voters": [ids], "kind": ..., "weight": ...,
  "minimum_similarity": ...}, ...]
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Final

from index.bundle.example_bank import is_id
from index.bundle.strict_json import Fields, parse_json, quoted
from index.errors import BundleFormatError
from index.types import Example, ExampleSet

WEIGHTS: Final = (0.01, 100.0)


def parse_sets(data: bytes, examples: Sequence[Example], place: str) -> tuple[ExampleSet, ...]:
    """The sets in `data`, each of which names only what is in the bank and not pinned; else BundleFormatError."""
    value = parse_json(data, place)
    if not isinstance(value, list) or not value:
        raise BundleFormatError(f"{place}: must be a list of sets, not empty")
    free = {example.id for example in examples if not example.pinned}
    sets = tuple(_parse_set(one, free, f"{place}, set {n}") for n, one in enumerate(value, start=1))
    _refuse_doubled([one.name for one in sets], "the name", place)
    _refuse_doubled([voter for one in sets for voter in one.voters], "the voter", place)
    return sets


def within(sets: Sequence[ExampleSet], examples: Sequence[Example]) -> tuple[ExampleSet, ...]:
    """The sets without what is not in this bank or is pinned there; one that has nothing to show or no voter goes."""
    free = {example.id for example in examples if not example.pinned}
    kept = [replace(one, shown=_of(one.shown, free), voters=_of(one.voters, free)) for one in sets]
    return tuple(one for one in kept if one.shown and one.voters)


def _of(ids: Sequence[str], free: Collection[str]) -> tuple[str, ...]:
    return tuple(one for one in ids if one in free)


def sets_bytes(sets: Sequence[ExampleSet]) -> bytes:
    """The content of sets.json."""
    lines = ",\n".join(json.dumps(asdict(one)) for one in sets)
    return f"[\n{lines}\n]\n".encode()


def _parse_set(value: object, free: Collection[str], place: str) -> ExampleSet:
    fields = Fields(value, place, ("name", "shown", "voters", "kind", "weight", "minimum_similarity"))
    one = ExampleSet(
        name=fields.text("name"),
        shown=fields.lines("shown"),
        voters=fields.lines("voters"),
        kind=fields.line("kind"),
        weight=fields.number("weight", *WEIGHTS),
        minimum_similarity=fields.number("minimum_similarity", -1.0, 1.0),
    )
    if not is_id(one.name):
        raise BundleFormatError(f'{place}: "name" must be 1 to 64 letters, digits, dots, dashes or underscores (ASCII)')
    for key, ids in (("shown", one.shown), ("voters", one.voters)):
        if not ids:
            raise BundleFormatError(f"{place}: {quoted(key)} is empty: name at least one example")
        if unknown := next((name for name in ids if name not in free), None):
            raise BundleFormatError(
                f"{place}: {quoted(key)} names {quoted(unknown)}, which is no example of the bank, or a pinned one"
            )
    _refuse_doubled(one.shown, "the example", place)
    return one


def _refuse_doubled(names: Sequence[str], what: str, place: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BundleFormatError(f"{place}: {what} {quoted(name)} stands twice: keep one")
        seen.add(name)
