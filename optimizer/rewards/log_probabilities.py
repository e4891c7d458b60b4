"""Reads scores and letters from the log-probabilities in a judge's reply. All functions are pure."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from optimizer.core.errors import UnparsableReplyError
from optimizer.models.reply_text import answer_text

DIGITS: Final = ("1", "2", "3", "4", "5")
_MIN_LETTER_SHARE: Final = 0.5
"""The minimum probability of all letters together. Below it, the model would rather write another text."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a reply.

    Attributes:
        text: The text of the token.
        start: The position of the token in the text of the reply.
        alternatives: The probability of each text that the model could have written here: this text and the
            alternatives to it.
    """

    text: str
    start: int
    alternatives: Mapping[str, float]


def log_probability_tokens(reply: Any, text: str) -> list[Token]:
    """Return the tokens of a reply with their positions in its text.

    The result is empty if the reply has no log-probabilities, or if the joined tokens of the reply do not contain the
    text. Some servers also list the tokens of the reasoning before the text. These tokens get negative positions.
    """
    logprobs = reply["choices"][0].get("logprobs")
    listed = logprobs.get("content") if isinstance(logprobs, dict) else None
    entries = [one for one in listed or [] if isinstance(one, dict) and isinstance(one.get("token"), str)]
    shift = "".join(entry["token"] for entry in entries).rfind(text)
    if shift < 0 or not entries:
        return []
    tokens, position = [], -shift
    for entry in entries:
        tokens.append(Token(entry["token"], position, _alternatives(entry)))
        position += len(entry["token"])
    return tokens


def expected_score(tokens: Sequence[Token], position: int | None, score: float) -> float:
    """Return the mean of the scores that the token at a position could stand for, weighted by their probabilities.

    If the token has no log-probabilities, or contains more than the score, return the score that the judge wrote. White
    space, quotation marks, `*` and `(` around the score do not count.

    Args:
        tokens: The tokens of the reply.
        position: The position of a score's digit in the text of the reply; None if it is not known.
        score: The score that the judge wrote there.
    """
    if position is None or not score.is_integer():
        return score
    token = next((one for one in tokens if one.start <= position < one.start + len(one.text)), None)
    if token is None or _bare(token.text) != str(int(score)):
        return score
    weights = _weights(token, DIGITS)
    total = sum(weights.values())
    return sum(int(digit) * weight for digit, weight in weights.items()) / total if total else score


def letter_weights(reply: Any, letters: Collection[str]) -> Mapping[str, float]:
    """Return the probability of each letter at the first token that is not blank. This token must be a letter.

    Raises:
        UnparsableReplyError: The reply has no log-probabilities, its first token that is not blank is none of the
            letters, or another text is more probable than all letters together.
    """
    tokens = log_probability_tokens(reply, answer_text(reply["choices"][0]))
    if not any(token.alternatives for token in tokens):
        raise UnparsableReplyError('the server returns no log-probabilities. Set reply_format = "text"')
    first = next((token for token in tokens if _bare(token.text)), None)
    if first is None or _bare(first.text) not in letters:
        raise UnparsableReplyError(f"the reply is not one of {', '.join(letters)}")
    weights = _weights(first, letters)
    if sum(weights.values()) < _MIN_LETTER_SHARE:
        raise UnparsableReplyError(f"the reply is probably none of {', '.join(letters)}")
    return weights


def _alternatives(entry: Mapping[str, Any]) -> Mapping[str, float]:
    found: dict[str, float] = {}
    for one in entry.get("top_logprobs") or []:
        logprob = one.get("logprob") if isinstance(one, dict) else None
        if isinstance(logprob, int | float) and math.isfinite(logprob) and isinstance(one.get("token"), str):
            found[one["token"]] = math.exp(min(logprob, 0.0))
    return found


def _weights(token: Token, letters: Collection[str]) -> Mapping[str, float]:
    weights: dict[str, float] = {}
    for text, probability in token.alternatives.items():
        if (letter := _bare(text)) in letters:
            weights[letter] = weights.get(letter, 0.0) + probability
    return weights


def _bare(text: str) -> str:
    return text.strip().strip('"*(')
