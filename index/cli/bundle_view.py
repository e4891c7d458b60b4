"""Renders a bundle as a page for a terminal, with the library rich. This module opens no files.

The texts of a bundle are not trusted, so this module shows them as plain text and never as markup. It replaces control
characters by visible symbols, because a terminal would obey a control character.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from index.types import Bundle, Example, Hit

_MAX_SHORT_CHARACTERS = 60
_VISIBLE_CONTROLS: Mapping[int, int] = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}


class PageConsole(Console):
    """A console that raises BrokenPipeError if the process that reads its output ends early.

    drpo-index catches this error and chooses the exit code. rich's own console would end the program with exit code 1.
    """

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def bundle_page(bundle: Bundle, full: bool) -> RenderableType:
    """Return the page of a bundle: facts, prompt and examples.

    If `full` is true, the page contains the complete text of each example. Otherwise it contains a table with the
    beginning of each query and answer.
    """
    examples = [_full_example(example) for example in bundle.examples] if full else [_table(bundle.examples)]
    return Group(_facts(bundle), Panel(plain(bundle.prompt), title="prompt.txt", title_align="left"), *examples)


def search_page(pinned: Iterable[Example], hits: Sequence[Hit]) -> RenderableType:
    """Return a table of the examples that a request gets: the pinned examples, then the hits with similarities."""
    table = Table(title="Examples shown", title_justify="left")
    for heading in ("similarity", "id", "query"):
        table.add_column(heading, no_wrap=heading != "query", justify="right" if heading == "similarity" else "left")
    for example in pinned:
        table.add_row("pinned", plain(example.id), _short(example.query))
    for hit in hits:
        table.add_row(f"{hit.similarity:.3f}", plain(hit.example.id), _short(hit.example.query))
    return table


def plain(text: str) -> Text:
    """Return `text` as text that rich does not parse as markup.

    Visible symbols replace all control characters except line breaks and tabs.
    """
    return Text(text.translate(_VISIBLE_CONTROLS))


def _facts(bundle: Bundle) -> RenderableType:
    manifest, policy = bundle.manifest, bundle.manifest.retrieval
    embedder, pinned = manifest.embedder, sum(example.pinned for example in bundle.examples)
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("bundle", manifest.name),
        ("id", bundle.id),
        ("model", manifest.model),
        ("layout", manifest.layout),
        ("examples", f"{len(bundle.examples):,}, of them {pinned:,} pinned"),
        ("retrieval", f"at most {policy.k}, similarity at least {policy.minimum_similarity:g}, {policy.order}"),
        ("", f"near-duplicates from {policy.duplicate_similarity:g}, {policy.max_injected_tokens:,} tokens at most"),
        ("sampling", _pairs(manifest.sampling.items()) or "none"),
        ("embedder", f"{embedder.name}, revision {embedder.revision}, {embedder.dimension} dimensions"),
        ("provenance", _pairs(manifest.provenance.items()) or "none"),
    ):
        table.add_row(Text(name, style="bold"), plain(value))
    return table


def _pairs(items: Iterable[tuple[str, object]]) -> str:
    return "\n".join(f"{key} = {value if isinstance(value, str) else json.dumps(value)}" for key, value in items)


def _table(examples: Iterable[Example]) -> RenderableType:
    table = Table(title="examples.jsonl", title_justify="left")
    table.add_column("id", overflow="fold")
    for heading in ("pinned", "tags", "query", "response"):
        table.add_column(heading)
    for example in examples:
        pinned, tags = "yes" if example.pinned else "", plain(", ".join(example.tags))
        table.add_row(plain(example.id), pinned, tags, _short(example.query), _short(example.response))
    return table


def _full_example(example: Example) -> RenderableType:
    facts = [example.id, *(["pinned"] if example.pinned else []), *example.tags]
    heading = Rule(plain(", ".join(facts)), align="left")
    return Group(heading, plain(example.query), Text(), plain(example.response), Text())


def _short(text: str) -> Text:
    line = " ".join(text.split())
    return plain(line if len(line) <= _MAX_SHORT_CHARACTERS else f"{line[: _MAX_SHORT_CHARACTERS - 1]}…")
