"""Tests of which messages are empty and which texts have words."""

from typing import Any

import pytest

from proxy.openai.message_text import has_words, is_empty, message_text

TEXT = {"type": "text", "text": ""}


@pytest.mark.parametrize(
    "message",
    [
        {"content": ""},
        {"content": None},
        {},
        {"content": " \n\t\u00a0\u2003"},
        {"content": "\u200b\ufeff\u2060"},
        {"content": "\u3164\u2800\ufe0f"},
        {"content": "\ufe00\ufe07\u034f"},
        {"content": "\u180b\u180e\u17b4"},
        {"content": "\U000e0100\U000e0041"},
        {"content": "\ufffc"},
        {"content": "", "reasoning_content": " \n", "reasoning": "\u200b"},
        {"content": []},
        {"content": [TEXT, {"type": "output_text", "text": " "}, "", None]},
        {"content": [{"type": "text", "text": None}]},
        {"content": None, "refusal": "", "tool_calls": [], "function_call": None, "audio": None},
        {"content": "", "reasoning_content": "", "annotations": [], "name": "bot"},
        {"content": [{"type": "refusal", "refusal": "\n"}]},
    ],
)
def test_message_without_anything_visible_is_empty(message: dict[str, Any]) -> None:
    assert is_empty({"role": "assistant", **message})


@pytest.mark.parametrize(
    "message",
    [
        {"content": "."},
        {"content": "\u200bno"},
        {"content": [TEXT, {"type": "text", "text": "x"}]},
        {"content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
        {"content": "", "tool_calls": [{"id": "1"}]},
        {"content": None, "function_call": {"name": "f"}},
        {"content": None, "refusal": "I can't help with that."},
        {"content": "", "refusal": "I can't help with that."},
        {"content": None, "audio": {"id": "a"}},
        {"content": "", "reasoning": "Let me think."},
        {"content": 5},
    ],
)
def test_message_that_says_something_is_not_empty(message: dict[str, Any]) -> None:
    assert not is_empty({"role": "assistant", **message})


def test_refusal_is_the_text_of_a_message_without_content() -> None:
    assert message_text({"content": None, "refusal": "No."}) == "No."
    assert message_text({"content": "Yes.", "refusal": "No."}) == "Yes."


@pytest.mark.parametrize("text", ["a", "?? 1", "猫", "ü", "مرحبا", "👍🏽", "❤️", "🇩🇪", "1️⃣", "⭐", "⏰", "\u200bhi"])
def test_letters_digits_and_emoji_are_words(text: str) -> None:
    assert has_words(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "\u200b\u200d",
        "?!",
        "...",
        "---",
        "$€",
        "+=<>",
        "\u3164",
        "«»",
        "´",
        "\u034f\ufe01",
        "\ufffc",
        "\U000e0041",
    ],
)
def test_blanks_punctuation_and_symbols_are_no_words(text: str) -> None:
    assert not has_words(text)
