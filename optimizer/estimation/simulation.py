"""Simulates a run to count its calls. A simulation runs the real search on random scores, and calls no model.

The distribution of the scores is not known before a run. Each simulation therefore draws its properties at random: mean
and standard deviation of a score (near those of the few scores that the estimate has seen), the share of the variance
that the query causes, how much a rewrite changes the score, and the share of rewrites that are new prompts.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from optimizer.core.config_tables import PUBLISHED, REFERENCE, RunConfig
from optimizer.core.model_tables import JudgeTable
from optimizer.data.split import Split
from optimizer.estimation.observation import NOTHING_SEEN, Observation
from optimizer.models.task_model import ROLE as TASK
from optimizer.rewards.judge_protocol import ROLE as JUDGE
from optimizer.rewards.registry import reward_kind
from optimizer.search.allocation import Allocation
from optimizer.search.levels import Level, mean_lead, race_level
from optimizer.search.published import search_published
from optimizer.search.raced import search_raced
from optimizer.search.space import Outcome, Path
from optimizer.stages.checks.judge_trial import needs_answers, trial_counts
from optimizer.stages.example_stage import example_rows
from optimizer.stages.preferences.stated import states_preferences
from optimizer.stages.prompt_stage import proposer_names, published_settings, raced_settings, score_scale
from optimizer.stages.proposers.base import EXAMPLES as EXAMPLE_EDITS
from optimizer.stages.proposers.base import WRITER as REWRITES
from optimizer.stages.proposers.examples import OWN_QUESTIONS, OWN_SHARE
from optimizer.stages.tuning_stage import significant_leader, tuning_settings, value_counts
from optimizer.stages.writer_protocol import ROLE as WRITER

JUDGE_TRIAL = "judge trial"
EXAMPLES, SEARCH, TUNE, EVALUATION = "examples", "search", "tune", "evaluation"
_PUBLISHED_MEANS: Final = (0.4, 0.85)
"""The range of the mean score, from 0 to 1, in simulations of the published algorithm.

On each level, the published algorithm either keeps or rewrites the prompt of a path. With these means, 120 simulations
of the recipe `drpo` keep it in 0.61 of the cases. In the nine searches that DRPO's authors published, it was kept in
156 of 259 cases, which is 0.60.
"""
_MEANS: Final = (0.3, 0.9)


class Call(NamedTuple):
    """A kind of call: the stage that makes it, and the role of the called model."""

    stage: str
    role: str


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
        asks_for_letters: Whether the judge replies with one digit. It then scores each criterion in a call of its own.
        observation: What the calls of the estimate showed.
    """
    rng = random.Random(seed)  # noqa: S311 - a simulation
    space = SimulatedSpace(config, rng, asks_for_letters, observation)
    _count_judge_trial(space, data)
    _simulate_examples(space, data)
    space.begin(SEARCH)
    space.count(WRITER, int(states_preferences(config)))
    if config.search.algorithm == PUBLISHED:
        await search_published(space, 0, len(data.train), published_settings(config), _ignore)
    else:
        await search_raced(space, 0, len(data.train), raced_settings(config), space.note_level)
    await _simulate_tuning(space, len(data.validation))
    _count_sealed(config, data, space)
    return space.calls


def by_role(calls: Mapping[Call, int]) -> Counter[str]:
    """Return the number of calls to the model of each role."""
    counts: Counter[str] = Counter()
    for call, count in calls.items():
        counts[call.role] += count
    return counts


