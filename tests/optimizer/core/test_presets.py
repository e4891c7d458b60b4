"""Tests that `recipe = "drpo"` sets the values of the published method, and that every key can be set back."""

from pathlib import Path
from typing import Any

import pytest

from index.layouts import LAYOUTS
from index.types import RetrievalPolicy
from optimizer.core.config import parse_config
from optimizer.core.config_tables import RunConfig, SearchTable
from optimizer.core.errors import ConfigError
from optimizer.core.model_tables import JudgeTable, WriterTable
from optimizer.core.presets import preset


def read(**tables: Any) -> RunConfig:
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "kind": "chat"}
    document = {
        "models": dict.fromkeys(("task", "judge", "optimizer"), endpoint),
        "data": {"train": "t.jsonl"},
        "bundle": {"name": "b"},
        **tables,
    }
    return parse_config(document, Path())


def test_preset_has_the_published_values() -> None:
    config = read(search={"recipe": "drpo"})
    search, reward, examples, bundle = config.search, config.reward, config.examples, config.bundle
    assert (search.algorithm, search.beam, search.actions, search.depth, search.deeper) == ("published", 2, 3, 20, 10)
    assert (search.keep_above, search.resample, search.k, search.words) == (4.5, True, 2, 0)
    assert search.writer == WriterTable("published", 0.2, 0.95)
    assert (reward.weights, reward.safety, reward.unreadable) == ({"judge": 1.0}, 0.0, "zero")
    assert (reward.judge.manner, reward.judge.fewest, reward.judge.most) == ("impartial", 2, 5)
    assert len(reward.judge.criteria) == 14
    assert "over-refusal" not in reward.judge.criteria
    assert (reward.judge.analysis, reward.judge.reasons, reward.judge.scores) == (True, True, "integer")
    assert (reward.judge.new_criteria, reward.judge.attempts) == (False, 1)
    assert (examples.queries, examples.first, examples.rounds, examples.follow) == (16, "reference", 5, "latest")
    assert (examples.choice, examples.pinned, examples.words) == ("all", 0, 0)
    assert (examples.judge.manner, examples.judge.fewest, examples.judge.most) == ("critic", 3, 6)
    assert examples.judge.new_criteria
    assert examples.writer == WriterTable("published", 0.0, 1.0)
    assert (config.tune.policy, config.tune.k, config.tune.order) == ((), (), ())
    assert (bundle.prompt, bundle.layout, bundle.write) == ("You are a helpful assistant.", "drpo", "found")
    assert bundle.layout in LAYOUTS
    assert bundle.sampling == {"temperature": 0.0, "max_tokens": 2048}
    assert bundle.retrieval is not None
    assert (bundle.retrieval.policy, bundle.retrieval.k, bundle.retrieval.order) == ("nearest", 3, "similar_first")


def test_recipe_raced_has_the_defaults_of_the_tables() -> None:
    tables = {"reward": {"weights": {"rules": 1}}, "data": {"train": "t.jsonl", "sealed": "s.jsonl"}}
    config = read(search={"recipe": "raced"}, **tables)
    assert config == read(**tables)
    assert config.search == SearchTable()
    assert (config.bundle.write, config.bundle.prompt, config.bundle.retrieval) == ("better", "", None)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"search": {"depth": 6}}, lambda config: config.search.depth == 6),
        ({"search": {"writer": {"temperature": 0.7}}}, lambda config: config.search.writer.top_p == 0.95),
        (
            {"reward": {"judge": {"scores": "expected"}}},
            lambda config: (config.reward.judge.scores, config.reward.judge.manner) == ("expected", "impartial"),
        ),
        ({"reward": {"weights": {"rules": 1.0}}}, lambda config: config.reward.weights == {"rules": 1.0}),
        ({"reward": {"judge": {"criteria": []}}}, lambda config: config.reward.judge.criteria == ()),
        ({"tune": {"k": [0, 1]}}, lambda config: (config.tune.k, config.tune.policy) == ((0, 1), ())),
        (
            {"bundle": {"name": "b", "retrieval": {"k": 5}}},
            lambda config: (config.bundle.retrieval.k, config.bundle.retrieval.order) == (5, "similar_first"),
        ),
        (
            {"bundle": {"name": "b", "sampling": {"max_tokens": 64}}},
            lambda config: config.bundle.sampling == {"max_tokens": 64},
        ),
        ({"examples": {"queries": 0}}, lambda config: config.examples.queries == 0),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_each_key_of_the_preset_can_be_set_back(change: dict[str, Any], found: Any) -> None:
    change = {**change, "search": {"recipe": "drpo", **change.get("search", {})}}
    assert found(read(**change))


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"search": {"recipe": "drop"}}, "recipe must be one of raced, drpo"),
        ({"search": {"recipe": ["drpo"]}}, "recipe must be one of"),
        ({"search": {"recipe": "drpo", "algorithm": "beam"}}, "algorithm must be one of raced, published"),
        ({"search": {"recipe": "drpo", "resample": "yes"}}, "resample must be true or false"),
        ({"search": {"recipe": "drpo", "depth": True}}, "depth must be a whole number"),
        ({"search": {"recipe": "drpo", "writer": {"temprature": 1}}}, r"\[search\] writer: temprature is unknown"),
        ({"search": {"recipe": "drpo", "writer": {"instructions": "x"}}}, "must be one of short, published"),
        (
            {"search": {"recipe": "drpo"}, "reward": {"judge": {"criteria": ["claritty"]}}},
            "criteria must contain only names of this list",
        ),
        ({"search": {"recipe": "drpo"}, "reward": {"judge": {"criteria": ["clarity"]}}}, "at least 2"),
        ({"search": {"recipe": "drpo"}, "reward": {"unreadable": "skip"}}, "must be one of leave_out, zero"),
        ({"search": {"recipe": "drpo"}, "bundle": {"name": "b", "layout": "xml"}}, "layout must be one of"),
        (
            {"search": {"recipe": "drpo"}, "bundle": {"name": "b", "retrieval": {"order": "random"}}},
            "order must be one of similar_last",
        ),
        ({"search": {"recipe": "drpo"}, "bundle": {"name": "b", "write": "better"}}, r"\[data\] sealed is missing"),
        ({"reward": {"weights": {"rules": 1}}}, r"\[data\] sealed is missing"),
        (
            {
                "reward": {"weights": {"rules": 1}},
                "data": {"train": "t.jsonl", "sealed": "s.jsonl", "seeds": "e.jsonl"},
            },
            ".examples. queries is 0",
        ),
    ],
)
def test_value_that_does_not_fit_is_refused(tables: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        read(**tables)


def test_preset_cannot_be_changed() -> None:
    search: Any = preset("drpo")["search"]
    with pytest.raises(TypeError):
        search["depth"] = 1
    assert preset("raced") == {}


def test_values_of_the_preset_are_those_of_its_dataclasses() -> None:
    published = preset("drpo")
    assert isinstance(published["reward"]["judge"], JudgeTable)
    assert isinstance(published["bundle"]["retrieval"], RetrievalPolicy)
