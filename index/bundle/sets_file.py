"""Parses and writes sets.json, which holds the example sets of a bundle.

The file is a list of JSON objects, one for each set. index/retrieval/vote.py counts the votes.

    name                  identifies the set in its bundle
    shown                 ids of the examples that a request gets if this set is chosen, in this order
    voters                ids of the examples that vote for this set when they are neighbours of a query
    kind                  name of a group of sets; the kind with the most votes wins, then its set with the most votes
    weight                factor by which each vote for this set is multiplied
    minimum_similarity    a voter whose similarity to the query is below this value does not vote; if no voter of any
                          set is left, the minimum does not count, and all neighbours vote
    prompt                optional: the system prompt of requests for which this set is chosen, instead of prompt.txt

The prompt of a set replaces prompt.txt, and is not added to it. In a prefix cache, requests with different sets share
only the tokens of prompt.txt and of the pinned examples. Requests for a set with its own prompt do not share these
tokens: the server computes the tokens of the set's prompt separately. If a set needs the text of prompt.txt and more,
its prompt can begin with this text. The cache then shares the text.

The retrieval policy of the manifest can name one of the sets of the kind `other` as the neutral set, for queries that
are unlike every example. Only the neutral set may have no voters.

The parser checks that the ids are in the bank. This module does not depend on vectors or directories.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from index.bundle.example_bank import is_id, refuse_unsafe
from index.bundle.strict_json import Fields, parse_json, quoted
from index.errors import BundleFormatError
from index.types import Example, ExampleSet

WEIGHTS: Final = (0.01, 100.0)
"""The range of a set's `weight`: the smallest and the largest valid value."""
OTHER: Final = "other"
"""The kind of the sets whose examples have no separate tag. The neutral set is of this kind."""


def parse_sets(
    data: bytes, examples: Sequence[Example], location: str, neutral: str | None = None
) -> tuple[ExampleSet, ...]:
    """Parse the example sets in `data`.

    Args:
        data: The content of the file.
        examples: The bank.
        location: The name of the file in messages.
        neutral: The name of the neutral set; None if there is none.

    Raises:
        BundleFormatError: The data is malformed, two sets have the same name, or an example votes for two sets. Or a
            set names an example twice, a pinned example, or an example that is not in the bank. Or the neutral set does
            not exist, or its kind is not `other`. Or a set that is not the neutral set has no voters. Or the prompt of
            a set is blank.
        BundleIntegrityError: The prompt of a set is unsafe (see example_bank.py).
    """
    value = parse_json(data, location)
    if not isinstance(value, list) or not value:
        raise BundleFormatError(f"{location}: must be a list of at least one set. `drpo-index sets` makes this file")
    ids = {example.id for example in examples if not example.pinned}
    sets = tuple(_parse_set(one, ids, f"{location}, set {n}") for n, one in enumerate(value, start=1))
    _refuse_duplicates([one.name for one in sets], "the name", location)
    _refuse_duplicates([member for one in sets for member in one.members], "the voter", location)
    _check_neutral(sets, neutral, location)
    return sets


def _check_neutral(sets: Sequence[ExampleSet], neutral: str | None, location: str) -> None:
    if neutral is not None:
        kinds = {one.name: one.kind for one in sets}
        names = ", ".join(name for name, kind in kinds.items() if kind == OTHER)
        name_it = f'Set "neutral_set" in the manifest to a set of the kind {OTHER}'
        advice = f"{name_it}: {names}" if names else f"{name_it}, which must be added first"
        if neutral not in kinds:
            raise BundleFormatError(f"{location}: the neutral set {quoted(neutral)} is missing. {advice}")
        if kinds[neutral] != OTHER:
            kind = quoted(kinds[neutral])
            raise BundleFormatError(f"{location}: the neutral set {quoted(neutral)} is of the kind {kind}. {advice}")
    for one in sets:
        if not one.members and one.name != neutral:
            raise BundleFormatError(f'{location}: "voters" of {quoted(one.name)} is empty. Name at least one example')


