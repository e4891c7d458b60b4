"""The kinds of rewards that run.toml can name. A new kind needs a module in this package and an entry in REWARD_KINDS.

rules            form of the answer: it is complete, repeats nothing, and refuses if and only if the row asks for it
reference        similarity of the answer to the row's reference answer
likelihood       how probable the row's reference answer is for the task model
taste            the share of users who like answers of this form, learned from [data] preferences
judge            how the judge scores the answer by criteria that it chose for the query
MODULE:FUNCTION  a user's function of the keyword arguments query, answer, reference, kind; returns a number from 0 to 1
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from index.embedders.registry import open_embedder
from optimizer.core.candidate import COMPLETION
from optimizer.core.config_tables import RunConfig
from optimizer.core.errors import ConfigError
from optimizer.core.reward_table import RewardTable
from optimizer.data.dataset import KINDS
from optimizer.data.taste import Taste
from optimizer.models.row_embedder import RowEmbedder
from optimizer.models.task_model import ROLE as TASK
from optimizer.models.task_model import TaskModel
from optimizer.rewards.base import Reward, RowsOfKinds
from optimizer.rewards.function import Function
from optimizer.rewards.judge import JudgeReward
from optimizer.rewards.judge_model import Judge
from optimizer.rewards.judge_protocol import ROLE as JUDGE
from optimizer.rewards.likelihood import Likelihood
from optimizer.rewards.reference import Reference
from optimizer.rewards.rules import Rules, TasteReward


@dataclass(frozen=True, slots=True)
class RewardResources:
    """The objects from which rewards are built.

    Attributes:
        table: The table [reward] of run.toml.
        task: The task model.
        judge: The judge.
        taste: The form of answers that people prefer. None if it is not known.
    """

    table: RewardTable
    task: TaskModel
    judge: Judge
    taste: Taste | None = None


@dataclass(frozen=True, slots=True)
class RewardKind:
    """One kind of reward.

    Attributes:
        build: Builds a reward of this kind.
        calls_per_answer: Number of calls that the reward makes for each answer, by the role of the called model.
        calls_per_query: Number of calls that the reward makes only once for each query, by the role of the called
            model. The estimate of a run's cost uses both numbers.
        needs_completion: Whether the reward works only with a task model of the kind `completion`.
        needs_preferences: Whether the reward works only with [data] preferences.
    """

    build: Callable[[RewardResources], Reward]
    calls_per_answer: Mapping[str, int] = field(default_factory=dict)
    calls_per_query: Mapping[str, int] = field(default_factory=dict)
    needs_completion: bool = False
    needs_preferences: bool = False

    @property
    def roles(self) -> frozenset[str]:
        """The roles whose models the reward calls."""
        return frozenset((*self.calls_per_answer, *self.calls_per_query))


REWARD_KINDS: Final[Mapping[str, RewardKind]] = {
    "rules": RewardKind(lambda resources: Rules(resources.table.rules)),
    "reference": RewardKind(lambda resources: Reference(RowEmbedder(open_embedder(resources.table.embedder)))),
    "likelihood": RewardKind(lambda resources: Likelihood(resources.task), {TASK: 1}, needs_completion=True),
    "taste": RewardKind(lambda resources: TasteReward(resources.taste), needs_preferences=True),
    "judge": RewardKind(lambda resources: JudgeReward(resources.judge, resources.table), {JUDGE: 1}, {JUDGE: 1}),
}


def check_rewards(config: RunConfig) -> None:
    """Check that the names in [reward] are known, and that run.toml names the models that these rewards call.

    Raises:
        ConfigError: A name is unknown, a model is missing, a reward does not work with the kind of the task model, or
            no reward scores the rows of a kind.
    """
    for name in sorted(config.reward.all_names):
        kind = reward_kind(name)
        for role in sorted(kind.roles - set(config.models)):
            raise ConfigError(f"[reward] {name} needs a model. Add [models.{role}].")
        if kind.needs_completion and config.models[TASK].kind != COMPLETION:
            raise ConfigError(
                f"[reward] {name} needs a task model of kind completion, because chat models score no texts. "
                "Remove this reward, or use a base model."
            )
        if kind.needs_preferences and config.data.preferences is None:
            raise ConfigError(f"[reward] {name} needs preferences. Name a file with [data] preferences.")
    for weights in (config.reward.weights, config.reward.screen):
        if weights and all(reward_kind(name).needs_preferences for name in weights):
            raise ConfigError("[reward] taste knows only the form of answers. Name another reward beside it.")
    _check_rows(config.reward)


def _check_rows(table: RewardTable) -> None:
    """Check that [reward] rows names rewards and kinds that exist, and leaves each row at least one reward."""
    if unknown := sorted(set(table.rows) - table.all_names):
        raise ConfigError(
            f"[reward] rows names {unknown[0]}, which is no reward of this run. It may name {_listed(table.all_names)}."
        )
    for name, kinds in table.rows.items():
        if not kinds or not set(kinds) <= set(KINDS):
            raise ConfigError(f"[reward] rows: {name} needs a list of kinds of rows: {_listed(KINDS)}")
    for key, weights in (("weights", table.weights), ("screen", table.screen or table.weights)):
        for kind in KINDS:
            if all(kind not in table.rows.get(name, KINDS) for name in weights):
                raise ConfigError(f"[reward] rows: no reward of {key} scores the rows of the kind {kind}. Add one")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def uses_judge(table: RewardTable) -> bool:
    """Whether a reward of the table [reward] lets the judge score answers."""
    return any(JUDGE in reward_kind(name).roles for name in table.all_names)


def build_rewards(resources: RewardResources) -> dict[str, Reward]:
    """Build the rewards that [reward] names, and return them by name.

    Raises:
        ConfigError: A name is unknown, or a user's function cannot be imported.
        EmbedderError: The embedder of the reward `reference` cannot be opened.
    """
    return {name: _build(name, resources) for name in resources.table.all_names}


def _build(name: str, resources: RewardResources) -> Reward:
    reward, kinds = reward_kind(name).build(resources), resources.table.rows.get(name)
    return reward if kinds is None else RowsOfKinds(reward, kinds)


def calls_per_score(weights: Mapping[str, float]) -> Counter[str]:
    """Return the number of calls for one score, by role: the call for the answer, and the calls of these rewards."""
    return sum((Counter(reward_kind(name).calls_per_answer) for name in weights), Counter({TASK: 1}))


def reward_kind(name: str) -> RewardKind:
    """Return the kind of reward that a name in [reward] refers to. Raises ConfigError for an unknown name."""
    if ":" in name:
        return RewardKind(lambda _: Function(name))
    if name not in REWARD_KINDS:
        raise ConfigError(
            f'[reward] "{name}" is no reward. A name in weights must be one of {", ".join(REWARD_KINDS)} or '
            "MODULE:FUNCTION."
        )
    return REWARD_KINDS[name]
