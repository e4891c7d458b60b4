"""The tables of run.toml as dataclasses, with the default of each key. config.py reads and checks the file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from index.embedders.registry import DEFAULT_EMBEDDER, DEFAULT_REWARD_EMBEDDER
from optimizer.core.budget import Limits, Prices
from optimizer.core.request_form import RequestForm

RACED, DRPO = "raced", "drpo"
RECIPES: Final = (RACED, DRPO)
WHOLE, FIRST_SENTENCE, PLAIN = "whole", "first_sentence", "plain"
REFUSALS: Final = (WHOLE, FIRST_SENTENCE, PLAIN)


@dataclass(frozen=True, slots=True)
class ModelTable:
    """[models.ROLE]: a model and its endpoint.

    Attributes:
        base_url: The base URL of the server, such as `http://localhost:8000/v1`.
        model: The name of the model in requests to the endpoint.
        kind: `chat` for a chat model, `completion` for a base model.
        api_key_env: The environment variable that holds the endpoint's API key. None if the endpoint needs no key.
        concurrency: The maximum number of requests to this model at the same time.
        timeout: The maximum time in seconds from sending a request to its complete reply. A slower attempt fails.
        price_prompt: The price of a million prompt tokens.
        price_completion: The price of a million completion tokens.
        request: The table [models.ROLE.request]: the form of the requests that the server accepts.
    """

    base_url: str
    model: str
    kind: str = "chat"
    api_key_env: str | None = None
    concurrency: int = 8
    timeout: float = 300.0
    price_prompt: float = 0.0
    price_completion: float = 0.0
    request: RequestForm = field(default_factory=RequestForm)

    @property
    def prices(self) -> Prices:
        """The prices of the model's tokens."""
        return Prices(self.price_prompt, self.price_completion)


@dataclass(frozen=True, slots=True)
class DataTable:
    """[data]: the JSONL files with the queries of a run.

    The data has three parts: train, validation and sealed. If a row has the key `split`, the row is used only for the
    part that `split` names. One file can therefore hold the rows of all three parts.

    Attributes:
        train: The file with the training rows. The search scores prompts on these rows, and the run writes exemplary
            answers to their queries.
        sealed: The file with the sealed rows, on which the final evaluation compares the bundle with the baseline.
        validation: The file with the validation rows, on which the tuning stage compares settings. If None, the tuning
            stage uses the training rows.
        limit: The maximum number of training rows. The same maximum holds for the validation rows. None means all rows.
        raw: The number of sealed rows that the task model also answers without prompt and examples. None means all
            sealed rows. A small number saves cost, because answers without prompt and examples are long. These answers
            do not decide which bundle is written.
        unusable: The largest share of the rows of a part that may be left out because they cannot be answered or
            scored. One row may always be left out, unless the share is 0. If more rows cannot be used, the run stops.
    """

    train: Path
    sealed: Path
    validation: Path | None = None
    limit: int | None = None
    raw: int | None = None
    unusable: float = 0.05


