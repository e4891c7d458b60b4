"""What differs between two bundles: prompt, examples, settings. Knows bundles; prints nothing."""

import difflib
from collections.abc import Iterator
from dataclasses import asdict

from index.types import Bundle, Example
from optimizer.stages.prompt_edits import units


def differences(before: Bundle, after: Bundle) -> Iterator[str]:
    """Lines for people: `-` for what is gone, `+` for what is new; nothing where both say the same to a model."""
    yield from _prompt(before.prompt, after.prompt)
    yield from _examples(before, after)
    yield from _settings(before, after)


def _prompt(before: str, after: str) -> Iterator[str]:
    if before == after:
        return
    yield "prompt"
    old, new = ([unit.strip() for unit in units(prompt)] for prompt in (before, after))
    for line in difflib.ndiff(old, new):
        if line[:2] in ("- ", "+ "):
            yield f"  {line}"


def _examples(before: Bundle, after: Bundle) -> Iterator[str]:
    old, new = ({example.query: example for example in bundle.examples} for bundle in (before, after))
    gone, fresh = [old[query] for query in old.keys() - new.keys()], [new[query] for query in new.keys() - old.keys()]
    changed = [(old[query], new[query]) for query in old if query in new and _told(old[query]) != _told(new[query])]
    if not (gone or fresh or changed):
        return
    yield f"examples: {len(before.examples)} -> {len(after.examples)}"
    yield from (f"  - {_short(example)}" for example in sorted(gone, key=lambda one: one.id))
    yield from (f"  + {_short(example)}" for example in sorted(fresh, key=lambda one: one.id))
    for one, other in changed:
        what = "answer" if one.response != other.response else f"pinned: {one.pinned} -> {other.pinned}"
        yield f"  ~ {_short(other)}: {what}"


def _settings(before: Bundle, after: Bundle) -> Iterator[str]:
    old, new = (
        {"layout": bundle.manifest.layout, **asdict(bundle.manifest.retrieval), **bundle.manifest.sampling}
        for bundle in (before, after)
    )
    lines = [
        f"  {name}: {old.get(name)} -> {new.get(name)}" for name in {**old, **new} if old.get(name) != new.get(name)
    ]
    if lines:
        yield "settings"
        yield from lines


def _told(example: Example) -> tuple[str, bool]:
    return example.response, example.pinned


def _short(example: Example) -> str:
    query = " ".join(example.query.split())
    return f"{example.id}: {query if len(query) <= 70 else f'{query[:70]}...'}"
