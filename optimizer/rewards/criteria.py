"""The criteria by which a judge scores answers: those of templates/criteria.toml, and those that a judge defines.

The text of a criterion becomes a part of later requests to the judge. What a judge defines is therefore checked when it
is read, and is left out if it cannot be used. All functions are pure.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from index.bundle.example_bank import refuse_unsafe
from index.embedders.base import encodable
from index.errors import BundleError
from optimizer.core.model_tables import ANCHORED, JudgeTable
from optimizer.rewards.judge_replies import MAX_SCORE, MIN_SCORE, criterion_key
from optimizer.templates import criteria_table

_DEFAULT_CRITERIA: Final = ("helpfulness", "factuality", "clarity", "safety")
_MAX_NAME_LENGTH: Final = 40  # characters
_MAX_TEXT_LENGTH: Final = 500  # characters
_TEXTS: Final = ("asks", "one", "five")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One aspect by which a judge scores an answer.

    Attributes:
        name: The name in lower case.
        question: The question about an answer that the judge has to consider.
        anchors: For some of the scores from 1 to 5: the description of an answer that deserves this score.
        reason: Why the judge chose the criterion for a query. Empty if it gave no reason.
    """

    name: str
    question: str
    anchors: Mapping[int, str]
    reason: str = ""


def rubric(criterion: Criterion, table: JudgeTable) -> str:
    """Return the text that describes a criterion to the judge when it scores an answer."""
    lines = [f"- {criterion.name}: {criterion.question}"]
    if table.reasons and criterion.reason:
        lines.append(f"    chosen because: {criterion.reason}")
    if table.manner == ANCHORED:
        lines += [f"    {score}: {text}" for score, text in sorted(criterion.anchors.items())]
    return "\n".join(lines)


def template_criteria(names: Collection[str] = ()) -> dict[str, Criterion]:
    """Return the criteria of templates/criteria.toml by name: those with these names, or all if `names` is empty."""
    return {
        name: Criterion(name, entry["asks"], {int(score): entry[score] for score in ("1", "3", "5")})
        for name, entry in criteria_table().items()
        if not names or name in names
    }


def new_criterion(definition: Mapping[str, str]) -> Criterion:
    """Return a criterion that the judge defined in a reply, from what `read_definitions` returns for it."""
    anchors = {MIN_SCORE: definition["one"], MAX_SCORE: definition["five"]}
    return Criterion(definition["name"], definition["asks"], anchors)


def default_criteria(names: Collection[str] = ()) -> tuple[Criterion, ...]:
    """Return the criteria for a query for which the judge's choice cannot be read.

    Args:
        names: The criteria from which the judge chooses; all if empty. The result contains the usual four criteria, as
            far as they are in `names`. If `names` has none of the four, the result contains all of `names`.
    """
    known = template_criteria(names)
    return tuple(known[name] for name in _DEFAULT_CRITERIA if name in known) or tuple(known.values())


def known_reasons(chosen: Sequence[Any], names: Collection[str]) -> dict[str, str]:
    """Return the known names in a judge's choice, each with the judge's reason for it. A reason may be empty.

    Args:
        chosen: The names that the judge chose, in any spelling, such as "Critical_Thinking". An entry may be an object
            with the keys `name` and `reason`.
        names: The names of the known criteria, as the result writes them.
    """
    known = {criterion_key(name): name for name in names}
    reasons: dict[str, str] = {}
    for one in chosen:
        name = one.get("name") if isinstance(one, dict) else one
        if isinstance(name, str) and criterion_key(name) in known:
            reasons.setdefault(known[criterion_key(name)], _reason(one))
    return reasons


def _reason(chosen: Any) -> str:
    """Return the reason in an entry of a judge's choice: one line, which cannot forge a part of a request."""
    reason = chosen.get("reason") if isinstance(chosen, dict) else None
    return one_line(reason) if isinstance(reason, str) else ""


def one_line(text: str) -> str:
    """Return a text of a judge as one line of at most 500 characters, without half of a surrogate pair."""
    return " ".join(encodable(text).split())[:_MAX_TEXT_LENGTH]


def names_in(text: str, known: Collection[str]) -> list[str]:
    """Return the known criteria that a text names, in the order of their first mention; none if it has a brace."""
    if "{" in text:
        return []
    mentions = {name: re.search(rf"\b{name.replace('-', '[ _-]')}\b", text, re.IGNORECASE) for name in known}
    found = {name: mention.start() for name, mention in mentions.items() if mention}
    return sorted(found, key=lambda name: found[name])


def read_definitions(definitions: Sequence[Any]) -> dict[str, Mapping[str, str]]:
    """Read the criteria that a judge defined, and return the usable definitions by name.

    A definition is left out if a part is missing, is no text, is too long or is unsafe in a request. The first
    definition of a name counts. A criterion of templates/criteria.toml cannot be defined anew.
    """
    found: dict[str, Mapping[str, str]] = {}
    for definition in definitions:
        if (usable := _usable_definition(definition)) is not None:
            found.setdefault(usable["name"], usable)
    known = set(map(criterion_key, criteria_table()))
    return {name: definition for name, definition in found.items() if name not in known}


def _usable_definition(definition: Any) -> Mapping[str, str] | None:
    fields = ("name", *_TEXTS)
    if not isinstance(definition, dict) or not all(isinstance(definition.get(name), str) for name in fields):
        return None
    name = criterion_key(encodable(definition["name"]))
    # A rubric is a list with one line for each text, so that a text of several lines could forge a part of the request.
    texts = {key: " ".join(encodable(definition[key]).split()) for key in _TEXTS}
    is_short = 0 < len(name) <= _MAX_NAME_LENGTH and all(0 < len(one) <= _MAX_TEXT_LENGTH for one in texts.values())
    try:
        for field in fields:
            refuse_unsafe(definition[field], "the definition")
    except BundleError:
        return None
    return {"name": name, **texts} if is_short else None