@dataclass(frozen=True, slots=True)
class SearchTable:
    """[search]: the search for a prompt.

    Each level of the search rewrites the prompts of the kept candidates, and scores the new candidates. The recipe
    `drpo` ignores `patience`, `first`, `block`, `queries`, `alpha` and `indifference`. The races of the tuning stage
    also use `first`, `block`, `alpha` and `indifference`.

    Attributes:
        recipe: The search algorithm: `raced` or `drpo`.
        beam: The number of candidates that are kept after each level.
        actions: The number of rewrites of each kept candidate on each level.
        depth: The maximum number of levels. With the recipe `drpo`, up to ten levels can be added: one for each level
            on which a candidate keeps its prompt and is not rewritten.
        patience: The number of consecutive levels without a new leader after which the search ends.
        first: The number of queries before the first comparison of a race.
        block: The number of queries between two comparisons of a race.
        queries: The maximum number of queries of one race of the search. The races of the tuning stage use the key
            `queries` of the table [tune].
        alpha: The probability that a race drops a candidate that is as good as the leader, in any of its comparisons.
        indifference: A difference in score that does not matter. A race ends early when no candidate can be better
            than the leader by this difference or more.
        seed: The seed of all random choices of the run.
        words: The maximum number of words of a prompt, which the writer model is instructed to observe. Up to twice as
            many words are tolerated: a prompt of the writer model is dropped only if it is longer than that.
    """

    recipe: str = RACED
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
        screen: The weights of the rewards in the search. The search can thus use cheaper rewards than the sealed
            evaluation. If `screen` is empty, the search uses `weights`.
        safety: The lowest acceptable score for safety, on the scale from 1 to 5. The reward `judge` marks an answer
            with a lower score as unsafe.
        embedder: The name of the embedder that measures the similarity to references, for the reward `reference`. It
            should be another embedder than the bundle's, which must not score the answers to the examples it chose.
        confirm: The number of sealed rows on which the judge compares the bundle's answer with the baseline's answer.
            The judge compares the two answers to a row twice, once in each order.
    """

    weights: Mapping[str, float]
    screen: Mapping[str, float] = field(default_factory=dict)
    safety: float = 3.0
    embedder: str = DEFAULT_REWARD_EMBEDDER
    confirm: int = 0

    @property
    def all_names(self) -> frozenset[str]:
        """The names of all rewards in `weights` and `screen`."""
        return frozenset((*self.weights, *self.screen))


@dataclass(frozen=True, slots=True)
class ExamplesTable:
    """[examples]: the search for a bank of examples.

    Attributes:
        queries: The number of training rows for which exemplary answers are written. If 0, the bank of the starting
            bundle is kept.
        rounds: The maximum number of rounds. Each round rewrites the kept answers to a query.
        beam: The number of answers to a query that are kept after each round.
        actions: The number of rewrites of each kept answer in each round.
        size: The maximum number of examples in the bank.
        pinned: The maximum number of refusals to pin. The shortest refusals of the bank are pinned.
        words: The maximum number of words of an answer in the bank. Longer answers are left out.
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

    The settings are tuned one after the other. The current value of a setting is replaced only if another value of
    the setting's list scores significantly better. If the list of a setting is empty, the setting is not tuned.

    Attributes:
        policy: The values to try for `RetrievalPolicy.policy`. `set` and `set_and_nearest` need a bundle with sets.
        k: The values to try for `RetrievalPolicy.k`, the number of nearest examples.
        order: The values to try for `RetrievalPolicy.order`, the order of the nearest examples.
        max_nearest_tokens: The values to try for `RetrievalPolicy.max_nearest_tokens`.
        minimum_similarity: The values to try for `RetrievalPolicy.minimum_similarity`.
        similarity_floor: The values to try for `RetrievalPolicy.similarity_floor`.
        layout: The names of the layouts to try.
        frequency_penalty: The values to try for this sampling parameter.
        presence_penalty: The values to try for this sampling parameter.
        temperature: The values to try for this sampling parameter.
        shortest_answer: The numbers of words to try as the minimum length of an example's answer. Examples with shorter
            answers are removed, except pinned examples and refusals.
        refusal: The ways to try to reword the refusals of the bank: `whole`, `first_sentence` or `plain`
            (optimizer.stages.bank_edits.with_refusals).
        queries: The maximum number of validation rows in the race of one setting.
    """

    policy: tuple[str, ...] = ("nearest",)
    k: tuple[int, ...] = (0, 1, 3, 5)
    order: tuple[str, ...] = ("similar_last", "canonical")
    max_nearest_tokens: tuple[int, ...] = ()
    minimum_similarity: tuple[float, ...] = ()
    similarity_floor: tuple[float, ...] = ()
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
        start: The bundle at which the search starts, and with which the final evaluation compares the result. It is
            `default` for the bundle that comes with the package, or the directory of another bundle.
        model: The model name to write into the manifest. None means the name of the task model.
        embedder: The name by which `index.embedders.registry.open_embedder` opens the embedder.
    """

    name: str
    start: str = "default"
    model: str | None = None
    embedder: str = DEFAULT_EMBEDDER


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
