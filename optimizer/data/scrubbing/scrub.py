"""Replaces the private data of texts with placeholders such as [e-mail address], and counts what was replaced."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from optimizer.data.scrubbing.addresses import find_addresses
from optimizer.data.scrubbing.findings import NAME, Finding, Rule
from optimizer.data.scrubbing.names import find_known_names, find_names
from optimizer.data.scrubbing.numbers import find_numbers
from optimizer.data.scrubbing.places import find_documents, find_places
from optimizer.data.scrubbing.secrets import find_secrets

RULES: Final[tuple[Rule, ...]] = (find_secrets, find_addresses, find_documents, find_numbers, find_places, find_names)
"""All rules. If the findings of two rules overlap, the placeholder is that of the earlier rule."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """Texts of one conversation without private data.

    Attributes:
        texts: The texts, in the order in which they were given.
        found: The number of replaced parts of each kind, such as {"e-mail address": 2}. It holds no private data.
    """

    texts: tuple[str, ...] = field(repr=False)
    found: Mapping[str, int]


def scrub(texts: Sequence[str]) -> Scrubbed:
    """Replace the private data in the texts of one conversation.

    A name that one of the texts introduces is replaced wherever it occurs in any of them.
    """
    findings = [[*_findings(text)] for text in texts]
    introduced = [(text, one) for text, own in zip(texts, findings, strict=True) for one in own if one.kind == NAME]
    names = {text[one.start : one.end].strip() for text, one in introduced}
    found: Counter[str] = Counter()
    scrubbed = []
    for text, own in zip(texts, findings, strict=True):
        parts = _without_overlaps([*own, *find_known_names(text, names)])
        found.update(one.kind for one in parts)
        scrubbed.append(_replaced(text, parts))
    return Scrubbed(tuple(scrubbed), dict(found))


def is_private(text: str) -> bool:
    """Whether a rule finds private data in a text."""
    return any(True for _ in _findings(text))


def _findings(text: str) -> Iterable[Finding]:
    return (one for rule in RULES for one in rule(text))


def _without_overlaps(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings that do not overlap, in the order of the text. Overlapping findings are joined to one.

    The kind of joined findings is that of the first rule. But every other kind takes precedence over a name.
    """
    ranked = {kind: rank for rank, kind in reversed(list(enumerate(one.kind for one in findings)))}
    joined: list[Finding] = []
    for one in sorted(findings, key=lambda one: (one.start, -one.end)):
        if joined and one.start < joined[-1].end:
            last = joined[-1]
            kind = min(last.kind, one.kind, key=lambda kind: (kind == NAME, ranked[kind]))
            joined[-1] = Finding(kind, last.start, max(last.end, one.end))
        else:
            joined.append(one)
    return joined


def _replaced(text: str, parts: Sequence[Finding]) -> str:
    pieces, position = [], 0
    for one in parts:
        pieces += [text[position : one.start], f"[{one.kind}]"]
        position = one.end
    return "".join([*pieces, text[position:]])