def restrict_sets(sets: Sequence[ExampleSet], examples: Sequence[Example]) -> tuple[ExampleSet, ...]:
    """Adapt example sets to another bank, `examples`.

    An id stays in a set only if the bank has an example with this id that is not pinned. A set is dropped if it has no
    example left to show, or if it has lost all of its members.
    """
    ids = {example.id for example in examples if not example.pinned}
    restricted = [(one, replace(one, shown=_known(one.shown, ids), members=_known(one.members, ids))) for one in sets]
    return tuple(new for old, new in restricted if new.shown and (new.members or not old.members))


def with_prompts(sets: Sequence[ExampleSet], prompts: Mapping[str, str]) -> tuple[ExampleSet, ...]:
    """Return copies of the sets that have the given prompts.

    Args:
        sets: The example sets.
        prompts: The prompts by the name of a set or of a kind. The name of a set takes precedence. A set keeps its
            prompt if neither its name nor its kind is given.

    Raises:
        BundleFormatError: One of the names is neither the name of a set nor the name of a kind.
    """
    kinds, names = dict.fromkeys(one.kind for one in sets), [one.name for one in sets]
    if unknown := [name for name in prompts if name not in kinds and name not in names]:
        raise BundleFormatError(
            f"there is a prompt for {quoted(unknown[0])}, which is neither a kind ({', '.join(kinds)}) nor a set "
            f"({', '.join(names)}). Name one of these"
        )
    return tuple(replace(one, prompt=prompts.get(one.name, prompts.get(one.kind, one.prompt))) for one in sets)


def _known(names: Sequence[str], ids: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in ids)


def sets_bytes(sets: Sequence[ExampleSet]) -> bytes:
    """Return the content of sets.json."""
    lines = ",\n".join(json.dumps(set_record(one)) for one in sets)
    return f"[\n{lines}\n]\n".encode()


def set_record(example_set: ExampleSet) -> dict[str, object]:
    """Return the object that represents an example set in sets.json."""
    record: dict[str, object] = {
        "name": example_set.name,
        "shown": example_set.shown,
        "voters": example_set.members,
        "kind": example_set.kind,
        "weight": example_set.weight,
        "minimum_similarity": example_set.minimum_similarity,
    }
    return record if example_set.prompt is None else {**record, "prompt": example_set.prompt}


def _parse_set(value: object, ids: Collection[str], location: str) -> ExampleSet:
    fields = Fields(value, location, ("name", "shown", "voters", "kind", "weight", "minimum_similarity"), ("prompt",))
    one = ExampleSet(
        name=fields.text("name"),
        shown=fields.lines("shown"),
        members=fields.lines("voters"),
        kind=fields.line("kind"),
        weight=fields.number("weight", *WEIGHTS),
        minimum_similarity=fields.number("minimum_similarity", -1.0, 1.0),
        prompt=fields.text("prompt") if "prompt" in fields else None,
    )
    if not is_id(one.name):
        raise BundleFormatError(
            f'{location}: "name" must be 1 to 64 letters, digits, dots, dashes or underscores (ASCII)'
        )
    if not one.shown:
        raise BundleFormatError(f'{location}: "shown" is empty. Name at least one example')
    for key, names in (("shown", one.shown), ("voters", one.members)):
        if unknown := next((name for name in names if name not in ids), None):
            raise BundleFormatError(
                f"{location}: {quoted(key)} names {quoted(unknown)}, which is no example of the bank, or is pinned"
            )
    _refuse_duplicates(one.shown, "the example", location)
    if one.prompt is not None:
        refuse_unsafe(one.prompt, f"{location}: the prompt", "Write a text, or remove this prompt")
    return one


def _refuse_duplicates(names: Sequence[str], what: str, location: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BundleFormatError(f"{location}: {what} {quoted(name)} appears twice. Keep one")
        seen.add(name)
