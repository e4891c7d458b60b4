"""The kinds of rewards that run.toml can name. A new kind is a module of this package and one entry of REWARD_KINDS.

rules            form of the answer: complete, without repetition, refused where it should be
reference        similarity to the row's reference answer
likelihood       how probable the task model finds the reference answer
judge            criteria chosen for the query, each scored by a model
MODULE:FUNCTION  a function of the user's: name(query, answer, reference, kind) -> a number from 0 to 1
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from index.embedders.base import Embedder
from optimizer.core.config_tables import RewardTable, RunConfig
from optimizer.core.errors import ConfigError
from optimizer.models.task_model import ROLE as TASK
from optimizer.models.task_model import TaskModel
from optimizer.rewards.base import Reward
from optimizer.rewards.function import Function
from optimizer.rewards.judge import JudgeReward
from optimizer.rewards.judge_model import Judge
from optimizer.rewards.judge_protocol import ROLE as JUDGE
from optimizer.rewards.likelihood import Likelihood
from optimizer.rewards.reference import Reference
from optimizer.rewards.rules import Rules


@dataclass(frozen=True, slots=True)
class RewardResources:
    """What a reward may use.

    Attributes:
        table: The table [reward] of run.toml.
        task: The task model.
        judge: The judge.
        embedder: The embedder of the bundle.
    """

    table: RewardTable
    task: TaskModel
    judge: Judge
    embedder: Embedder


@dataclass(frozen=True, slots=True)
class RewardKind:
    """One kind of reward.

    Attributes:
        build: Makes the reward.
        calls_per_answer: Calls that it makes for each answer, by role: for the estimate of a run's cost.
        calls_per_query: Calls that it makes once for each query, by role.
    """

    build: Callable[[RewardResources], Reward]
    calls_per_answer: Mapping[str, int] = field(default_factory=dict)
    calls_per_query: Mapping[str, int] = field(default_factory=dict)

    @property
    def roles(self) -> frozenset[str]:
        """The roles whose models the reward asks."""
        return frozenset((*self.calls_per_answer, *self.calls_per_query))


REWARD_KINDS: Final[Mapping[str, RewardKind]] = {
    "rules": RewardKind(lambda _: Rules()),
    "reference": RewardKind(lambda resources: Reference(resources.embedder)),
    "likelihood": RewardKind(lambda resources: Likelihood(resources.task), {TASK: 1}),
    "judge": RewardKind(lambda resources: JudgeReward(resources.judge, resources.table.safety), {JUDGE: 1}, {JUDGE: 1}),
}


def check_rewards(config: RunConfig) -> None:
    """Check the names of rewards, and that run.toml names the models they need. Raises ConfigError."""
    for name in sorted(config.reward.all_names):
        kind = reward_kind(name)
        for role in sorted(kind.roles - set(config.models)):
            raise ConfigError(f"[reward] {name} needs a model: add [models.{role}]")


def build_rewards(resources: RewardResources) -> dict[str, Reward]:
    """The rewards that [reward] names, by name. Raises ConfigError."""
    return {name: reward_kind(name).build(resources) for name in resources.table.all_names}


def reward_kind(name: str) -> RewardKind:
    """The kind of reward with a name from [reward]. Raises ConfigError for an unknown name."""
    if ":" in name:
        return RewardKind(lambda _: Function(name))
    if name not in REWARD_KINDS:
        raise ConfigError(f"[reward] weights are of {', '.join(REWARD_KINDS)} or MODULE:FUNCTION")
    return REWARD_KINDS[name]
