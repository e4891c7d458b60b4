"""Tests how the names of models and variants are told apart. The proxy and the optimizer use the same functions."""

import pytest

from index.model_names import plain_name, plain_names, split_model_name


@pytest.mark.parametrize(
    ("name", "listed", "split"),
    [
        ("lm", ["lm"], ("lm", None)),
        ("lm@raw", ["lm"], ("lm", "raw")),
        ("lm@q4", ["lm@q4"], ("lm@q4", None)),
        ("lm@q4@raw-matched", ["lm@q4"], ("lm@q4", "raw-matched")),
        ("lm@raw", ["lm@raw"], ("lm@raw", None)),
        ("lm@raw", ["lm", "lm@raw"], ("lm@raw", None)),
        ("org/lm:7b@2024-01", ["org/lm:7b@2024-01"], ("org/lm:7b@2024-01", None)),
        ("my model@v1.2", ["my model@v1.2"], ("my model@v1.2", None)),
        ("my model@v1.2", [], ("my model@v1.2", None)),
        ("a@b@c@aligned", ["a@b@c"], ("a@b@c", "aligned")),
        ("@raw", [], ("", "raw")),
    ],
)
def test_name_is_looked_up_as_it_stands_first(name: str, listed: list[str], split: tuple[str, str | None]) -> None:
    assert split_model_name(name, listed) == split


@pytest.mark.parametrize(
    ("listed", "plain"),
    [
        (["tiny@aligned", "tiny", "tiny@raw", "tiny@raw-matched"], ["tiny"]),
        (["lm@q4"], ["lm@q4"]),
        (["lm@q4", "lm@q4@aligned", "lm@q4@raw"], ["lm@q4"]),
        (["lm@raw"], ["lm@raw"]),
        (["lm", "lm@q4"], ["lm", "lm@q4"]),
        (["a/b:c d@1", "a/b:c d@1@raw"], ["a/b:c d@1"]),
        ([], []),
    ],
)
def test_only_variants_of_listed_models_are_left_out_of_a_list(listed: list[str], plain: list[str]) -> None:
    assert plain_names(listed) == plain


@pytest.mark.parametrize(
    ("name", "listed", "plain"),
    [
        ("gemma@raw", ["gemma", "gemma@aligned", "gemma@raw"], "gemma"),
        ("lm@q4", ["lm@q4"], "lm@q4"),
        ("lm@q4@raw", ["lm@q4", "lm@q4@raw"], "lm@q4"),
        ("unknown@q4", ["lm"], "unknown@q4"),
        ("lm@raw", [], "lm@raw"),
    ],
)
def test_plain_name_is_that_of_the_model(name: str, listed: list[str], plain: str) -> None:
    assert plain_name(name, listed) == plain
