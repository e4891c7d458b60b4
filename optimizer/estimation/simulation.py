"""Simulates a run to count its calls. A simulation runs the real search on random scores, and calls no model.

The distribution of the scores is not known before a run. Each simulation therefore draws the properties of this
distribution at random: mean and standard deviation of a score (near those of the few scores that the estimate has
seen), the share of the variance that the query causes, how much a rewrite changes the score, and the share of rewrites
that are new prompts.
"""

import random
from collections import Counter
from collections.abc import Mapping
from typing import Final

from optimizer.core.config_tables import PUBLISHED, REFERENCE, RunConfig
from optimizer.data.split import Split
from optimizer.estimation.observation import NOTHING_SEEN, Observation
from optimizer.estimation.simulated_space import EXAMPLES, Call, SimulatedSpace
from optimizer.models.task_model import ROLE as TASK
from optimizer.rewards.judge_protocol import ROLE as JUDGE
from optimizer.search.levels import race_level
from optimizer.search.published import search_published
from optimizer.search.raced import search_raced
from optimizer.stages.checks.judge_trial import needs_answers, trial_counts
from optimizer.stages.example_stage import example_rows
from optimizer.stages.preferences.stated import states_preferences
from optimizer.stages.prompt_stage import published_settings, raced_settings
from optimizer.stages.sealed_evaluation import answers_by_variant
from optimizer.stages.sealed_result import BASELINE
from optimizer.stages.tuning_stage import significant_leader, tuning_settings, value_counts
from optimizer.stages.writer_protocol import ROLE as WRITER

JUDGE_TRIAL: Final = "judge trial"
SEARCH: Final = "search"
TUNE: Final = "tune"
EVALUATION: Final = "evaluation"


async def simulate(
    config: RunConfig,
    data: Split,
    seed: int,
    *,
    asks_for_letters: bool = False,
    observation: Observation = NOTHING_SEEN,
) -> Counter[Call]:
    """Simulate one run, and return how many calls of each kind it makes.

    Args:
        config: The settings of run.toml.
        data: The rows of the run.
        seed: The seed of the simulation.
        asks_for_letters: Whether the judge replies with one letter or digit. It then needs one call per criterion.
        observation: What the calls of the estimate showed.
    """
    rng = random.Random(seed)  # noqa: S311 - a simulation
    space = SimulatedSpace(config, rng, asks_for_letters, observation)
    _count_judge_trial(space, data)
    _simulate_examples(space, data)
    space.begin(SEARCH)
    space.count(WRITER, int(states_preferences(config)))
    if config.search.algorithm == PUBLISHED:
        path = await search_published(space, 0, len(data.train), published_settings(config), _ignore)
        best = path[-1].candidate
    else:
        count, settings = len(data.train), raced_settings(config)
        step, _ = await search_raced(space, 0, count, settings, space.note_level, None, config.search.first % count)
        best = step.candidate
    tuned = await _simulate_tuning(space, len(data.validation))
    is_changed = best != 0 or tuned != 0 or bool(space.calls[Call(EXAMPLES, WRITER)])
    _count_sealed(config, data, space, is_changed=is_changed)
    return space.calls


def by_role(calls: Mapping[Call, int]) -> Counter[str]:
    """Return the number of calls to the model of each role."""
    counts: Counter[str] = Counter()
    for call, count in calls.items():
        counts[call.role] += count
    return counts


def _count_judge_trial(space: SimulatedSpace, data: Split) -> None:
    """Count the calls with which a run finds out whether its judge can be trusted.

    The calls that choose the criteria of a row are counted here, and again in the search. A run makes them once if a
    row is in the trial and in the search, but not every row of the trial is also in the search.
    """
    space.begin(JUDGE_TRIAL)
    scored, compared = (min(count, len(data.train)) for count in trial_counts(space.config))
    if needs_answers(data.train, max(scored, compared)):
        space.count(TASK, max(scored, compared))
    for number in range(scored):
        space.count(JUDGE, 1 + 2 * space.calls_per_rating(number, space.config.reward.judge))
    space.count(JUDGE, 2 * compared)


def _simulate_examples(space: SimulatedSpace, data: Split) -> None:
    table = space.config.examples
    space.begin(EXAMPLES)
    seen = space.observation
    share = seen.share_to_rewrite(space.rng) if seen.is_full is not None else None
    for number, row in enumerate(example_rows(data, table)[1][: table.queries]):
        usual = space.rng.randint(0, table.rounds)
        rounds = usual if share is None else seen.rounds(space.rng, share, table.rounds)
        is_given = table.first == REFERENCE and row.reference is not None
        space.count(TASK, 0 if is_given else 1)
        space.count(WRITER, rounds * table.beam)
        per_rating = space.calls_per_rating(number, table.judge)
        space.count(JUDGE, 1 + (1 + rounds * table.beam * table.actions) * per_rating)


async def _simulate_tuning(space: SimulatedSpace, rows: int) -> int:
    """Simulate the tuning stage. Return the number of the chosen candidate; 0 if no other setting was better."""
    space.begin(TUNE)
    current, settings = 0, tuning_settings(space.config)
    for number, count in enumerate(value_counts(space.config.tune)):
        others = [space.add_candidate(current, 0.05) for _ in range(count - 1)]
        level = await race_level(space, number, [current, *others], rows, settings)
        current = significant_leader(level, current)
    return current


def _count_sealed(config: RunConfig, data: Split, space: SimulatedSpace, *, is_changed: bool) -> None:
    """Count the calls of the sealed evaluation.

    The bundle and the baseline both answer all sealed rows. If the run found nothing better than the baseline
    (`is_changed` is false), they send the same requests, which are counted once. If both raw variants have the same
    sampling, a run sends their requests only once. The sampling is not known before the run, so the requests of both
    raw variants are counted. On the first rows, as many as [reward] confirm says, the judge compares the bundle with
    the baseline twice, once in each order.
    """
    space.begin(EVALUATION)
    counts = {**answers_by_variant(len(data.sealed), config.data.raw), **({} if is_changed else {BASELINE: 0})}
    for count in counts.values():
        for query in range(count):
            space.count_score(config.reward.weights, query)
    space.count(JUDGE, 2 * min(config.reward.confirm, len(data.sealed)))


async def _ignore(_result: object) -> None:
    """Do nothing: a simulation does not use the result of a level."""
