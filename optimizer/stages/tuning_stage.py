"""Stage 3: tunes the hyperparameters of a bundle: layout, decoding, number and order of examples, edits of the bank.

The stage tunes one hyperparameter at a time, in a fixed order. It races the values that [tune] lists and the current
value on validation rows. To compare combinations of several hyperparameters, the stage would need more rows than a
validation set has.

A new value replaces the current value only if its lead is significant. Otherwise the stage would change a good bundle
without a reason: if a dozen values make no difference, one of them still has the best mean by chance.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import sqrt
from statistics import NormalDist, mean, stdev
from typing import Any, Final, TypeVar

from index.measures.confidence import bootstrap_mean
from optimizer.core.candidate import Bank, Candidate
from optimizer.core.config_tables import RunConfig, TuneTable
from optimizer.core.journal import Journal
from optimizer.data.split import VALIDATION
from optimizer.search.levels import Level, RacedSettings, paired_leads, race_level
from optimizer.search.space import Outcome, Path, Step
from optimizer.stages.bank_edits import with_longer_answers, with_refusals
from optimizer.stages.candidate_gate import CandidateGate
from optimizer.stages.prompt_stage import raced_settings
from optimizer.stages.run_context import BestCandidate, RunContext
from optimizer.stages.scored_rows import ScoredRows

T = TypeVar("T")

_SIGNIFICANCE_LEVEL: Final = 0.05
_SAMPLING_PARAMETERS: Final = ("frequency_penalty", "presence_penalty", "temperature")
_RETRIEVAL_PARAMETERS: Final = ("policy", "order", "k", "max_nearest_tokens", "minimum_similarity", "similarity_floor")
_NEAREST_PARAMETERS: Final = ("order", "k", "max_nearest_tokens")
_BANK_EDITS: Final[Mapping[str, Callable[[Bank, Any], Bank]]] = {
    "shortest_answer": with_longer_answers,
    "refusal": with_refusals,
}
_TUNING_ORDER: Final = ("layout", *_SAMPLING_PARAMETERS, *_RETRIEVAL_PARAMETERS, *_BANK_EDITS)


async def run_tuning_stage(context: RunContext, best: BestCandidate, first: Candidate) -> None:
    """Tune the best candidate: race the values that [tune] lists for each hyperparameter.

    `first` is the candidate at which the run started. If the server refuses a row under another candidate, but accepts
    it under `first`, the other candidate gets the score 0 for it.

    The stage journals one `stage` event, one `score` event per answer, and one `trial` event per value.

    Raises:
        ModelError: A model gives no usable answer.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    rows, config = context.data.validation, context.config
    await context.journal.note("stage", stage="tune", rows=len(rows))

    def keep(candidate: Candidate) -> None:
        best.candidate = candidate

    scored_rows = context.scored_rows("tune", VALIDATION, first)
    await tune(best.candidate, config.tune, scored_rows, context.gate, tuning_settings(config), keep)


def tuning_settings(config: RunConfig) -> RacedSettings:
    """Return the settings of [search], with `queries` of [tune] as the maximum number of rows that a race uses."""
    settings = raced_settings(config)
    return replace(settings, race=replace(settings.race, max_queries=config.tune.queries))


async def tune(
    first: Candidate,
    table: TuneTable,
    rows: ScoredRows,
    gate: CandidateGate,
    settings: RacedSettings,
    keep: Callable[[Candidate], None],
) -> None:
    """Tune every hyperparameter of the table, one after the other.

    Args:
        first: The candidate to start with.
        table: The values to try for each hyperparameter.
        rows: The validation rows, and how they are scored.
        gate: Drops values with which a candidate cannot be written, such as an edit that leaves no example.
        settings: The settings of each race.
        keep: Stores the best candidate. It is called after each hyperparameter, because the budget can end the stage at
            any call.

    Raises:
        UnusableRowsError: Too many rows cannot be used.
        ModelError: A model gave no usable answer, but a later call may succeed.
        BudgetSpentError: The budget is spent.
        JournalError: The journal cannot be written.
    """
    best = first
    space = _FixedCandidates(rows)
    for number, (name, values) in enumerate(_tuned_hyperparameters(table)):
        if name in _NEAREST_PARAMETERS and best.retrieval.policy == "set":
            continue  # the policy shows no nearest examples, so these values change nothing
        tried = {set_hyperparameter(best, name, value).key: value for value in values}
        others = [set_hyperparameter(best, name, value) for key, value in tried.items() if key != best.key]
        others = [other for other in others if await gate.admits(other, name)]
        if not others:
            continue
        level = await race_level(space, number, [best, *others], len(rows.rows), settings)
        chosen = significant_leader(level, best)
        for step in level.ranked:
            value = tried.get(step.candidate.key, get_hyperparameter(best, name))
            await _journal_trial(rows.journal, name, value, step, is_kept=step.candidate.key == chosen.key)
        best = chosen
        keep(best)


