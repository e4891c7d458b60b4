"""The tables of run.toml as dataclasses, with the default of each key. config.py reads and checks the file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from index.bundle.shipped import DEFAULT_BUNDLE
from index.embedders.registry import DEFAULT_EMBEDDER
from index.types import RetrievalPolicy
from optimizer.core.budget import Limits
from optimizer.core.model_tables import JudgeTable, ModelTable, WriterTable
from optimizer.core.reward_table import RewardTable

RACED, DRPO = "raced", "drpo"
RECIPES: Final = (RACED, DRPO)
PUBLISHED = "published"
ALGORITHMS: Final = (RACED, PUBLISHED)
MODEL, REFERENCE = "model", "reference"
FIRST_ANSWERS: Final = (MODEL, REFERENCE)
BEST, LATEST = "best", "latest"
FOLLOWED: Final = (BEST, LATEST)
DIVERSE, ALL = "diverse", "all"
CHOICES: Final = (DIVERSE, ALL)
BETTER, FOUND = "better", "found"
WRITTEN: Final = (BETTER, FOUND)
WHOLE, FIRST_SENTENCE, PLAIN = "whole", "first_sentence", "plain"
REFUSALS: Final = (WHOLE, FIRST_SENTENCE, PLAIN)
PROPORTIONAL, EQUAL = "proportional", "equal"
KIND_MIXES: Final = (PROPORTIONAL, EQUAL)
EMPTY = "empty"
PROPOSERS: Final = ("writer", "edits", "examples", "retrieval", "sampling")


@dataclass(frozen=True, slots=True)
class DataTable:
    """[data]: the JSONL files with the queries of a run.

    The data has three parts: train, validation and sealed. If a row has the key `split`, the row is used only for the
    part that `split` names. One file can therefore hold the rows of all three parts, and the seeds.

    Attributes:
        train: The file with the training rows. The search scores prompts on these rows, and the run writes exemplary
            answers to their queries.
        sealed: The file with the sealed rows, on which the final evaluation compares the bundle with the baseline. It
            may be None only if the bundle is written in any case (`write` of [bundle]).
        validation: The file with the validation rows, on which the tuning stage compares settings. If None, the tuning
            stage uses the training rows.
        seeds: The file with the seeds: rows with a reference, from which examples are made. If None, examples are made
            from training rows.
        preferences: The file with preference pairs and comments. From them, the writer model writes the specification.
            If the run has no writer model, the pairs decide instead which examples of the pool the search uses. None
            means that there are no pairs.
        limit: The maximum number of training rows. The same maximum holds for the validation rows. None means all rows.
        raw: The number of sealed rows that the task model also answers without prompt and examples. None means all
            sealed rows. A small number saves cost, because answers without prompt and examples are long. These answers
            do not decide which bundle is written.
        unusable: The largest share of the rows of a part that may be left out because they cannot be answered or
            scored. If the share is above 0, at least one row may be left out. If more rows cannot be used, the run
            stops.
    """

    train: Path
    sealed: Path | None = None
    validation: Path | None = None
    seeds: Path | None = None
    preferences: Path | None = None
    limit: int | None = None
    raw: int | None = None
    unusable: float = 0.05


@dataclass(frozen=True, slots=True)
class SearchTable:
    """[search]: the search for a better candidate.

    Each level of the search makes new candidates from the kept candidates, and scores the new candidates. The algorithm
    `published` ignores `patience`, `first`, `block`, `queries`, `alpha` and `indifference`; the algorithm `raced`
    ignores `deeper` and `keep_above`. The races of the tuning stage also use `first`, `block`, `alpha` and
    `indifference`.

    Attributes:
        recipe: The preset (optimizer.core.presets): `raced` or `drpo`. It sets the defaults of all tables.
        algorithm: The search algorithm: `raced` or `published`.
        beam: The number of candidates that are kept after each level.
        actions: The number of new candidates from each kept candidate on each level.
        depth: The maximum number of levels, without those that `deeper` adds.
        deeper: The maximum number of additional levels: one for each level on which a candidate keeps its prompt.
        keep_above: A candidate keeps its prompt on a level if its score, from 1 to 5, is above this value.
        patience: The number of consecutive levels without a new leader after which the search ends.
        first: The number of queries before the first comparison of a race.
        block: The number of queries between two comparisons of a race.
        queries: The maximum number of queries of one race of the search. None means 120, or fewer if [budget] has a
            limit that would otherwise end the search in its first levels. The races of the tuning stage use the key
            `queries` of the table [tune].
        alpha: The probability that a race, in all its comparisons together, drops a candidate that is as good as the
            leader. With a large value, a search drops some good candidates, but has more levels for the same number of
            answers.
        indifference: A difference in score that does not matter. A race ends early when no candidate can be better
            than the leader by this difference or more.
        seed: The seed of all random choices of the run.
        words: The maximum number of words of a prompt, as the writer model is told it. A prompt of the writer model is
            dropped only if it has more than twice as many words. If 0, there is no maximum.
        shared_words: A prompt is dropped if it shares this many consecutive words with a training row, or tries to
            influence the judge. If 0, neither is checked.
        repeated: The largest share of the sequences of four words in a prompt that may repeat an earlier sequence of
            the prompt. A prompt with a larger share is dropped. If 1, every share is allowed.
        k: The number of nearest examples in the search. None means the number with which the bundle is served.
        max_tokens: The maximum number of tokens of an answer in the search. Short answers save time. The bundle keeps
            the maximum of its sampling. None means the number with which the bundle is served.
        resample: Whether a request for rewrites that was sent before is sent again, and equal rewrites are separate
            candidates. If false, the earlier rewrites are used again, and equal rewrites are one candidate.
        kinds: How the kinds of rows are mixed in the order of the training rows. `proportional`: the first n rows
            contain the kinds in the proportions of all rows, for each n. `equal`: the kinds take turns, and a kind
            without rows left is skipped.
        propose: The proposers of the algorithm `raced`, which compete for the slots of a level. If empty, all proposers
            that the run can use: `writer` needs the writer model, and `sampling` is for base models.
        writer: The table [search.writer]: how the writer model rewrites prompts.
    """

    recipe: str = RACED
    algorithm: str = RACED
    beam: int = 2
    actions: int = 3
    depth: int = 8
    deeper: int = 10
    keep_above: float = 4.5
    patience: int = 2
    first: int = 10
    block: int = 4
    queries: int | None = None
    alpha: float = 0.5
    indifference: float = 0.005
    seed: int = 0
    words: int = 250
    shared_words: int = 8
    repeated: float = 0.2
    k: int | None = None
    max_tokens: int | None = None
    resample: bool = False
    kinds: str = PROPORTIONAL
    propose: tuple[str, ...] = ()
    writer: WriterTable = field(default_factory=lambda: WriterTable(top_p=0.95))


@dataclass(frozen=True, slots=True)
class ExamplesTable:
    """[examples]: the search for a bank of examples.

    Attributes:
        queries: The number of rows for which exemplary answers are written: seeds, if [data] names them, or else
            training rows. If 0, the bank of the starting bundle is kept.
        first: The answer that the first round rewrites. `model`: the task model's own. `reference`: the row's
            reference, if it has one. Training rows with a reference are then used first.
        rounds: The maximum number of rounds. Each round rewrites the kept answers to a query.
        beam: The number of answers to a query that are kept after each round.
        actions: The number of rewrites of each kept answer in each round.
        follow: The answers that the next round rewrites. `best`: the best answers so far. `latest`: the latest answers.
        choice: The answers that become examples. `diverse`: good answers to dissimilar queries, with enough refusals.
            `all`: the best answer to each query.
        size: The maximum number of examples in the bank, for the choice `diverse`.
        pinned: The maximum number of refusals to pin. The shortest refusals of the bank are pinned.
        words: The maximum number of words of an answer in the bank. Longer answers are left out. If 0, there is no
            maximum.
        shared_words: An answer is not used in the bank if it shares this many consecutive words with a training row
            other than its own, or tries to influence the judge. If 0, neither is checked.
        repeated: The largest share of the sequences of four words in an answer that may repeat an earlier sequence of
            the answer. An answer with a larger share is not used in the bank. If 1, every share is allowed.
        pool: The written examples that the search may add to a bank. `default` means the examples of the hand-written
            bundle of drpo. Any other value is the path of a JSONL file.
        judge: The table [examples.judge]: how the judge works in this search.
        writer: The table [examples.writer]: how the writer model rewrites answers.
    """

    queries: int = 0
    first: str = MODEL
    rounds: int = 5
    beam: int = 1
    actions: int = 1
    follow: str = BEST
    choice: str = DIVERSE
    size: int = 64
    pinned: int = 2
    words: int = 150
    shared_words: int = 8
    repeated: float = 0.2
    pool: str = DEFAULT_BUNDLE
    judge: JudgeTable = field(default_factory=JudgeTable)
    writer: WriterTable = field(default_factory=WriterTable)


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
        refusal: The ways of rewording the bank's refusals that are tried: `whole`, `first_sentence` or `plain`
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
        start: The bundle at which the search starts, and with which the final evaluation compares the result. `default`
            means the bundle of drpo that suits the model (`index.bundle.shipped`). `empty` means a bundle with a plain
            prompt and no examples. Any other value is the name of a bundle of drpo, or a directory.
        model: The model name to write into the manifest. None means the name of the task model.
        embedder: The name by which `index.embedders.registry.open_embedder` opens the embedder.
        prompt: The prompt with which the search starts. If empty, the search starts with the starting bundle's prompt.
        layout: The layout with which the search starts. If empty, the search starts with the starting bundle's layout.
        retrieval: The retrieval policy with which the search starts. None means the starting bundle's policy.
        sampling: The sampling parameters with which the search starts. None means the starting bundle's parameters.
        write: When the bundle that was found is written. `better`: if it is better than the baseline on the sealed
            rows. `found`: in any case.
    """

    name: str
    start: str = DEFAULT_BUNDLE
    model: str | None = None
    embedder: str = DEFAULT_EMBEDDER
    prompt: str = ""
    layout: str = ""
    retrieval: RetrievalPolicy | None = None
    sampling: Mapping[str, Any] | None = None
    write: str = BETTER


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
