"""The tables of run.toml as dataclasses, with the default of each key. Reading and checking them: config.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from optimizer.core.budget import Limits, Prices

RECIPES: Final = ("raced", "drpo")
WHOLE, FIRST_SENTENCE, PLAIN = "whole", "first_sentence", "plain"
REFUSALS: Final = (WHOLE, FIRST_SENTENCE, PLAIN)


@dataclass(frozen=True, slots=True)
class ModelTable:
    """[models.ROLE]: a model and its endpoint.

    Attributes:
        base_url: The URL before /chat/completions.
        model: The model's name at the endpoint.
        kind: `chat`, or `completion` for a base model.
        api_key_env: The environment variable that holds the endpoint's key.
        concurrency: The most requests at the same time.
        timeout: Seconds until a request without a complete reply fails.
        price_prompt: Money per million prompt tokens.
        price_completion: Money per million completion tokens.
    """

    base_url: str
    model: str
    kind: str = "chat"
    api_key_env: str | None = None
    concurrency: int = 8
    timeout: float = 300.0
    price_prompt: float = 0.0
    price_completion: float = 0.0

    @property
    def prices(self) -> Prices:
        """The prices of tokens."""
        return Prices(self.price_prompt, self.price_completion)


@dataclass(frozen=True, slots=True)
class DataTable:
    """[data]: JSONL files of queries.

    A row with a `split` belongs only to the part of that name, so that one file may serve for all three parts.

    Attributes:
        train: Rows for the search.
        sealed: Rows for the final evaluation.
        validation: Rows for the tuning; the training rows by default.
        limit: The most rows of train, and of validation.
        raw: The number of sealed rows that the raw variants answer, all by default. Their answers are long and say
            little.
    """

    train: Path
    sealed: Path
    validation: Path | None = None
    limit: int | None = None
    raw: int | None = None


@dataclass(frozen=True, slots=True)
class SearchTable:
    """[search]: the search for a prompt.

    Attributes:
        recipe: `raced` or `drpo`.
        beam: Candidates kept per level.
        actions: Rewrites of each candidate.
        depth: The most levels.
        patience: Levels without a new leader after which the search ends.
        first: Queries before the first look of a race.
        block: Queries between two looks.
        queries: The most queries of a race.
        alpha: Probability that a race drops a candidate as good as the leader.
        indifference: A lead below this value does not matter.
        seed: The seed of everything random.
        words: The length of the longest prompt.
    """

    recipe: str = "raced"
    beam: int = 2
    actions: int = 3
    depth: int = 8
    patience: int = 2
    first: int = 10
    block: int = 4
    queries: int = 120
    alpha: float = 0.05
    indifference: float = 0.005
    seed: int = 0
    words: int = 250


@dataclass(frozen=True, slots=True)
class RewardTable:
    """[reward]: how answers are scored.

    Attributes:
        weights: Weights of the rewards by name, for the sealed evaluation (see optimizer.rewards.registry).
        screen: Weights for the search, if it shall be cheaper; the same by default.
        safety: A score for safety from 1 to 5; the reward `judge` rejects answers below it.
        confirm: The number of sealed rows on which the judge compares the bundle with the baseline, in both orders.
    """

    weights: Mapping[str, float]
    screen: Mapping[str, float] = field(default_factory=dict)
    safety: float = 3.0
    confirm: int = 0

    @property
    def all_names(self) -> frozenset[str]:
        """The names of all rewards."""
        return frozenset((*self.weights, *self.screen))


@dataclass(frozen=True, slots=True)
class ExamplesTable:
    """[examples]: the search for a bank of examples.

    Attributes:
        queries: Training rows for which answers are written; 0 keeps the bank of the starting bundle.
        rounds: The most rounds of rewriting for each query.
        beam: Answers kept per round.
        actions: Rewrites of each kept answer.
        size: The number of examples in the bank.
        pinned: The number of short refusals that are part of every request.
        words: The length of the longest answer.
    """

    queries: int = 0
    rounds: int = 5
    beam: int = 1
    actions: int = 1
    size: int = 64
    pinned: int = 2
    words: int = 150


@dataclass(frozen=True, slots=True)
class TuneTable:
    """[tune]: the values to try for each setting of the bundle, one setting after the other.

    A value replaces the current one if it is better. An empty list leaves the setting as it is.

    Attributes:
        k: Numbers of retrieved examples.
        order: Orders of the examples.
        minimum_similarity: Lowest similarities of a retrieved example to the query.
        layout: Names of layouts.
        frequency_penalty: Values of the sampling parameter.
        presence_penalty: Values of the sampling parameter.
        temperature: Values of the sampling parameter.
        shortest_answer: Lowest numbers of words in an example that is not a refusal.
        refusal: Wordings of refusals, of REFUSALS.
        queries: The most validation rows for each setting.
    """

    k: tuple[int, ...] = (0, 1, 3, 5)
    order: tuple[str, ...] = ("similar_last", "canonical")
    minimum_similarity: tuple[float, ...] = ()
    layout: tuple[str, ...] = ()
    frequency_penalty: tuple[float, ...] = ()
    presence_penalty: tuple[float, ...] = ()
    temperature: tuple[float, ...] = ()
    shortest_answer: tuple[int, ...] = ()
    refusal: tuple[str, ...] = ()
    queries: int = 120


@dataclass(frozen=True, slots=True)
class BundleTable:
    """[bundle]: the bundle to write.

    Attributes:
        name: The bundle's name.
        start: The bundle to begin with, which is also the baseline: `default` or a directory.
        model: The model that the manifest names; the task model by default.
        embedder: The name of the embedder.
    """

    name: str
    start: str = "default"
    model: str | None = None
    embedder: str = "onnx"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The tables of run.toml.

    Attributes:
        models: The models by role: `task`, and optionally `optimizer` and `judge`.
        data: [data]
        reward: [reward]
        bundle: [bundle]
        search: [search]
        examples: [examples]
        tune: [tune]
        budget: [budget]
    """

    models: Mapping[str, ModelTable]
    data: DataTable
    reward: RewardTable
    bundle: BundleTable
    search: SearchTable = field(default_factory=SearchTable)
    examples: ExamplesTable = field(default_factory=ExamplesTable)
    tune: TuneTable = field(default_factory=TuneTable)
    budget: Limits = field(default_factory=Limits)
