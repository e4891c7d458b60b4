"""A search space of numbers with random scores. It counts the calls that a real run would make."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from optimizer.core.config_tables import PUBLISHED, RunConfig
from optimizer.core.model_tables import JudgeTable
from optimizer.estimation.observation import NOTHING_SEEN, Observation
from optimizer.models.task_model import ROLE as TASK
from optimizer.rewards.judge_protocol import ROLE as JUDGE
from optimizer.rewards.registry import reward_kind
from optimizer.search.allocation import Allocation
from optimizer.search.levels import Level, mean_lead
from optimizer.search.space import Outcome, Path
from optimizer.stages.prompt_stage import proposer_names, score_scale
from optimizer.stages.proposers.base import EXAMPLES as EXAMPLE_EDITS
from optimizer.stages.proposers.base import WRITER as REWRITES
from optimizer.stages.proposers.examples import OWN_QUESTIONS, OWN_SHARE
from optimizer.stages.writer_protocol import ROLE as WRITER

EXAMPLES: Final = "examples"
"""The stage in which the writer model makes examples."""
_PUBLISHED_MEANS: Final = (0.4, 0.85)
"""The range of the mean score, from 0 to 1, in simulations of the published algorithm.

On each level, the published algorithm either keeps or rewrites the prompt of a path. With these means, 120 simulations
of the recipe `drpo` keep it in 0.61 of the cases. In the nine searches that DRPO's authors published, it was kept in
156 of 259 cases, which is 0.60.
"""
_MEANS: Final = (0.3, 0.9)  # the same range for the algorithm `raced`


class Call(NamedTuple):
    """A kind of call: the stage that makes it, and the role of the called model."""

    stage: str
    role: str


@dataclass
class SimulatedSpace:
    """A search space whose candidates are numbers and whose scores are random.

    It counts the calls that the search space of a real run would make.

    Attributes:
        config: The settings of run.toml.
        rng: The source of random numbers.
        asks_for_letters: Whether the judge replies with one letter or digit. It then needs one call per criterion.
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

        The writer model is called once if it has a slot. It is also called for a share of the parents, to write the
        queries of new examples, and the task model answers these queries. A random share of the rewrites is left out,
        because a rewrite can repeat an earlier prompt. The slot of such a rewrite goes to the next proposer, if there
        is one.
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
