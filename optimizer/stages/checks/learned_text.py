"""Finds prompts and examples that a bundle should not learn: copies, loops, and texts that try to influence the judge.

A prompt that holds the words of a training row helps with this row and no other. The settings `shared_words` and
`repeated` of [search] and [examples] are the limits.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from index.measures.answer_form import repeated_share
from index.measures.word_sequences import Sequences, word_sequences
from index.types import Example
from optimizer.core.candidate import Candidate
from optimizer.core.config_tables import REFERENCE, ExamplesTable, RunConfig, SearchTable
from optimizer.data.dataset import Row
from optimizer.data.split import normalized
from optimizer.rewards.pleading import pleads

SPEAKS_TO_JUDGE: Final = "tries to influence the judge"
_COMMON_ROWS: Final = 3
"""If this many rows with different queries contain a sequence of words, it is a common phrase, such as a refusal."""


@dataclass(frozen=True, slots=True)
class TextLimits:
    """The limits for a learned text.

    Attributes:
        shared_words: A text must not share this many consecutive words with a training row. 0 means no limit. It also
            turns off the check for texts that try to influence the judge.
        repeated: The largest share of repeated sequences of four words. 1 means no limit.
    """

    shared_words: int
    repeated: float

    @classmethod
    def of(cls, table: SearchTable | ExamplesTable) -> "TextLimits":
        """Return the limits of a table of run.toml."""
        return cls(table.shared_words, table.repeated)


@dataclass(frozen=True, slots=True)
class RowSequences:
    """The sequences of words of a row. Common phrases, which several rows share, are left out.

    Attributes:
        query: The text of the query.
        turns: The sequences of the query and the turns before it.
        reference: The sequences of the reference.
    """

    query: str
    turns: Sequences
    reference: Sequences

    def without(self, sequences: Sequences) -> "RowSequences":
        """Return the row without these sequences."""
        return RowSequences(self.query, self.turns - sequences, self.reference - sequences)


class LearnedTexts:
    """Compares learned texts with the rows."""

    def __init__(self, config: RunConfig, rows: Sequence[Row], others: Sequence[Row] = ()) -> None:
        """Find the sequences of words of the rows.

        Args:
            config: The settings of run.toml.
            rows: The training rows.
            others: The rows of the other parts of the data: validation and sealed. An example whose query is not in a
                row is compared with these rows, too.
        """
        self._prompts, self._examples = TextLimits.of(config.search), TextLimits.of(config.examples)
        self._may_be_reference = config.examples.first == REFERENCE
        lengths = {limits.shared_words for limits in (self._prompts, self._examples)} - {0}
        self._rows = {length: _row_sequences(rows, length) for length in lengths}
        every = _different_rows([*rows, *others])
        self._queries = frozenset(row.query for row in every)
        self._turns = frozenset(normalized(message.text) for row in every for message in row.messages)
        length = self._examples.shared_words
        found = _row_sequences(every, length) if length else []
        self._every = frozenset(chain.from_iterable(row.turns | row.reference for row in found))

    def question_fault(self, question: str) -> str:
        """Return why a new question must not become an example; an empty text if it may.

        It must not equal a turn of a row in any part of the data; case, punctuation and white space are ignored. It
        must not copy a row either. Otherwise, `example_fault` would drop the example after its answer was paid for.
        """
        if normalized(question) in self._turns:
            return "is the same as a turn of a row"
        return self._copies_any_row(question)

    def candidate_fault(self, child: Candidate, parent: Candidate) -> str:
        """Return why a candidate should not be used; an empty text if it can.

        Only what is new compared with the parent is checked.
        """
        if child.prompt != parent.prompt and (why := self.prompt_fault(child.prompt, parent.prompt)):
            return why
        known = set(parent.bank.examples)
        new = (one for one in child.bank.examples if one not in known)
        return next((f"an example {why}" for one in new if (why := self._answer_fault(one))), "")

    def prompt_fault(self, prompt: str, earlier: str) -> str:
        """Return why a prompt should not be used. Words that are in the earlier prompt do not count."""
        return self._form_fault(prompt, self._prompts, earlier, "") or self._copy_fault(
            prompt, self._prompts, earlier, ""
        )

    def example_fault(self, example: Example) -> str:
        """Return why an example should not be used.

        Its answer may repeat its own query. It may repeat the reference of its own row only if `[examples] first` makes
        examples from references. If no row has its query, its query and its answer must not copy a row of any part.
        """
        return self._answer_fault(example) or self._written_fault(example)

    def _answer_fault(self, example: Example) -> str:
        limits = self._examples
        return self._form_fault(example.response, limits, "", example.query) or self._copy_fault(
            example.response, limits, "", example.query
        )

    def _written_fault(self, example: Example) -> str:
        if example.query in self._queries:
            return ""
        return self._copies_any_row(example.query) or self._copies_any_row(example.response)

    def _copies_any_row(self, text: str) -> str:
        length = self._examples.shared_words
        is_copy = bool(length) and not self._every.isdisjoint(word_sequences(text, length))
        return f"shares {length} consecutive words with a row" if is_copy else ""

    def _form_fault(self, text: str, limits: TextLimits, earlier: str, query: str) -> str:
        if repeated_share(text) > max(limits.repeated, repeated_share(earlier)):
            return "repeats itself"
        return SPEAKS_TO_JUDGE if limits.shared_words and pleads(text, query) and not pleads(earlier) else ""

    def _copy_fault(self, text: str, limits: TextLimits, earlier: str, own_query: str) -> str:
        length = limits.shared_words
        if not length:
            return ""
        new = word_sequences(text, length) - word_sequences(earlier, length)
        is_copy = any(new & self._forbidden(row, own_query) for row in self._rows[length])
        return f"shares {length} consecutive words with a training row" if is_copy else ""

    def _forbidden(self, row: RowSequences, own_query: str) -> Sequences:
        """Return the sequences of a row that a text must not have."""
        if row.query != own_query:
            return row.turns | row.reference
        return frozenset() if self._may_be_reference else row.reference - row.turns


def _different_rows(rows: Sequence[Row]) -> Sequence[Row]:
    """Return each row once. Otherwise, the words of a row that is in two parts would look more common than they are."""
    return list({(row.reference, *(message.text for message in row.messages)): row for row in rows}.values())


def _row_sequences(rows: Sequence[Row], length: int) -> list[RowSequences]:
    found = [_one_row(row, length) for row in rows]
    counts = Counter(chain.from_iterable(_by_text(rows, found, length).values()))
    common = frozenset(one for one, count in counts.items() if count >= _COMMON_ROWS)
    return [row.without(common) for row in found]


def _by_text(rows: Sequence[Row], found: Sequence[RowSequences], length: int) -> Mapping[str, set[tuple[str, ...]]]:
    """Return the sequences of each distinct turn, by the text of the turn.

    The sequences of a reference are added to those of its query. If several rows repeat a query or an earlier turn, its
    sequences are counted once, so they are no common phrase.
    """
    texts: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for row, sequences in zip(rows, found, strict=True):
        for message in row.messages:
            texts[normalized(message.text)] |= word_sequences(message.text, length)
        texts[normalized(row.query)] |= sequences.reference - sequences.turns
    return texts


def _one_row(row: Row, length: int) -> RowSequences:
    turns = (word_sequences(message.text, length) for message in row.messages)
    return RowSequences(row.query, frozenset(chain(*turns)), word_sequences(row.reference or "", length))
