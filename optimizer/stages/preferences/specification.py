"""Lets the writer model state in a short list what people prefer. The list is shown to it when it rewrites prompts.

About 20 pairs are enough for such a list (Krishnan, Goyal and Savelka 2026, arXiv 2606.24004). The pairs come from
users, so each item is checked like a new prompt. An item must not copy a row or a pair, try to influence the judge, or
hold private data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from index.control_tokens import find_control_token
from index.layouts import find_marker
from index.measures.answer_form import word_count
from index.measures.word_sequences import Sequences, word_sequences
from optimizer.core.errors import ModelError, UnparsableReplyError
from optimizer.core.journal import SPECIFICATION
from optimizer.data.preferences import SOURCES, PreferencePair, Preferences
from optimizer.data.scrubbing.scrub import is_private, scrub
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.reply_text import answer_text, find_object, text_field
from optimizer.models.request import Json, Request, reply_reader
from optimizer.stages.candidate_gate import CandidateGate
from optimizer.stages.writer_protocol import ROLE
from optimizer.templates import template

MAX_PAIRS: Final = 20
MAX_COMMENTS: Final = 20
MAX_RULES: Final = 6
_MAX_RULE_WORDS: Final = 40
_MAX_CHARACTERS: Final = 600
_MAX_TOKENS: Final = 1024
_TEMPERATURE: Final = 0.0
_COPIED_WORDS: Final = 8
_SOURCE: Final = "preferences"


@dataclass(frozen=True, slots=True)
class Specification:
    """What people prefer in an answer.

    Attributes:
        rules: Short sentences. The writer model puts the clearest preference first. Empty if the pairs show nothing.
    """

    rules: tuple[str, ...] = field(default=())

    @property
    def text(self) -> str:
        """The rules as a list, one on each line; an empty text if there are none."""
        return "\n".join(f"- {rule}" for rule in self.rules)


async def state_preferences(calls: CachedCalls, gate: CandidateGate, preferences: Preferences) -> Specification:
    """Ask the writer model what people prefer. Rules that fail the checks are dropped, and the journal counts them.

    Args:
        calls: Calls the writer model.
        gate: Checks the rules, and journals those that are dropped.
        preferences: The pairs and the comments. At most 20 of each are shown, the pairs of the clearest sources first.

    Raises:
        ModelError: The writer model gave no usable answer, but a later call may succeed.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    shown, comments = shown_pairs(preferences.pairs), preferences.comments
    if not shown and not comments:
        return Specification()
    try:
        kept = await calls.ask(specification_request(shown, comments), read_rules)
    except ModelError as error:
        await gate.drop_failed(SPECIFICATION, _SOURCE, error)
        return Specification()
    await gate.drop_each(SPECIFICATION, _SOURCE, kept["dropped"])
    copied = _sequences(shown, comments)
    faults = [(rule, rule_fault(rule, copied) or gate.prompt_fault(rule)) for rule in dict.fromkeys(kept["rules"])]
    await gate.drop_each(SPECIFICATION, _SOURCE, [why for _, why in faults if why])
    return Specification(tuple(rule for rule, why in faults if not why)[:MAX_RULES])


def shown_pairs(pairs: Sequence[PreferencePair]) -> Sequence[PreferencePair]:
    """Return the pairs that the writer model sees: those of the clearest sources, with different questions."""
    by_query: dict[str, PreferencePair] = {}
    for one in sorted(pairs, key=lambda one: SOURCES.index(one.source)):
        by_query.setdefault(one.query, one)
    return list(by_query.values())[:MAX_PAIRS]


def specification_request(pairs: Sequence[PreferencePair], comments: Sequence[str] = ()) -> Request:
    """Return the request that asks what people prefer. Texts are shortened, and private data is replaced."""
    texts = [_pair_text(number, pair) for number, pair in enumerate(pairs, start=1)]
    written = dict.fromkeys([*(pair.comment for pair in pairs if pair.comment), *comments])
    lines = [f"- {_short(comment)}" for comment in list(written)[:MAX_COMMENTS]]
    prompt = template("state_preferences").format(
        pairs="\n\n".join(texts) or "(none)", comments="\n".join(lines) or "(none)", count=MAX_RULES
    )
    messages = [{"role": "user", "content": prompt}]
    body = {"messages": messages, "temperature": _TEMPERATURE, "max_tokens": _MAX_TOKENS}
    reminder = 'Reply with JSON only: {"preferences": [...]}'
    return Request(ROLE, "chat/completions", body, reminder=reminder)


@reply_reader("optimizer.preferences.read_rules")
def read_rules(reply: Any) -> Json:
    """Read the rules of the writer model, and the reason for each item that is no text.

    Raises:
        UnparsableReplyError: There is no list.
    """
    found = find_object(answer_text(reply["choices"][0]), lambda value: isinstance(value.get("preferences"), list))
    if found is None:
        raise UnparsableReplyError("no list of preferences was found")
    rules, dropped = [], []
    for one in found.value["preferences"]:
        try:
            rules.append(" ".join(text_field({"item": one}, "item").split()).removeprefix("- "))
        except UnparsableReplyError as error:
            dropped.append(str(error))
    return {"rules": [rule for rule in rules if rule], "dropped": dropped}


def rule_fault(rule: str, copied: Sequences) -> str:
    """Return why a rule should not be used; an empty text if it can.

    Args:
        rule: The rule.
        copied: The sequences of words of the pairs and the comments, which a rule must not share.
    """
    if word_count(rule) > _MAX_RULE_WORDS:
        return f"more than {_MAX_RULE_WORDS} words"
    if find_marker(rule) or find_control_token(rule):
        return "holds a marker of a turn"
    if is_private(rule):
        return "holds private data"
    is_copy = bool(word_sequences(rule, _COPIED_WORDS) & copied)
    return f"shares {_COPIED_WORDS} consecutive words with a pair or a comment" if is_copy else ""


def _sequences(pairs: Sequence[PreferencePair], comments: Sequence[str]) -> Sequences:
    texts = [text for one in pairs for text in (one.query, one.chosen, one.rejected, one.comment)]
    return frozenset(one for text in (*texts, *comments) for one in word_sequences(text, _COPIED_WORDS))


def _pair_text(number: int, pair: PreferencePair) -> str:
    query, chosen, rejected = (_short(text) for text in scrub([pair.query, pair.chosen, pair.rejected]).texts)
    return f"--- question {number} ---\n{query}\n\nPreferred:\n{chosen}\n\nNot preferred:\n{rejected}"


def _short(text: str) -> str:
    (plain,) = scrub([text]).texts
    return plain if len(plain) <= _MAX_CHARACTERS else f"{plain[:_MAX_CHARACTERS]} ..."