def tuned_candidates(candidate: Candidate, table: TuneTable) -> Iterator[tuple[str, Candidate]]:
    """Yield the candidate with each value of the table that does not edit the bank, and the value as text."""
    for name, values in _tuned_hyperparameters(table):
        if name not in _BANK_EDITS:
            yield from ((f"[tune] {name} = {value}", set_hyperparameter(candidate, name, value)) for value in values)


def value_counts(table: TuneTable) -> list[int]:
    """Return the number of values that the table lists for each hyperparameter, in tuning order.

    Hyperparameters without values are left out. A list usually contains the current value of the hyperparameter.
    """
    return [len(values) for _, values in _tuned_hyperparameters(table)]


def set_hyperparameter(candidate: Candidate, name: str, value: Any) -> Candidate:
    """Return a copy of the candidate with one hyperparameter changed."""
    if name in _RETRIEVAL_PARAMETERS:
        return replace(candidate, retrieval=replace(candidate.retrieval, **{name: value}))
    if name in _SAMPLING_PARAMETERS:
        return replace(candidate, sampling={**candidate.sampling, name: value})
    if name in _BANK_EDITS:
        return replace(candidate, bank=_BANK_EDITS[name](candidate.bank, value))
    return replace(candidate, layout=value)


def get_hyperparameter(candidate: Candidate, name: str) -> object:
    """Return the current value of a hyperparameter.

    Return None for an edit of the bank, and for a sampling parameter that the candidate does not set.
    """
    if name in _RETRIEVAL_PARAMETERS:
        return getattr(candidate.retrieval, name)
    if name in _BANK_EDITS:
        return None
    return candidate.sampling.get(name) if name in _SAMPLING_PARAMETERS else candidate.layout


def significant_leader(level: Level[T], current: T) -> T:
    """Return the leader of a level if its lead over the current candidate is significant, else the current candidate.

    The test is a two-sided paired z test on the rows on which both candidates have scores. The significance level is
    divided by the number of candidates in the level, without the current candidate (Bonferroni correction).
    """
    leader = level.ranked[0]
    other = next(step for step in level.ranked if step.candidate == current)
    leads = paired_leads(leader, other)
    if len(leads) < 2:
        return current
    critical_value = NormalDist().inv_cdf(1 - _SIGNIFICANCE_LEVEL / 2 / max(1, len(level.ranked) - 1))
    is_significant = mean(leads) > critical_value * stdev(leads) / sqrt(len(leads))
    return leader.candidate if is_significant else current


class _FixedCandidates:
    """A search space that scores candidates but makes no new candidates: `expand` returns none."""

    def __init__(self, rows: ScoredRows) -> None:
        self._rows = rows

    def key(self, candidate: Candidate) -> str:
        return candidate.key

    async def expand(self, _path: Path[Candidate], _count: int, _again: int) -> Sequence[Candidate]:
        return ()

    async def score(self, candidate: Candidate, query: int) -> Outcome:
        scored = await self._rows.score(candidate.key, candidate, self._rows.rows[query])
        return Outcome(query, scored.score) if scored else Outcome(query, 0.0, readable=False)


def _tuned_hyperparameters(table: TuneTable) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the name and the values of each hyperparameter that has values, in tuning order."""
    for name in _TUNING_ORDER:
        if values := getattr(table, name):
            yield name, values


async def _journal_trial(journal: Journal, name: str, value: object, step: Step[Candidate], *, is_kept: bool) -> None:
    score = bootstrap_mean([outcome.score for outcome in step.outcomes])
    await journal.note(
        "trial",
        knob=name,
        value=value,
        kept=is_kept,
        candidate=step.candidate.key,
        mean=score.estimate,
        low=score.low,
        high=score.high,
        rows=len(step.outcomes),
    )
