"""Checks the values of run.toml: names must be known, numbers must be in their range, and keys must fit together."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Final, get_args

from index.bundle.strict_json import is_line
from index.layouts import LAYOUTS
from index.types import Order, PolicyName
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
    ExamplesTable,
    RunConfig,
    SearchTable,
)
from optimizer.core.errors import ConfigError
from optimizer.core.model_tables import INSTRUCTIONS, MANNERS, MAX_ATTEMPTS, SCORES, JudgeTable, ModelTable, WriterTable
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
_ADDRESS: Final = re.compile(r"https?://[^\s/?#]+\S*", re.IGNORECASE)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_PUBLISHED_NEEDS: Final = (
    '[search] algorithm = "published" (the default of recipe = "drpo") needs a writer model and a judge. Add '
    "[models.optimizer] and [models.judge]."
)
_EXAMPLES_NEED: Final = (
    "[examples] queries above 0 needs a writer model and a judge, because answers are rewritten and judged. Add "
    "[models.optimizer] and [models.judge]."
)
_SEALED_MISSING: Final = (
    "[data] sealed is missing, and a new bundle is written only if it is better on sealed rows. Name these rows, or "
    "set "
    'write = "found" in [bundle] to write the bundle without this test.'
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
        *((one.kind, KINDS, f"[models.{role}] kind") for role, one in config.models.items()),
        *((name, tuple(LAYOUTS), "[tune] layout") for name in config.tune.layout),
        *((one, get_args(PolicyName), "[tune] policy") for one in config.tune.policy),
        *((one, get_args(Order), "[tune] order") for one in config.tune.order),
        *((one, REFUSALS, "[tune] refusal") for one in config.tune.refusal),
        (search.kinds, KIND_MIXES, "[search] kinds"),
        *((one, PROPOSERS, "[search] propose") for one in search.propose),
    ):
        yield value in options, f"{name} must be one of {', '.join(filter(None, options))}"


def _need_checks(config: RunConfig) -> Iterator[tuple[bool, str]]:
    """For each key that needs other keys, yield whether these are set, and the message if they are not."""
    search, has_models = config.search, {"judge", "optimizer"} <= set(config.models)
    yield bool(config.reward.weights), "[reward] weights is empty. Name at least one reward."
    is_name = is_line(config.bundle.name) and "/" not in config.bundle.name
    yield is_name, "[bundle] name must be a name on one line, without a slash, because a folder gets this name"
    needs_judge = "[reward] confirm needs a judge. Add [models.judge]."
    yield not config.reward.confirm or "judge" in config.models, needs_judge
    yield search.algorithm != PUBLISHED or has_models, _PUBLISHED_NEEDS
    yield (
        len(set(search.propose)) == len(search.propose),
        "[search] propose names a proposer twice. Name each proposer once.",
    )
    writes = "[search] propose names the proposer writer, which needs a writer model. Add [models.optimizer]."
    yield "writer" not in search.propose or "optimizer" in config.models, writes
    yield not config.examples.queries or has_models, _EXAMPLES_NEED
    yield config.data.sealed is not None or config.bundle.write == FOUND, _SEALED_MISSING
    seeds = "[data] seeds has no effect while [examples] queries is 0. Set queries to the number of seeds to use."
    yield config.data.seeds is None or config.examples.queries > 0, seeds


def _number_checks(config: RunConfig) -> Iterator[tuple[bool, str]]:
    """For each number, yield whether it is in its range, and the message if it is not."""
    data, examples, search, reward = config.data, config.examples, config.search, config.reward
    yield from _at_least(1, "[search]", search, ("beam", "actions", "depth", "block", "max_tokens"))
    for table, value, key in (
        ("search", search.first, "first"),
        ("search", search.queries, "queries"),
        ("tune", config.tune.queries, "queries"),
    ):
        enough = f"[{table}] {key} must be at least 2, because a paired test needs two queries"
        yield value is None or value >= 2, enough
    yield 0 < search.alpha < 1, "[search] alpha must be between 0 and 1"
    yield from _at_least(0, "[search]", search, ("words", "deeper", "k"))
    yield from _copy_checks("[search]", search)
    yield from _copy_checks("[examples]", examples)
    yield 0 <= search.keep_above <= _MAX_SCORE, f"[search] keep_above must be from 0 to {_MAX_SCORE}"
    yield 0 <= search.indifference <= 1, "[search] indifference must be from 0 to 1"
    yield abs(search.seed) <= _MAX_INTEGER, f"[search] seed must be from -{_MAX_INTEGER:,} to {_MAX_INTEGER:,}"
    yield 0 <= data.unusable < 1, "[data] unusable must be at least 0 and below 1"
    yield from _at_least(MIN_ROWS, "[data]", data, ("limit",))
    yield from _at_least(0, "[data]", data, ("raw",))
    yield from _at_least(0, "[examples]", examples, ("queries", "pinned", "words"))
    yield from _at_least(1, "[examples]", examples, ("rounds", "beam", "actions", "size"))
    yield from _weight_checks("[reward] weights", reward.weights)
    yield from _weight_checks("[reward] screen", reward.screen)
    yield from _rules_checks(reward.rules)
    is_score = 0 <= reward.safety <= _MAX_SCORE
    yield is_score, f"[reward] safety must be from 0 to {_MAX_SCORE}. Scores begin at 1, so 0 sets no constraint"
    enough = f"[reward] trust must be 0 or at least {MIN_TRUST_CASES}, because fewer cases show nothing"
    yield reward.trust == 0 or reward.trust >= MIN_TRUST_CASES, enough
    yield from _at_least(0, "[reward]", reward, ("confirm",))
    yield min(config.tune.shortest_answer, default=0) >= 0, "[tune] shortest_answer must not be negative"
    yield from _at_least(0, "[budget]", config.budget, [key.name for key in fields(config.budget)])
    for name in ("data", "search", "examples", "tune", "budget"):
        for key, value in _integers(getattr(config, name)):
            yield value <= _MAX_INTEGER, f"[{name}] {key} must be at most {_MAX_INTEGER:,}"


def _at_least(least: int, location: str, table: Any, keys: Iterable[str]) -> Iterator[tuple[bool, str]]:
    """For each of these keys, yield whether it has no value or at least `least`, and the message if it has less."""
    for key in keys:
        value = getattr(table, key)
        limit = f"be at least {least}" if least else "not be negative"
        yield value is None or value >= least, f"{location} {key} must {limit}"


def _copy_checks(location: str, table: SearchTable | ExamplesTable) -> Iterator[tuple[bool, str]]:
    is_length = table.shared_words == 0 or table.shared_words >= MIN_SHARED_WORDS
    allowed = f"{location} shared_words must be 0 or at least {MIN_SHARED_WORDS}, because fewer words are no copy"
    yield is_length, allowed
    yield 0 <= table.repeated <= 1, f"{location} repeated must be from 0 to 1"


def _weight_checks(location: str, weights: Mapping[str, float]) -> Iterator[tuple[bool, str]]:
    for name, weight in weights.items():
        yield weight > 0, f"{location}: the weight of {name} must be above 0"
        yield weight <= _MAX_WEIGHT, f"{location}: the weight of {name} must be at most {_MAX_WEIGHT:,.0f}"


def _rules_checks(table: RulesTable) -> Iterator[tuple[bool, str]]:
    keys = ("ends", "fresh", "right")
    yield from _at_least(0, "[reward.rules]", table, keys)
    yield any(getattr(table, key) > 0 for key in keys), "[reward.rules] ends, fresh or right must be above 0"
    for key in keys:
        yield getattr(table, key) <= _MAX_WEIGHT, f"[reward.rules] {key} must be at most {_MAX_WEIGHT:,.0f}"


def _role_checks(config: RunConfig) -> Iterator[tuple[bool, str]]:
    """For each value in a table of a model, judge or writer, yield whether it is allowed, and the message if not."""
    for role, model in config.models.items():
        yield from _endpoint_checks(role, model)
        yield from _at_least(1, f"[models.{role}]", model, ("concurrency",))
        yield model.timeout > 0, f"[models.{role}] timeout must be above 0"
        yield from _at_least(0, f"[models.{role}]", model, ("price_prompt", "price_completion"))
    yield from _judge_checks(config.reward.judge, "[reward.judge]")
    yield from _judge_checks(config.examples.judge, "[examples.judge]")
    yield from _writer_checks(config.search.writer, "[search.writer]")
    yield from _writer_checks(config.examples.writer, "[examples.writer]")


def _endpoint_checks(role: str, model: ModelTable) -> Iterator[tuple[bool, str]]:
    location = f"[models.{role}]"
    is_address = _ADDRESS.fullmatch(model.base_url) is not None
    yield is_address, f"{location} base_url must be an address such as http://localhost:8000/v1"
    yield is_line(model.model), f"{location} model must be the name of a model, on one line"
    # The value is not shown: it may be the key itself.
    is_variable = model.api_key_env is None or _VARIABLE.fullmatch(model.api_key_env) is not None
    yield is_variable, f"{location} api_key_env must be the name of an environment variable. Never write the key itself"


def _judge_checks(table: JudgeTable, name: str) -> Iterator[tuple[bool, str]]:
    yield table.manner in MANNERS, f"{name} manner must be one of {', '.join(MANNERS)}"
    yield table.scores in SCORES, f"{name} scores must be one of {', '.join(SCORES)}"
    is_range = 1 <= table.fewest <= table.most <= _MAX_CRITERIA
    yield is_range, f"{name} fewest must be at least 1, and most must be from fewest to {_MAX_CRITERIA}"
    is_known = set(table.criteria) <= set(criteria_table())
    yield is_known, f"{name} criteria must contain only names of this list: {', '.join(criteria_table())}"
    is_enough = not table.criteria or len(set(table.criteria)) >= table.fewest
    yield is_enough, f"{name} criteria must name at least {table.fewest} criteria, because fewest is {table.fewest}"
    yield 1 <= table.attempts <= MAX_ATTEMPTS, f"{name} attempts must be from 1 to {MAX_ATTEMPTS}"


def _writer_checks(table: WriterTable, name: str) -> Iterator[tuple[bool, str]]:
    yield table.instructions in INSTRUCTIONS, f"{name} instructions must be one of {', '.join(INSTRUCTIONS)}"
    yield 0 <= table.temperature <= _MAX_TEMPERATURE, f"{name} temperature must be from 0 to {_MAX_TEMPERATURE}"
    yield 0 <= table.top_p <= 1, f"{name} top_p must be from 0 to 1"


def _integers(table: Any) -> Iterator[tuple[str, int]]:
    values = ((key.name, getattr(table, key.name)) for key in fields(table))
    yield from ((name, value) for name, value in values if isinstance(value, int))
