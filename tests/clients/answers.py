"""Checks for the answers that every client gets, however the client represents them."""

from collections.abc import Mapping, Sequence
from typing import Final

QUESTION: Final = "What is the capital of France?"
LONGER: Final = "In which country is the city of Paris?"  # its answer has enough pieces for a stream
_MARKERS: Final = ("# Query:", "# Answer:", "User:", "Assistant:")
_FEWEST_INJECTED: Final = 100  # tokens; the default bundle's prompt and examples are some hundreds
_MOST_RAW: Final = 20  # tokens; the question alone has eight
LIMIT: Final = 40  # tokens of an answer, in each program of this folder that has no session


def check_answer(text: str) -> None:
    """Check that a text answers the question, and that nothing of the layout is left around the answer."""
    assert "Paris" in text
    assert not leftovers(text)


def leftovers(text: str) -> list[str]:
    """Return what is left of the layout in an answer: markers, and white space around it."""
    return [mark for mark in _MARKERS if mark in text] + ([] if text == text.strip() else ["white space"])


def check_pieces(pieces: Sequence[str], text: str) -> None:
    """Check that a stream arrived in several pieces, and that none is lost."""
    assert len(pieces) > 3
    assert "".join(pieces) == text


def check_usage(prompt: int, completion: int, total: int, *, aligned: bool) -> None:
    """Check that the usage is reported, and that it shows whether prompt and examples were injected."""
    assert prompt > _FEWEST_INJECTED if aligned else 0 < prompt < _MOST_RAW, prompt
    assert completion > 0
    assert total == prompt + completion


def check_end(reason: str, completion: int, *, ended: str = "stop", cut: str = "length") -> None:
    """Check that the answer ended by itself, or that it reached its limit of tokens and says so.

    Which of the two happens depends on rounding: the same prompt gives other logits if more or less of it is cached.
    """
    assert reason == (cut if completion == LIMIT else ended)


def check_city(found: Mapping[str, str]) -> None:
    """Check that the answer has the fields of the schema, within their lengths.

    What a small model writes in them varies.
    """
    assert set(found) == {"city", "country"}
    assert all(0 < len(value) <= 40 for value in found.values())
