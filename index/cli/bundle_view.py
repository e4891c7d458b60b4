"""Renders a bundle as a page for a terminal, with the library rich. This module opens no files.

The texts of a bundle are not trusted, so this module shows them as plain text and never as markup. It replaces control
characters by visible symbols, because a terminal would obey a control character.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from index.counted import counted
from index.retrieval.selection import Selection
from index.types import Bundle, Example, Hit, RetrievalPolicy, Retrieved

_MAX_SHORT_CHARACTERS = 60
_VISIBLE_CONTROLS: Mapping[int, int] = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}


def bundle_page(bundle: Bundle, full: bool) -> RenderableType:
    """Return the page of a bundle: facts, prompt and examples.

    If `full` is true, the page contains the complete text of each example. Otherwise it contains a table with the
    beginning of each query and answer.
    """
    examples = [_full_example(example) for example in bundle.examples] if full else [_table(bundle.examples)]
    return Group(_facts(bundle), _prompt_panel("prompt.txt", bundle.prompt), *_set_prompts(bundle), *examples)


def _set_prompts(bundle: Bundle) -> Iterable[RenderableType]:
    """Yield each prompt that sets have instead of prompt.txt, with the names of these sets."""
    for prompt in dict.fromkeys(bundle.set_prompts.values()):
        names = [name for name, own in bundle.set_prompts.items() if own == prompt]
        yield plain(f"Instead of prompt.txt, requests with {', '.join(names)} get:")
        yield _prompt_panel("prompt of sets", prompt)


def _prompt_panel(title: str, prompt: str) -> RenderableType:
    return Panel(plain(prompt), title=plain(title), title_align="left")


def search_page(selection: Selection, retrieved: Retrieved, bundle: Bundle) -> RenderableType:
    """Return a page with the examples that a request gets, and why: the set, the similarities and the floor."""
    table = Table(title="Examples shown", title_justify="left")
    for heading in ("similarity", "shown as", "id", "query"):
        table.add_column(heading, no_wrap=heading != "query", justify="right" if heading == "similarity" else "left")
    for example in selection.pinned:
        table.add_row("", "pinned", plain(example.id), _short(example.query))
    parts = ((f"set {retrieved.set_name}", selection.in_set), ("nearest", selection.nearest))
    for part, hit in ((part, hit) for part, hits in parts for hit in hits):
        table.add_row(f"{hit.similarity:.3f}", plain(part), plain(hit.example.id), _short(hit.example.query))
    return Group(table, *(plain(line) for line in _reasons(selection.in_set, retrieved, bundle)))


def _reasons(in_set: Sequence[Hit], retrieved: Retrieved, bundle: Bundle) -> Iterable[str]:
    """Yield sentences that say why these examples and this prompt were chosen."""
    policy = bundle.manifest.retrieval
    similarity = "unknown" if retrieved.similarity is None else f"{retrieved.similarity:.3f}"
    if retrieved.is_below_floor:
        shown = f"the neutral set {retrieved.set_name}" if in_set else "only the pinned examples"
        floor = f"{policy.similarity_floor:g}"
        yield f"Most similar example: {similarity}, below the floor of {floor}. The query gets {shown}."
    elif policy.similarity_floor is None:
        yield f"Most similar example: {similarity}. The bundle has no similarity floor."
    else:
        yield f"Most similar example: {similarity}, not below the floor of {policy.similarity_floor:g}."
    if in_set and not retrieved.is_below_floor:
        yield f"The {policy.voters} nearest examples voted for the set {retrieved.set_name}."
    if retrieved.set_name in bundle.set_prompts:
        yield f"The set {retrieved.set_name} has a prompt of its own, which stands instead of prompt.txt."
    if covered := [hit.example.id for hit in retrieved.nearest[: policy.k] if hit.position in retrieved.covered]:
        yield f"The set already shows these nearest examples: {', '.join(covered)}."


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
        ("retrieval", "\n".join(_policy_facts(policy, len(bundle.sets)))),
        ("sampling", _pairs(manifest.sampling.items()) or "none"),
        ("embedder", f"{embedder.name}, revision {embedder.revision}, {embedder.dimension} dimensions"),
        ("provenance", _pairs(manifest.provenance.items()) or "none"),
    ):
        table.add_row(Text(name, style="bold"), plain(value))
    return table


def _policy_facts(policy: RetrievalPolicy, sets: int) -> Iterable[str]:
    yield f"{policy.policy}, {policy.max_injected_tokens:,} tokens at most"
    if policy.policy != "nearest":
        votes = "the nearest example votes" if policy.voters == 1 else f"the {policy.voters} nearest examples vote"
        yield f"one of {counted(sets, 'set')}, for which {votes}"
    if policy.shows_nearest:
        limit = f", {policy.max_nearest_tokens:,} tokens at most" if policy.max_nearest_tokens is not None else ""
        yield f"the nearest {policy.k}, {policy.order}{limit}"
    yield f"an example counts only if its similarity to the query is at least {policy.minimum_similarity:g}"
    yield f"of two examples with a similarity of at least {policy.duplicate_similarity:g}, only one is shown"
    neutral = f"the neutral set {policy.neutral_set}" if policy.neutral_set else "only the pinned examples"
    if policy.similarity_floor is None:
        yield "no similarity floor: `drpo-index policy` measures one"
    else:
        yield f"similarity floor {policy.similarity_floor:g}: a query below it gets {neutral}"


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
