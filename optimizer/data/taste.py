"""Learns from preference pairs which form of answer people prefer, to rank examples without a writer model.

The model is a logistic regression on the difference of the two answers of a pair (Bradley and Terry, Biometrika 39,
1952), over a few features of their form. It says nothing about what an answer says. It is used only if it orders
held-out pairs better than chance.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from index.measures.answer_form import word_count
from index.measures.confidence import wilson
from optimizer.data.preferences import PreferencePair

MIN_PAIRS: Final = 20
"""About as many pairs state a preference (arXiv 2606.24004). Fewer pairs are not used to rank examples."""
_FOLDS: Final = 5
_PENALTY: Final = 1.0
_STEPS: Final = 25
_LIST_LINE: Final = re.compile(r"^\s*(?:[-*•–]|\d{1,2}[.)])\s", re.MULTILINE)
_HEADING: Final = re.compile(r"^\s*(?:#{1,6}\s|\*\*[^*\n]+\*\*\s*:?\s*$)", re.MULTILINE)
_FIRST_PERSON: Final = re.compile(r"\b(?:I|I'm|I've|my|me|ich|je|yo|io|eu)\b")
_SECOND_PERSON: Final = re.compile(r"\b(?:you|your|du|dir|dein\w*|Sie|Ihnen|Ihr\w*|vous|votre|tu|usted|voi|você)\b")
_HEDGE: Final = re.compile(
    r"\b(?:perhaps|maybe|might|may|could|possibly|probably|generally|usually|often|seems?|appears?|likely|vielleicht"
    r"|möglicherweise|wahrscheinlich|peut-être|probablement|quizás?|tal vez|probablemente|forse|talvez)\b",
    re.IGNORECASE,
)
_GREETING: Final = re.compile(
    r"\W*(?:hi|hello|hey|dear|sure|certainly|of course|great|hallo|gerne|bonjour|hola|ciao|olá)\b", re.IGNORECASE
)
FEATURES: Final = (
    *("words", "lines of lists", "headings", "paragraphs", "a closing question", "exclamation marks", "numbers"),
    *("the first person", "the second person", "hedges", "an opening greeting", "code"),
)
_Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Taste:
    """Which form of answer people prefer.

    Attributes:
        weights: The weight of each of FEATURES; positive if people prefer more of it.
        scales: The spread of each feature among the pairs, by which it is divided.
        right: Number of pairs, each left out of the fit, that the model put in the right order.
        pairs: Number of pairs.
    """

    weights: tuple[float, ...]
    scales: tuple[float, ...]
    right: int
    pairs: int

    def score(self, answer: str) -> float:
        """Return a number that is higher for answers whose form people prefer."""
        return float(np.dot(_features(answer) / np.array(self.scales), self.weights))

    @property
    def liked(self) -> Sequence[tuple[str, float]]:
        """The three features with the largest weights, each with its weight."""
        return sorted(zip(FEATURES, self.weights, strict=True), key=lambda one: -abs(one[1]))[:3]


def learn_taste(pairs: Sequence[PreferencePair]) -> Taste | None:
    """Return the taste that pairs show. None if there are too few, or if the form of answers does not explain them."""
    if len(pairs) < MIN_PAIRS:
        return None
    differences = np.array([_features(pair.chosen) - _features(pair.rejected) for pair in pairs])
    scales = np.maximum(differences.std(axis=0), 1e-9)
    scaled = differences / scales
    right = sum(_right_in_fold(scaled, fold) for fold in range(_FOLDS))
    if wilson(right, len(pairs)).low <= 0.5:
        return None
    return Taste(tuple(_fit(scaled).tolist()), tuple(scales.tolist()), right, len(pairs))


def _right_in_fold(scaled: _Matrix, fold: int) -> int:
    held_out = np.arange(len(scaled)) % _FOLDS == fold
    return int((scaled[held_out] @ _fit(scaled[~held_out]) > 0).sum())


def _fit(scaled: _Matrix) -> NDArray[np.float64]:
    """Return the weights that maximize the penalized likelihood of the preferences, by Newton's method."""
    weights = np.zeros(scaled.shape[1])
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(scaled @ weights, -30, 30)))
        gradient = scaled.T @ (1 - chances) - _PENALTY * weights
        curvature = (scaled * (chances * (1 - chances))[:, np.newaxis]).T @ scaled + _PENALTY * np.eye(len(weights))
        weights = weights + np.linalg.solve(curvature, gradient)
    return weights


def _features(answer: str) -> NDArray[np.float64]:
    words = max(1, word_count(answer))
    counted = (_FIRST_PERSON, _SECOND_PERSON, _HEDGE)
    return np.array(
        [
            math.log(words),
            math.log1p(len(_LIST_LINE.findall(answer))),
            math.log1p(len(_HEADING.findall(answer))),
            math.log1p(answer.count("\n\n")),
            float(answer.rstrip(" \n\"'”)").endswith(("?", "？", "؟"))),
            math.log1p(answer.count("!") + answer.count("！")),
            sum(map(str.isdigit, answer)) / max(1, len(answer)),
            *(len(pattern.findall(answer)) / words for pattern in counted),
            float(_GREETING.match(answer) is not None),
            float("```" in answer),
        ]
    )
