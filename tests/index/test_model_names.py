"""Tests how the names of models and variants are told apart. The proxy and the optimizer use the same functions."""

import pytest

from index.model_names import is_same_model, plain_name, plain_names, split_model_name


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
def test_whole_name_is_looked_up_first(name: str, listed: list[str], split: tuple[str, str | None]) -> None:
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


CHAT = "qwen2.5-coder-1.5b-instruct"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("google/gemma-3-270m", "gemma-3-270m"),
        ("google/gemma-3-270m", "unsloth/Gemma-3-270M-GGUF"),
        ("google/gemma-3-270m", "gemma3:270m"),
        ("google/gemma-3-270m", "gemma-3-270m:latest"),
        ("google/gemma-3-270m", "/models/gemma-3-270m.Q8_0.gguf"),
        ("google/gemma-3-270m", "gemma-3-270m@q4"),
        (CHAT, "Qwen/Qwen2.5-Coder-1.5B-Instruct"),
        (CHAT, "Qwen2.5 Coder 1.5B Instruct"),
        (CHAT, "Qwen2.5-Coder-1.5B-Instruct-GGUF"),
        (CHAT, "qwen2.5-coder:1.5b-instruct-q4_K_M"),
        (CHAT, "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
        (CHAT, "bartowski/Qwen2.5-Coder-1.5B-Instruct-GGUF/Qwen2.5-Coder-1.5B-Instruct-IQ4_XS.gguf"),
        (CHAT, "/data/qwen2.5-coder-1.5b-instruct-fp16-00001-of-00002.gguf"),
        (CHAT, "Qwen/Qwen2.5-Coder-1.5B-Instruct-AWQ"),
        (CHAT, "Qwen/Qwen2.5-Coder-1.5B-Instruct-GPTQ-Int4"),
        (CHAT, "unsloth/Qwen2.5-Coder-1.5B-Instruct-bnb-4bit"),
        (CHAT, "RedHatAI/Qwen2.5-Coder-1.5B-Instruct-FP8-dynamic"),
        (CHAT, "neuralmagic/Qwen2.5-Coder-1.5B-Instruct-quantized.w8a8"),
        (CHAT, "/models/Qwen2.5-Coder-1.5B-Instruct/"),
    ],
)
def test_names_of_one_model_are_the_same(one: str, other: str) -> None:
    assert is_same_model(one, other)
    assert is_same_model(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (CHAT, "Qwen/Qwen2.5-Coder-7B-Instruct"),
        (CHAT, "Qwen/Qwen2.5-1.5B-Instruct"),
        (CHAT, "Qwen/Qwen2.5-Coder-1.5B"),
        (CHAT, "Qwen/Qwen2.5-Coder-15B-Instruct"),
        (CHAT, "Qwen/Qwen2.5-Math-1.5B-Instruct"),
        (CHAT, "qwen2.5-coder"),
        (CHAT, "qwen2.5-coder:1.5b"),
        (CHAT, "Qwen/Qwen3-Coder-1.5B-Instruct"),
        (CHAT, "me/my-Qwen2.5-Coder-1.5B-Instruct"),
        (CHAT, "Qwen2.5-Coder-1.5B-Instruct-abliterated"),
        ("google/gemma-3-270m", "google/gemma-3-270m-it"),
        ("google/gemma-3-270m", "google/gemma-3-27b"),
        ("gemma-3-2-7b", "gemma-32-7b"),
        ("llama-3-8b", "llama-3.1-8b"),
        ("llama-3-8b", "llama-38b"),
        ("unspecified", "lm"),
        ("", ""),
        ("/", "/"),
    ],
)
def test_names_of_different_models_are_not_the_same(one: str, other: str) -> None:
    assert not is_same_model(one, other)
    assert not is_same_model(other, one)