@dataclass
class SimulatedSpace:
    """A search space whose candidates are numbers and whose scores are random.

    It counts the calls that the search space of a real run would make.

    Attributes:
        config: The settings of run.toml.
        rng: The source of random numbers.
        asks_for_letters: Whether the judge scores each criterion in a call of its own.
        observation: What was seen of the scores before the run.
        stage: The stage that makes the calls now.
        calls: Number of calls of each kind.
        scored: Pairs of candidate and query whose calls are already counted.
        known_queries: Queries whose calls by `RewardKind.calls_per_query` are already counted.
        criteria: For each query, the number of its criteria.
        quality: For each candidate, the number that is added to every score of the candidate.
        difficulty: For each query, the number that is added to every score on the query; negative for a hard query.
    """

    config: RunConfig
    rng: random.Random
    asks_for_letters: bool = False
    observation: Observation = NOTHING_SEEN
    stage: str = EXAMPLES
    calls: Counter[Call] = field(default_factory=Counter)
    scored: set[tuple[int, int]] = field(default_factory=set)
    known_queries: set[object] = field(default_factory=set)
    criteria: dict[object, int] = field(default_factory=dict)
    quality: list[float] = field(default_factory=lambda: [0.0])
    difficulty: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen, self._deviation = self.observation, self.rng.uniform(0.1, 0.3)
        self._query_share = self.rng.uniform(0.3, 0.8)
        self._step = self.rng.uniform(0.0, 0.15)
        is_published = self.config.search.algorithm == PUBLISHED
        self._mean = self.rng.uniform(*(_PUBLISHED_MEANS if is_published else _MEANS))
        if seen.scores:
            self._deviation = seen.deviation(self.rng)
            self._mean = seen.mean(self.rng, self._deviation)
        self._new_share = self.rng.uniform(0.5, 1.0)
        self._allocation = Allocation(proposer_names(self.config), str(self.rng.random()))
        self._made: dict[int, tuple[str, int]] = {}

    def key(self, candidate: int) -> str:
        """Return the number of the candidate as text."""
        return str(candidate)

    def add_candidate(self, parent: int, deviation: float) -> int:
        """Add a candidate, and return its number.

        The quality of the new candidate is the parent's quality plus a random number from a normal distribution with
        mean 0 and standard deviation `deviation`.
        """
        self.quality.append(self.quality[parent] + self.rng.gauss(0, deviation))
        return len(self.quality) - 1

    def begin(self, stage: str) -> None:
        """Begin a stage. All records about queries are removed, because the stage uses other rows."""
        self.stage = stage
        self.scored.clear()
        self.difficulty.clear()
        self.known_queries.clear()
        self.criteria.clear()

    def count(self, role: str, number: int = 1) -> None:
        """Count calls to the model of a role. If `number` is 0, add no entry, because the run may lack the model."""
        if number:
            self.calls[Call(self.stage, role)] += number

    def calls_per_rating(self, query: object, table: JudgeTable) -> int:
        """Return the number of calls with which the judge scores one answer to a query."""
        if not self.asks_for_letters:
            return 1
        if query not in self.criteria:
            self.criteria[query] = self.rng.randint(table.fewest, table.most)
        return self.criteria[query]

    def count_score(self, weights: Mapping[str, float], query: object) -> None:
        """Count the calls for one score: one call for the answer, and the calls of each reward.

        A reward makes some calls for each answer, and others only once for each query.
        """
        self.count(TASK)
        for kind in map(reward_kind, weights):
            for role, count in kind.calls_per_answer.items():
                per_rating = self.calls_per_rating(query, self.config.reward.judge) if role == JUDGE else 1
                self.count(role, count * per_rating)
            if query not in self.known_queries:
                for role, count in kind.calls_per_query.items():
                    self.count(role, count)
        self.known_queries.add(query)

    async def expand(self, path: Path[int], count: int, again: int) -> Sequence[int]:
        """Return at most `count` new candidates. The slots are divided among the proposers as in a run.

        The writer model is called once if it has a slot. It is also called now and then for the queries of new
        examples, and the task model answers these queries. A random share of the rewrites is left out, because a
        rewrite can repeat an earlier prompt. The slot of such a rewrite goes to the next proposer, if there is one.
        """
        parent, asked, made = path[-1].candidate, set[str](), list[int]()
        for ranked in self._allocation.preferences(count, f"{parent}/{again}"):
            asked.add(ranked[0])
            if self._is_new(ranked[0]):
                made.append(self._make(ranked[0], parent))
                continue
            self._allocation.note_unfilled(ranked[0])
            for other in ranked[1:2]:
                asked.add(other)
                made.append(self._make(other, parent))
        has_writer = WRITER in self.config.models
        self.count(WRITER, int(REWRITES in asked and has_writer))
        if EXAMPLE_EDITS in asked and has_writer and self.rng.random() < OWN_SHARE:
            self.count(WRITER)
            self.count(TASK, OWN_QUESTIONS)
        return made

    async def note_level(self, level: Level[int]) -> None:
        """Count for each new candidate of a finished level whether it beat its parent."""
        steps = {step.candidate: step for step in level.ranked}
        for candidate in [one for one in steps if one in self._made]:
            name, parent = self._made.pop(candidate)
            lead = mean_lead(steps[candidate], steps[parent])
            self._allocation.note(name, is_won=lead > self.config.search.indifference)

    def _make(self, proposer: str, parent: int) -> int:
        child = self.add_candidate(parent, self._step)
        self._made[child] = proposer, parent
        return child

    def _is_new(self, proposer: str) -> bool:
        return proposer != REWRITES or self.config.search.resample or self.rng.random() < self._new_share

    async def score(self, candidate: int, query: int) -> Outcome:
        """Return a random score, and count the calls that a real score needs.

        The calls are not counted again if the candidate was scored on this query before.
        """
        if (candidate, query) not in self.scored:
            self.scored.add((candidate, query))
            self.count_score(self.config.reward.screen or self.config.reward.weights, query)
        if query not in self.difficulty:
            self.difficulty[query] = self.rng.gauss(0, self._deviation * self._query_share**0.5)
        noise = self.rng.gauss(0, self._deviation * (1 - self._query_share) ** 0.5)
        score = min(1.0, max(0.0, self._mean + self.quality[candidate] + self.difficulty[query] + noise))
        return Outcome(query, score_scale(self.config.search).convert(score))


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


async def _simulate_tuning(space: SimulatedSpace, rows: int) -> None:
    space.begin(TUNE)
    current, settings = 0, tuning_settings(space.config)
    for number, count in enumerate(value_counts(space.config.tune)):
        others = [space.add_candidate(current, 0.05) for _ in range(count - 1)]
        level = await race_level(space, number, [current, *others], rows, settings)
        current = significant_leader(level, current)


def _count_sealed(config: RunConfig, data: Split, space: SimulatedSpace) -> None:
    """Count the calls of the sealed evaluation.

    The bundle and the baseline answer all sealed rows. The setting `raw` of [data] is the number of rows that each raw
    variant answers; the default is all rows. If both raw variants have the same sampling, a run sends their requests
    only once. The sampling is not known before the run, so the requests of both raw variants are counted. For each row
    of [reward] confirm, the judge compares the bundle with the baseline twice, once in each order.
    """
    space.begin(EVALUATION)
    raw = len(data.sealed) if config.data.raw is None else min(config.data.raw, len(data.sealed))
    for count in (len(data.sealed), len(data.sealed), raw, raw):
        for query in range(count):
            space.count_score(config.reward.weights, query)
    space.count(JUDGE, 2 * min(config.reward.confirm, len(data.sealed)))


async def _ignore(_result: object) -> None:
    """Do nothing: a simulation does not use the result of a level."""
