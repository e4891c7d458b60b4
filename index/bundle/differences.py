"""Compares the prompts, examples and settings of two bundles, and describes the differences as lines of text.

This module reads no files. The command `drpo-optimizer diff` prints the lines, and the operator page shows them.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Final

from index.types import Bundle, Example

_MAX_QUERY_CHARACTERS: Final = 70
_UNIT: Final = re.compile(r"[^\n]*?(?:[.!?](?=\s)|\n|\Z)\s*")


def prompt_units(prompt: str) -> tuple[str, ...]:
    """Split a prompt into sentences and lines. The parts, joined without a separator, are the prompt again."""
    return tuple(found for found in _UNIT.findall(prompt) if found)


def differences(before: Bundle, after: Bundle) -> Iterator[str]:
    """Yield a heading for each part that differs (prompt, examples, settings), and one line for each difference.

    `-` marks a removed sentence or example, and `+` marks an added sentence or example. `~` marks an example whose
    answer changed, or that is pinned in only one of the bundles. A changed setting is written as `old -> new`. Of the
    example sets, only their prompts are compared. The comparison ignores the names and provenance of the bundles, and
    the ids and tags of examples.
    """
    yield from _prompt_differences("prompt", before.prompt, after.prompt)
    yield from _set_prompt_differences(before.set_prompts, after.set_prompts)
    yield from _example_differences(before, after)
    yield from _setting_differences(before, after)


def _set_prompt_differences(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """Yield the differences between the prompts of example sets. Sets with the same difference share one heading."""
    changes: dict[tuple[str, str], list[str]] = {}
    for name in dict.fromkeys((*before, *after)):
        changes.setdefault((before.get(name, ""), after.get(name, "")), []).append(name)
    for (old, new), names in changes.items():
        yield from _prompt_differences(f"prompt of {', '.join(names)}, instead of the bundle's", old, new)


def _prompt_differences(heading: str, before: str, after: str) -> Iterator[str]:
    if before == after:
        return
    yield heading
    old, new = ([unit.strip() for unit in prompt_units(prompt)] for prompt in (before, after))
    for line in difflib.ndiff(old, new):
        if line[:2] in ("- ", "+ "):
            yield f"  {line}"


def _example_differences(before: Bundle, after: Bundle) -> Iterator[str]:
    old, new = ({example.query: example for example in bundle.examples} for bundle in (before, after))
    removed = sorted((old[query] for query in old.keys() - new.keys()), key=lambda example: example.id)
    added = sorted((new[query] for query in new.keys() - old.keys()), key=lambda example: example.id)
    shared = [(old[query], new[query]) for query in old if query in new]
    changed = [(one, other) for one, other in shared if (one.response, one.pinned) != (other.response, other.pinned)]
    if not (removed or added or changed):
        return
    yield f"examples: {len(before.examples)} -> {len(after.examples)}"
    yield from (f"  - {_example_line(example)}" for example in removed)
    yield from (f"  + {_example_line(example)}" for example in added)
    for one, other in changed:
        change = "answer" if one.response != other.response else f"pinned: {one.pinned} -> {other.pinned}"
        yield f"  ~ {_example_line(other)}: {change}"


def _setting_differences(before: Bundle, after: Bundle) -> Iterator[str]:
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


def _example_line(example: Example) -> str:
    query = " ".join(example.query.split())
    shortened = query if len(query) <= _MAX_QUERY_CHARACTERS else f"{query[:_MAX_QUERY_CHARACTERS]}..."
    return f"{example.id}: {shortened}"
