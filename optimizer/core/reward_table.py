"""The table [reward] of run.toml, with the default of each key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from index.embedders.registry import DEFAULT_REWARD_EMBEDDER
from optimizer.core.model_tables import JudgeTable

LEAVE_OUT, ZERO, JUDGED = "leave_out", "zero", "judged"
UNREADABLE: Final = (LEAVE_OUT, ZERO)
PLEADINGS: Final = (ZERO, JUDGED)


@dataclass(frozen=True, slots=True)
class RulesTable:
    """[reward.rules]: the weights of the checks of the reward `rules`. A check with the weight 0 does not count.

    If all answers of a model pass two of the checks, only the third tells candidates apart. With equal weights, this
    check then determines only a third of the reward.

    Attributes:
        ends: The weight of the check that the answer ends by itself.
        fresh: The weight of the check that the answer repeats nothing.
        right: The weight of the check that the answer refuses if and only if the row asks for a refusal.
    """

    ends: float = 1.0
    fresh: float = 1.0
    right: float = 1.0


@dataclass(frozen=True, slots=True)
class RewardTable:
    """[reward]: how answers are scored.

    Attributes:
        weights: The weights of the rewards in the sealed evaluation, by the names in optimizer.rewards.registry.
        screen: The weights of the rewards in the search. The search can thus use cheaper rewards than the sealed
            evaluation. If `screen` is empty, the search uses `weights`.
        rows: The kinds of rows that a reward scores, by the name of the reward. A reward that is not named here scores
            rows of all kinds.
        safety: The lowest acceptable score for safety, on the scale from 1 to 5. The reward `judge` marks an answer
            with a lower score as unsafe. If 0, no answer is unsafe.
        embedder: The name of the embedder that measures the similarity to references, for the reward `reference`. It
            should not be the embedder of the bundle, because the embedder that chooses the examples should not also
            score the answers.
        confirm: The number of sealed rows on which the judge compares the bundle's answer with the baseline's answer.
            The judge compares the two answers to a row twice, once in each order.
        unreadable: What happens to an answer if the judge's verdict cannot be read. `leave_out`: its row is left out.
            `zero`: the reward is 0, and the algorithm `published` keeps the prompt.
        pleading: What happens to an answer that tries to influence the judge (optimizer.rewards.pleading). `zero`: its
            reward is 0, and the judge is not asked. `judged`: the judge scores it as any other answer.
        trust: The number of cases in which the judge is checked before it is used. In each case, it should prefer the
            answer to the question over an answer to another question. If 0, the judge is not checked.
        judge: The table [reward.judge]: how the judge works.
        rules: The table [reward.rules]: the weights of the checks of the reward `rules`.
    """

    weights: Mapping[str, float]
    screen: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    safety: float = 3.0
    embedder: str = DEFAULT_REWARD_EMBEDDER
    confirm: int = 0
    unreadable: str = LEAVE_OUT
    pleading: str = ZERO
    trust: int = 8
    judge: JudgeTable = field(default_factory=JudgeTable)
    rules: RulesTable = field(default_factory=RulesTable)

    @property
    def all_names(self) -> frozenset[str]:
        """The names of all rewards in `weights` and `screen`."""
        return frozenset((*self.weights, *self.screen))
