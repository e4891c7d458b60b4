"""Stage 3: how the bundle is shown and decoded: number, order and floor of examples, layout, penalties. Knows one knob
at a time, in a fixed order, each value raced against the one at hand on validation rows.

Several knobs at once would need more queries than a validation set has. A knob is left as it is unless another value is
ahead beyond chance: of a dozen values that differ in nothing, one always has the best mean, and taking it each time
walks away from a bundle that was good.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import sqrt
from statistics import NormalDist, mean, stdev
from typing import Any, Final, TypeVar

from optimizer.core.candidate import Bank, Candidate
from optimizer.core.confidence import bootstrap_mean
from optimizer.core.config import TuneTable
from optimizer.core.journal import Journal
from optimizer.data.dataset import Row
from optimizer.rewards.rewards import Scorer
from optimizer.search.search import Level, Outcome, Path, Raced, race_level
from optimizer.stages.bank_edits import with_longer_answers, with_refusals
from optimizer.stages.prompt_stage import journal_score

T = TypeVar("T")

_POLICY: Final = ("order", "k", "minimum_similarity")
_BANK: Final[Mapping[str, Callable[[Bank, Any], Bank]]] = {
    "shortest_answer": with_longer_answers,
    "refusal": with_refusals,
}
_CHANCE: Final = 0.05
_SAMPLING: Final = ("frequency_penalty", "presence_penalty", "temperature")


class _Knob:
    """A space of given candidates: nothing is expanded."""

    def __init__(self, scorer: Scorer, journal: Journal, rows: Sequence[Row]) -> None:
        self._scorer = scorer
        self._journal = journal
        self._rows = rows

    def key(self, candidate: Candidate) -> str:
        return candidate.key

    async def expand(self, _path: Path[Candidate], _count: int, _again: int) -> Sequence[Candidate]:
        return ()

    async def score(self, candidate: Candidate, query: int) -> Outcome:
        row = self._rows[query]
        judged = await self._scorer.judge(candidate, row)
        await journal_score(self._journal, "tune", candidate.key, row, judged)
        return Outcome(query, judged.score)


async def tune(
    first: Candidate,
    table: TuneTable,
    scorer: Scorer,
    journal: Journal,
    rows: Sequence[Row],
    settings: Raced,
    keep: Callable[[Candidate], None],
) -> None:
    """Turn every knob; `keep` is told of each better candidate at once, since a budget may end this at any moment.

    Raises ModelError, BudgetSpentError, JournalError.
    """
    best = first
    space = _Knob(scorer, journal, rows)
    for number, (knob, values) in enumerate(_knobs(table)):
        if knob == "k" and best.retrieval.order == "set":
            continue  # there it is how many vote, and not how many are shown
        tried = {set_hyperparameter(best, knob, value).key: value for value in values}
        others = [set_hyperparameter(best, knob, value) for key, value in tried.items() if key != best.key]
        if not others:
            continue
        level = await race_level(space, number, [best, *others], len(rows), settings)
        chosen = significant_leader(level, best)
        for step in level.ranked:
            found = bootstrap_mean([outcome.score for outcome in step.outcomes])
            value = tried.get(step.candidate.key, get_hyperparameter(best, knob))
            is_kept = step.candidate.key == chosen.key
            told = {"mean": found.estimate, "low": found.low, "high": found.high, "rows": len(step.outcomes)}
            await journal.note("trial", knob=knob, value=value, kept=is_kept, candidate=step.candidate.key, **told)
        best = chosen
        keep(best)


def options(table: TuneTable) -> list[int]:
    """How many values each knob has that is turned, in their order; the one at hand is taken to be among them."""
    return [len(values) for _, values in _knobs(table)]


def set_hyperparameter(candidate: Candidate, knob: str, value: Any) -> Candidate:
    """The candidate with one knob set."""
    if knob == "order" and candidate.retrieval.order == "set" != value:
        return candidate.out_of_sets(value)
    if knob in _POLICY:
        return replace(candidate, retrieval=replace(candidate.retrieval, **{knob: value}))
    if knob in _SAMPLING:
        return replace(candidate, sampling={**candidate.sampling, knob: value})
    if knob in _BANK:
        return replace(candidate, bank=_BANK[knob](candidate.bank, value))
    return replace(candidate, layout=value)


def get_hyperparameter(candidate: Candidate, knob: str) -> object:
    """What a knob is set to; None for what the bundle does not say, or holds as it is."""
    if knob in _POLICY:
        return getattr(candidate.retrieval, knob)
    if knob in _BANK:
        return None
    return candidate.sampling.get(knob) if knob in _SAMPLING else candidate.layout


def _knobs(table: TuneTable) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Knobs in the order in which they are turned."""
    for knob in ("layout", *_SAMPLING, *_POLICY, *_BANK):
        if values := getattr(table, knob):
            yield knob, values


def significant_leader(level: Level[T], at_hand: T) -> T:
    """The level's leader, if it is ahead of the one at hand beyond chance on the rows that both were scored on; else
    the one at hand. Of many that lead by chance one leads most: the more there are, the wider the interval (after
    Bonferroni).
    """
    leader = level.ranked[0]
    other = next(step for step in level.ranked if step.candidate == at_hand)
    leads = [one.score - two.score for one, two in zip(leader.outcomes, other.outcomes, strict=False)]
    if len(leads) < 2:
        return at_hand
    deviations = NormalDist().inv_cdf(1 - _CHANCE / 2 / max(1, len(level.ranked) - 1))
    is_ahead = mean(leads) > deviations * stdev(leads) / sqrt(len(leads))
    return leader.candidate if is_ahead else at_hand
