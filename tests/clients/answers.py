"""What every client's answers must be, however the client writes them down."""

from collections.abc import Sequence
from typing import Final

QUESTION: Final = "What is the capital of France?"
LONGER: Final = "In which country is the city of Paris?"  # its answer has pieces enough to be a stream
_MARKERS: Final = ("# Query:", "# Answer:", "User:", "Assistant:")
_FEWEST_INJECTED: Final = 100  # tokens; the default bundle's prompt and examples are some hundreds
_MOST_RAW: Final = 20  # tokens; the question alone has eight


def check_answer(text: str) -> None:
    """The assistant's own words: they answer, and nothing of the layout is left around them."""
    assert "Paris" in text
    assert not leftovers(text)


def leftovers(text: str) -> list[str]:
    """What the layout left in an answer: its markers, and white space around it."""
    return [mark for mark in _MARKERS if mark in text] + ([] if text == text.strip() else ["white space"])


def check_pieces(pieces: Sequence[str], text: str) -> None:
    """A stream came in several pieces, none lost."""
    assert len(pieces) > 3
    assert "".join(pieces) == text


def check_usage(prompt: int, completion: int, total: int, *, aligned: bool) -> None:
    """Usage is reported, and shows whether prompt and examples were injected."""
    assert prompt > _FEWEST_INJECTED if aligned else 0 < prompt < _MOST_RAW, prompt
    assert completion > 0
    assert total == prompt + completion
