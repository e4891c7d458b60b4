"""The tables of run.toml as dataclasses, with the default of each key. config.py reads and checks the file."""

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
        base_url: The URL of the endpoint without `/chat/completions`.
        model: The model's name at the endpoint.
        kind: `chat` for a chat model, `completion` for a base model.
        api_key_env: The environment variable that holds the endpoint's API key. None if the endpoint needs no key.
        concurrency: The most requests to this model at the same time.
        timeout: Seconds after which an attempt fails if the reply is not complete.
        price_prompt: Price of a million prompt tokens.
        price_completion: Price of a million completion tokens.
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
        """The prices of the model's tokens."""
        return Prices(self.price_prompt, self.price_completion)


@dataclass(frozen=True, slots=True)
class DataTable:
    """[data]: JSONL files of queries.

    The data has three parts: train, validation and sealed. If a row has the key `split`, the row is used only for the
    part that `split` names. One file can therefore hold the rows of all three parts.

    Attributes:
        train: The file with the rows for the search.
        sealed: The file with the rows for the final evaluation.
        validation: The file with the rows for the tuning. If it is None, the tuning uses the training rows.
        limit: The most training rows, and also the most validation rows. None means all rows.
        raw: The number of sealed rows that are also answered without prompt and examples. None means all sealed rows.
            A small number saves cost, because these answers are long. They do not decide which bundle is written.
    """

    train: Path
    sealed: Path
    validation: Path | None = None
    limit: int | None = None
    raw: int | None = None


@dataclass(frozen=True, slots=True)
class SearchTable:
    """[search]: the search for a prompt.

    Each level of the search rewrites the prompts of the kept candidates, and scores the new candidates. The recipe
    `drpo` ignores the keys from `patience` to `indifference`. [tune] also uses `first`, `block`, `alpha` and
    `indifference`.

    Attributes:
        recipe: `raced` or `drpo`.
        beam: The number of candidates that are kept after each level.
        actions: The number of rewrites of each kept candidate, per level.
        depth: The most levels. With `drpo`, levels that keep their prompt can add up to ten more.
        patience: The search ends after this many levels in a row without a new leader.
        first: The number of queries before the first comparison of a race.
        block: The number of queries between two comparisons of a race.
        queries: The most queries of one race. For the races of [tune], the key `queries` of [tune] is used instead.
        alpha: The probability that any comparison of a race drops a candidate that is as good as the leader.
        indifference: A race ends early when no candidate can be better than the leader by this difference in score.
        seed: The seed of all random choices of the run.
        words: The most words of a prompt. If the writer model writes a longer prompt, the prompt is dropped only if it
            has more than twice as many words.
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
        weights: The weights of the rewards in the sealed evaluation, by the names in optimizer.rewards.registry.
        screen: The weights of the rewards in the search, in which cheaper rewards can be used. If `screen` is empty,
            the search uses `weights`.
        safety: The lowest acceptable score for safety, from 1 to 5. The reward `judge` marks an answer with a lower
            score as unsafe.
        confirm: The number of sealed rows on which the judge compares the bundle's answer with the baseline's answer.
            The judge compares each pair twice, once in each order.
    """

    weights: Mapping[str, float]
    screen: Mapping[str, float] = field(default_factory=dict)
    safety: float = 3.0
    confirm: int = 0

    @property
    def all_names(self) -> frozenset[str]:
        """The names of all rewards in `weights` and `screen`."""
        return frozenset((*self.weights, *self.screen))


@dataclass(frozen=True, slots=True)
class ExamplesTable:
    """[examples]: the search for a bank of examples.

    Attributes:
        queries: The number of training rows for which answers are written. 0 keeps the bank of the starting bundle.
        rounds: The most rounds in which the answers to a query are rewritten.
        beam: The number of answers to a query that are kept after each round.
        actions: The number of rewrites of each kept answer, per round.
        size: The most examples in the bank.
        pinned: The most refusals that are pinned. The shortest refusals of the bank are chosen.
        words: The most words of an answer. Longer answers do not get into the bank.
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
    """[tune]: the values to try for each setting of the bundle.

    The settings are tuned one after the other. A value replaces the current value of its setting if it scores better.
    If the list of a setting is empty, the setting is not tuned.

    Attributes:
        k: Values of `RetrievalPolicy.k`, the number of retrieved examples.
        order: Values of `RetrievalPolicy.order`.
        minimum_similarity: Values of `RetrievalPolicy.minimum_similarity`.
        layout: Names of layouts.
        frequency_penalty: Values of this sampling parameter.
        presence_penalty: Values of this sampling parameter.
        temperature: Values of this sampling parameter.
        shortest_answer: Minimum numbers of words in an example's answer. Examples with shorter answers are removed,
            except pinned examples and refusals.
        refusal: Ways to reword the refusals of the bank: `whole`, `first_sentence` or `plain`
            (optimizer.stages.bank_edits.with_refusals).
        queries: The most validation rows for the race of one setting.
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
        name: The name of the bundle.
        start: The bundle at which the search starts and with which the result is compared: `default`, which is the
            bundle of the package, or a directory.
        model: The model that the manifest names. None means the task model.
        embedder: The name of the embedder, as `index.embedders.registry.open_embedder` takes it.
    """

    name: str
    start: str = "default"
    model: str | None = None
    embedder: str = "onnx"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """All tables of run.toml.

    Attributes:
        models: The tables [models.ROLE] by role: `task`, and optionally `optimizer` (the writer model) and `judge`.
        data: The table [data].
        reward: The table [reward].
        bundle: The table [bundle].
        search: The table [search].
        examples: The table [examples].
        tune: The table [tune].
        budget: The table [budget].
    """

    models: Mapping[str, ModelTable]
    data: DataTable
    reward: RewardTable
    bundle: BundleTable
    search: SearchTable = field(default_factory=SearchTable)
    examples: ExamplesTable = field(default_factory=ExamplesTable)
    tune: TuneTable = field(default_factory=TuneTable)
    budget: Limits = field(default_factory=Limits)
