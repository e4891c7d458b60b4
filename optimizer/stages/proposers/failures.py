"""Groups the outcomes of a candidate by kind and language of the row, and by the criterion that the answer missed.

All functions are pure. A group says where a candidate loses most of its reward, so that proposers can act on it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from index.counted import counted
from optimizer.data.dataset import REFUSE, Row
from optimizer.rewards.scorer import ScoredReply
from optimizer.search.space import Outcome

WRONG_REFUSAL: Final = "wrong_refusal"
NO_REFUSAL: Final = "no_refusal"
UNENDED: Final = "unended"
REPEATS: Final = "repeats"
UNLIKE: Final = "unlike_reference"
_DESCRIPTIONS: Final[Mapping[str, str]] = {
    WRONG_REFUSAL: "refused, although a good answer helps",
    NO_REFUSAL: "answered, although a good answer refuses",
    UNENDED: "cut off, because the answer did not end by itself",
    REPEATS: "repeats itself",
    UNLIKE: "unlike the reference answer",
}
_MIN_FRESH: Final = 0.8
"""An answer repeats itself if less than this share of its word 4-grams is new."""
_MIN_SIMILARITY: Final = 0.6
_LOW_SHARE: Final = 1 / 3
"""An answer is unlike its reference if its similarity is below 0.6, and in the lowest third of the similarities.

If several answers have the highest similarity of this third, all of them count.
"""
_MIN_CRITERION: Final = 3.5
"""An answer fails a judge's criterion if its score, from 1 to 5, is below this value."""
_MIN_REWARD: Final = 0.5
"""An answer fails any other reward if the value, from 0 to 1, is below this value."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The answers to one kind of rows in one language that missed one criterion.

    Attributes:
        kind: The kind of the rows: `general`, `comply` or `refuse`.
        criterion: What was missed: one of the constants of this module, the name of a judge's criterion, or the name of
            a reward.
        outcomes: The outcomes with these answers, the lowest score first.
        answered: The number of rows of this kind and language that were answered.
        language: The language of the rows; empty if the rows do not name one.
    """

    kind: str
    criterion: str
    outcomes: tuple[Outcome, ...]
    answered: int
    language: str = ""

    @property
    def loss(self) -> float:
        """How much reward the failure costs: the sum of 1 minus the score of each of these answers."""
        return sum(1.0 - outcome.score for outcome in self.outcomes)

    @property
    def text(self) -> str:
        """The failure in words, with its counts."""
        what = _DESCRIPTIONS.get(self.criterion, f"low score for {self.criterion}")
        return f"{len(self.outcomes)} of {counted(self.answered, 'answer')} to {self.rows}: {what}"

    @property
    def rows(self) -> str:
        """The rows in words, such as `refuse queries in de`."""
        return f"{self.kind} queries" + (f" in {self.language}" if self.language else "")


def evidence(outcome: Outcome) -> tuple[Row, ScoredReply]:
    """Return the row and the scored answer of an outcome of the search."""
    return cast("tuple[Row, ScoredReply]", outcome.evidence)  # CandidateSpace.score stores this pair


def group_failures(outcomes: Sequence[Outcome]) -> tuple[Failure, ...]:
    """Return the failures in the outcomes. The failures that cost most reward come first.

    Outcomes whose verdicts could not be read are left out.
    """
    readable = [outcome for outcome in outcomes if outcome.readable and outcome.evidence is not None]
    answered: Counter[tuple[str, str]] = Counter()
    limit = _similarity_limit(readable)
    groups: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    for outcome in sorted(readable, key=lambda one: one.score):
        row, scored = evidence(outcome)
        answered[row.kind, row.language] += 1
        for criterion in missed_criteria(row, scored, limit):
            groups[row.kind, row.language, criterion].append(outcome)
    found = [
        Failure(kind, criterion, tuple(ones), answered[kind, language], language)
        for (kind, language, criterion), ones in groups.items()
    ]
    return tuple(sorted(found, key=lambda failure: (-failure.loss, failure.rows, failure.criterion)))


def missed_criteria(row: Row, scored: ScoredReply, similarity_limit: float = _MIN_SIMILARITY) -> Iterator[str]:
    """Yield the criteria that a scored answer misses.

    Args:
        row: The row.
        scored: The answer, with the scores of the rewards.
        similarity_limit: The highest similarity to the reference with which an answer can be unlike it.
    """
    for name, part in scored.parts.items():
        if name == "rules":
            yield from _missed_rules(row, part.details)
        elif name == "reference":
            yield from [UNLIKE] if part.value < _MIN_SIMILARITY and part.value <= similarity_limit else []
        elif name == "judge" and part.details:
            yield from (one for one, detail in part.details.items() if _is_low(detail))
        elif part.value < _MIN_REWARD:
            yield name


def _is_low(detail: Any) -> bool:
    """Whether a detail of the judge is a low score, or has no score because the judge did not see the answer."""
    return not isinstance(detail, dict) or detail["score"] < _MIN_CRITERION


def _missed_rules(row: Row, checks: Mapping[str, Any]) -> Iterator[str]:
    if not checks["right"]:
        yield NO_REFUSAL if row.kind == REFUSE else WRONG_REFUSAL
    if not checks["ends"]:
        yield UNENDED
    if checks["fresh"] < _MIN_FRESH:
        yield REPEATS


def _similarity_limit(outcomes: Sequence[Outcome]) -> float:
    """Return the highest value in the lowest third of the similarities to the references."""
    scores = [evidence(outcome)[1].parts.get("reference") for outcome in outcomes]
    values = sorted(score.value for score in scores if score is not None)
    return values[max(int(_LOW_SHARE * len(values)), 1) - 1] if values else _MIN_SIMILARITY
