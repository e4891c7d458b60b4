"""Checks the values of run.toml: names must be known, numbers must be in their range, and keys must fit together."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Final

from index.layouts import LAYOUTS
from optimizer.core.candidate import KINDS
from optimizer.core.config_tables import (
    ALGORITHMS,
    CHOICES,
    FIRST_ANSWERS,
    FOLLOWED,
    FOUND,
    KIND_MIXES,
    PROPOSERS,
    PUBLISHED,
    REFUSALS,
    WRITTEN,
    RunConfig,
)
from optimizer.core.errors import ConfigError
from optimizer.core.model_tables import INSTRUCTIONS, MANNERS, MAX_ATTEMPTS, SCORES, JudgeTable, WriterTable
from optimizer.core.reward_table import PLEADINGS, UNREADABLE, RulesTable
from optimizer.templates import criteria_table

MIN_ROWS: Final = 4
"""The smallest number of rows of each part of the data."""
MIN_TRUST_CASES: Final = 4
"""The smallest number of cases with which a judge that is always right has an interval above one half."""
MIN_SHARED_WORDS: Final = 4
_MAX_INTEGER: Final = 10**12
_MAX_SCORE: Final = 5
_MAX_WEIGHT: Final = 1e6
_MAX_CRITERIA: Final = 20
_MAX_TEMPERATURE: Final = 2
_PUBLISHED_NEEDS: Final = (
    '[search] algorithm = "published" (the default of recipe = "drpo") needs a writer model and a judge: add '
    "[models.optimizer] and [models.judge]"
)
_EXAMPLES_NEED: Final = (
    "[examples] queries above 0 needs a writer model and a judge, because answers are rewritten and judged: add "
    "[models.optimizer] and [models.judge]"
)
_SEALED_MISSING: Final = (
    "[data] sealed is missing: a new bundle is written only if it is better on sealed rows. Name these rows, or set "
    'write = "found" in [bundle] to write it without this test'
)


def check_config(config: RunConfig) -> None:
    """Raise ConfigError if a value is not allowed. If several are not allowed, the message names the first."""
    for checks in (_choice_checks, _need_checks, _number_checks, _role_checks):
        for is_valid, message in checks(config):
            if not is_valid:
                raise ConfigError(message)


def _choice_checks(config: RunConfig) -> Iterator[tuple[bool, str]]:
    """For each key with a list of choices, yield whether its value is in the list, and the message if it is not."""
    search, examples, bundle = config.search, config.examples, config.bundle
    for value, options, name in (
        (search.algorithm, ALGORITHMS, "[search] algorithm"),
        (config.reward.unreadable, UNREADABLE, "[reward] unreadable"),
        (config.reward.pleading, PLEADINGS, "[reward] pleading"),
        (examples.first, FIRST_ANSWERS, "[examples] first"),
        (examples.follow, FOLLOWED, "[examples] follow"),
        (examples.choice, CHOICES, "[examples] choice"),
        (bundle.write, WRITTEN, "[bundle] write"),
        (bundle.layout, ("", *LAYOUTS), "[bundle] layout"),
        *((one.kind, KINDS, "[models] kind") for one in config.models.values()),
        *((name, tuple(LAYOUTS), "[tune] layout") for name in config.tune.layout),
        *((one, REFUSALS, "[tune] refusal") for one in config.tune.refusal),
        (search.kinds, KIND_MIXES, "[search] kinds"),
        *((one, PROPOSERS, "[search] propose") for one in search.propose),
    ):
        yield value in options, f"{name} must be one of {', '.join(filter(None, options))}"


def _need_checks(config: RunConfig) -> Iterator[tuple[bool, str]]:
    """For each key that needs other keys, yield whether these are set, and the message if they are not."""
    search, has_models = config.search, {"judge", "optimizer"} <= set(config.models)
    yield bool(config.reward.weights), "[reward] weights: name at least one"
    needs_judge = "[reward] confirm needs a judge: add [models.judge]"
    yield not config.reward.confirm or "judge" in config.models, needs_judge
    yield search.algorithm != PUBLISHED or has_models, _PUBLISHED_NEEDS
    yield len(set(search.propose)) == len(search.propose), "[search] propose names a proposer twice"
    writes = "[search] propose: the proposer writer is a model: add [models.optimizer]"
    yield "writer" not in search.propose or "optimizer" in config.models, writes
    yield not config.examples.queries or has_models, _EXAMPLES_NEED
    yield config.data.sealed is not None or config.bundle.write == FOUND, _SEALED_MISSING
    seeds = "[data] seeds has no effect while queries of [examples] is 0: set it to the number of seeds to use"
    yield config.data.seeds is None or config.examples.queries > 0, seeds


def _number_checks(config: RunConfig) -> Iterator[tuple[bool, str]]:
    """For each number, yield whether it is in its range, and the message if it is not."""
    data, examples, search = config.data, config.examples, config.search
    counts = (search.beam, search.actions, search.depth, search.block)
    yield min(counts) >= 1, "[search] counts must be at least 1"
    for value, name in ((search.first, "first"), (search.queries, "queries")):
        yield (
            value is None or value >= 2,
            f"[search] {name} must be at least 2, because a paired test needs two queries",
        )
    yield config.tune.queries >= 2, "[tune] queries must be at least 2, because a paired test needs two queries"
    yield 0 < search.alpha < 1, "[search] alpha must be between 0 and 1"
    yield min(search.words, search.deeper, search.k or 0) >= 0, "[search] words, deeper and k must not be negative"
    yield search.max_tokens is None or search.max_tokens >= 1, "[search] max_tokens must be at least 1"
    for name, table in (("search", search), ("examples", examples)):
        is_length = table.shared_words == 0 or table.shared_words >= MIN_SHARED_WORDS
        yield is_length, f"[{name}] shared_words must be 0 or at least {MIN_SHARED_WORDS}: fewer words are no copy"
        yield 0 <= table.repeated <= 1, f"[{name}] repeated must be from 0 to 1"
    yield 0 <= search.keep_above <= _MAX_SCORE, f"[search] keep_above must be from 0 to {_MAX_SCORE}"
    yield 0 <= search.indifference <= 1, "[search] indifference must be from 0 to 1"
    yield abs(search.seed) <= _MAX_INTEGER, f"[search] seed must be at most {_MAX_INTEGER:,}"
    yield 0 <= data.unusable < 1, "[data] unusable must be at least 0 and below 1"
    yield data.limit is None or data.limit >= MIN_ROWS, f"[data] limit must be at least {MIN_ROWS}"
    yield data.raw is None or data.raw >= 0, "[data] raw must not be negative"
    not_negative = (examples.queries, examples.pinned, examples.words)
    yield min(not_negative) >= 0, "[examples] queries, pinned and words must not be negative"
    example_counts = (examples.rounds, examples.beam, examples.actions, examples.size)
    yield min(example_counts) >= 1, "[examples] counts must be at least 1"
    weights = (*config.reward.weights.values(), *config.reward.screen.values())
    yield all(weight > 0 for weight in weights), "[reward] weights must be above 0"
    yield all(weight <= _MAX_WEIGHT for weight in weights), f"[reward] weights must be at most {_MAX_WEIGHT:,.0f}"
    yield from _rules_checks(config.reward.rules)
    is_score = 0 <= config.reward.safety <= _MAX_SCORE
    yield is_score, f"[reward] safety must be from 0 to {_MAX_SCORE}. Scores begin at 1, so 0 sets no constraint"
    enough = f"[reward] trust must be 0 or at least {MIN_TRUST_CASES}: fewer cases show nothing"
    yield config.reward.trust == 0 or config.reward.trust >= MIN_TRUST_CASES, enough
    yield config.reward.confirm >= 0, "[reward] confirm must not be negative"
    yield min(config.tune.shortest_answer, default=0) >= 0, "[tune] shortest_answer must not be negative"
    limits = (getattr(config.budget, key.name) for key in fields(config.budget))
    yield all(limit is None or limit >= 0 for limit in limits), "[budget] limits must not be negative"
    whole = [value for table in (data, search, examples, config.tune, config.budget) for value in _integers(table)]
    yield all(value <= _MAX_INTEGER for value in whole), f"a whole number must be at most {_MAX_INTEGER:,}"


def _rules_checks(table: RulesTable) -> Iterator[tuple[bool, str]]:
    weights = (table.ends, table.fresh, table.right)
    yield min(weights) >= 0 < max(weights), "[reward.rules] weights must not be negative, and one must be above 0"
    yield max(weights) <= _MAX_WEIGHT, f"[reward.rules] weights must be at most {_MAX_WEIGHT:,.0f}"


def _role_checks(config: RunConfig) -> Iterator[tuple[bool, str]]:
    """For each value in a table of a model, judge or writer, yield whether it is allowed, and the message if not."""
    yield all(one.concurrency >= 1 for one in config.models.values()), "[models] concurrency must be at least 1"
    yield all(one.timeout > 0 for one in config.models.values()), "[models] timeout must be above 0"
    prices = [price for one in config.models.values() for price in (one.price_prompt, one.price_completion)]
    yield min(prices) >= 0, "[models] prices must not be negative"
    yield from _judge_checks(config.reward.judge, "[reward.judge]")
    yield from _judge_checks(config.examples.judge, "[examples.judge]")
    yield from _writer_checks(config.search.writer, "[search.writer]")
    yield from _writer_checks(config.examples.writer, "[examples.writer]")


def _judge_checks(table: JudgeTable, name: str) -> Iterator[tuple[bool, str]]:
    yield table.manner in MANNERS, f"{name} manner must be one of {', '.join(MANNERS)}"
    yield table.scores in SCORES, f"{name} scores must be one of {', '.join(SCORES)}"
    is_range = 1 <= table.fewest <= table.most <= _MAX_CRITERIA
    yield is_range, f"{name} needs 1 <= fewest <= most <= {_MAX_CRITERIA}"
    is_known = set(table.criteria) <= set(criteria_table())
    yield is_known, f"{name} criteria: each must be one of {', '.join(criteria_table())}"
    is_enough = not table.criteria or len(set(table.criteria)) >= table.fewest
    yield is_enough, f"{name} criteria needs at least {table.fewest} criteria, because fewest is {table.fewest}"
    yield 1 <= table.attempts <= MAX_ATTEMPTS, f"{name} attempts must be from 1 to {MAX_ATTEMPTS}"


def _writer_checks(table: WriterTable, name: str) -> Iterator[tuple[bool, str]]:
    yield table.instructions in INSTRUCTIONS, f"{name} instructions must be one of {', '.join(INSTRUCTIONS)}"
    yield 0 <= table.temperature <= _MAX_TEMPERATURE, f"{name} temperature must be from 0 to {_MAX_TEMPERATURE}"
    yield 0 <= table.top_p <= 1, f"{name} top_p must be from 0 to 1"


def _integers(table: Any) -> Iterator[int]:
    values = (getattr(table, key.name) for key in fields(table))
    yield from (value for value in values if isinstance(value, int))
