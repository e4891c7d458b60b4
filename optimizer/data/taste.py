"""Learns from ratings and preference pairs which form of answer people prefer, without a writer model.

The model is a logistic regression. For a rated answer, it predicts the share of users who like the answer. For a pair,
it predicts from the difference of the two answers which one people prefer (Bradley and Terry, Biometrika 39, 1952). The
features are the form of an answer (optimizer.data.answer_features), and a few words that liked answers have more or
less often than others. The words are used only if they make the predictions for held-out answers better. An answer is
held out if the model was not fitted to it. The model does not know whether an answer is right. It is used only if it
orders held-out answers better than chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from optimizer.data.answer_features import FORMS, form_of, vocabulary, words_of
from optimizer.data.preferences import AnswerRatings, PreferencePair, Preferences
from optimizer.data.split import normalized

MIN_OBSERVATIONS: Final = 20
"""No taste is learned from fewer pairs and rated answers together. About 20 pairs are enough to state a preference
(arXiv 2606.24004)."""
MAX_WORDS: Final = 12
WORDS: Final = "certain words"
_FOLDS: Final = 5
_PENALTY: Final = 1.0
_STEPS: Final = 25
_MIN_EVIDENCE: Final = 1.96  # standard errors
_Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Taste:
    """Which form of answer people prefer.

    Attributes:
        weights: The weights of the features: one for each of FORMS, then one for each of `words`. A weight is positive
            if people prefer more of the feature.
        words: The words whose presence in an answer is a feature.
        base: The log-odds that people like an answer whose features are all 0.
        agreement: The share of comparisons of two held-out answers in which the model puts the preferred answer first.
        answers: Number of rated answers.
        pairs: Number of pairs.
        ranking: The names of the three features with the largest effect, the largest first. Each has its weight: the
            change of the log-odds for one standard deviation of the feature.
    """

    weights: tuple[float, ...]
    words: tuple[str, ...] = field(repr=False)
    base: float
    agreement: float
    answers: int
    pairs: int
    ranking: tuple[tuple[str, float], ...]

    def chance(self, answer: str) -> float:
        """Return the estimated share of users who like an answer of this form."""
        return _chance(float(_features(answer, self.words) @ np.array(self.weights)) + self.base)


@dataclass(frozen=True, slots=True)
class _Observations:
    """What was observed: one row for each rated answer, and then one for each pair.

    Attributes:
        features: The features of the answer; for a pair, the difference of both answers: (n, features).
        liked: The share of likes; 1 for a pair: (n,).
        is_answer: 1 for a rated answer, 0 for a pair: (n,). Only rated answers have an intercept.
    """

    features: _Matrix
    liked: _Matrix
    is_answer: _Matrix

    def part(self, chosen: NDArray[np.bool_]) -> "_Observations":
        """Return the chosen observations."""
        return _Observations(self.features[chosen], self.liked[chosen], self.is_answer[chosen])


@dataclass(frozen=True, slots=True)
class _Model:
    """A fitted model: the columns of the features that it uses, the weights of these columns, and the intercept."""

    columns: Sequence[int]
    weights: _Matrix
    base: float

    def log_odds(self, observed: _Observations) -> _Matrix:
        """Return the log-odds that people like each answer, or prefer the first answer of each pair."""
        found: _Matrix = observed.features[:, self.columns] @ self.weights + self.base * observed.is_answer
        return found


@dataclass(frozen=True, slots=True)
class _Scale:
    """The mean and the spread of each feature among the answers: (features,)."""

    middle: _Matrix
    spread: _Matrix


def learn_taste(preferences: Preferences) -> Taste | None:
    """Return the taste that ratings and pairs show. None if they are too few, or if the form does not explain them."""
    ratings, pairs = [one for one in preferences.ratings if one.likes != one.dislikes], preferences.pairs
    if len(ratings) + len(pairs) < MIN_OBSERVATIONS:
        return None
    paired = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    words = vocabulary([*(one.answer for one in ratings), *paired])
    observed, scale = _observe(ratings, pairs, words)
    folds = np.array([*(_fold(one.query) for one in ratings), *(_fold(one.query) for one in pairs)])
    held_out = {count: _held_out(observed, folds, count) for count in (0, MAX_WORDS)}
    count = min(held_out, key=lambda one: _loss(held_out[one], observed))
    evidence, agreement = _evidence(held_out[count], observed)
    if evidence < _MIN_EVIDENCE:
        return None
    model = _fit(observed, count)
    weights = model.weights / scale.spread[model.columns]
    base = model.base - float(scale.middle[model.columns] @ weights)
    used = tuple(words[column - len(FORMS)] for column in model.columns[len(FORMS) :])
    ranking = _ranking(model.weights)
    return Taste(tuple(weights.tolist()), used, base, agreement, len(ratings), len(pairs), ranking)


def _observe(
    ratings: Sequence[AnswerRatings], pairs: Sequence[PreferencePair], words: Sequence[str]
) -> tuple[_Observations, _Scale]:
    """Return the observations with scaled features, and the scale."""
    rated = [_features(one.answer, words) for one in ratings]
    paired = [(_features(one.chosen, words), _features(one.rejected, words)) for one in pairs]
    every = np.array([*rated, *(features for two in paired for features in two)])
    scale = _Scale(every.mean(axis=0), np.maximum(every.std(axis=0), 1e-9))
    features = [*(one - scale.middle for one in rated), *(chosen - rejected for chosen, rejected in paired)]
    shares = [one.likes / (one.likes + one.dislikes) for one in ratings]
    observed = _Observations(
        np.array(features) / scale.spread,
        np.array([*shares, *(1.0 for _ in pairs)]),
        np.array([1.0] * len(ratings) + [0.0] * len(pairs)),
    )
    return observed, scale


def _features(answer: str, words: Sequence[str]) -> _Matrix:
    found = words_of(answer)
    return np.array([*form_of(answer), *(float(word in found) for word in words)])


def _fold(query: str) -> int:
    """Return the number of the fold in which the answers to a question are held out."""
    return crc32(normalized(query).encode("utf-8", "surrogatepass")) % _FOLDS


def _held_out(observed: _Observations, folds: NDArray[np.int64], words: int) -> _Matrix:
    """Return the log-odds of each observation, by a model that was fitted to the other folds."""
    found = np.zeros(len(folds))
    for fold in range(_FOLDS):
        is_held_out = folds == fold
        if is_held_out.any() and not is_held_out.all():
            found[is_held_out] = _fit(observed.part(~is_held_out), words).log_odds(observed.part(is_held_out))
    return found


def _fit(observed: _Observations, words: int) -> _Model:
    """Fit a model with the features of the form, and with the words that are most strongly related to likes."""
    columns = [*range(len(FORMS)), *_telling_words(observed, words)]
    features = np.column_stack([observed.features[:, columns], observed.is_answer])
    penalties = np.array([_PENALTY] * len(columns) + [1e-3])  # the intercept is hardly penalized
    weights = np.zeros(len(penalties))
    for _ in range(_STEPS):
        chances = _chances(features @ weights)
        gradient = features.T @ (observed.liked - chances) - penalties * weights
        curvature = (features * (chances * (1 - chances))[:, np.newaxis]).T @ features + np.diag(penalties)
        step = np.linalg.solve(curvature, gradient)
        weights = weights + step
        if np.abs(step).max() < 1e-6:
            break
    return _Model(columns, weights[:-1], float(weights[-1]))


def _telling_words(observed: _Observations, count: int) -> Sequence[int]:
    """Return the columns of the words that are most strongly related to likes."""
    words = observed.features[:, len(FORMS) :]
    # Without any relation to the words, `liked` would be the mean for a rated answer, and 0.5 for a pair.
    surprise = observed.liked - np.where(observed.is_answer > 0, _mean_liked(observed), 0.5)
    relation = np.abs(surprise @ words)
    return [len(FORMS) + int(one) for one in np.argsort(-relation, kind="stable")[:count]]


def _mean_liked(observed: _Observations) -> float:
    answers = observed.is_answer > 0
    return float(observed.liked[answers].mean()) if answers.any() else 0.0


def _loss(log_odds: _Matrix, observed: _Observations) -> float:
    """Return the cross-entropy of predictions, rounded, so that words must improve it by more than a tiny amount."""
    chances = np.clip(_chances(log_odds), 1e-6, 1 - 1e-6)
    losses = -(observed.liked * np.log(chances) + (1 - observed.liked) * np.log(1 - chances))
    return round(float(losses.mean()), 3)


def _evidence(log_odds: _Matrix, observed: _Observations) -> tuple[float, float]:
    """Return by how many standard errors held-out answers are ordered better than chance, and the share in right order.

    Pairs give a sign test. Rated answers give the test of Mann and Whitney (Annals of Mathematical Statistics 18,
    1947), in which each liked answer is compared with each disliked answer. The two results are combined. The weight of
    each is the square root of its number of observations.
    """
    answers = observed.is_answer > 0
    liked, disliked = (log_odds[answers & chosen] for chosen in (observed.liked > 0.5, observed.liked < 0.5))
    tests = [(_ordered(log_odds[~answers], np.zeros(1)), int((~answers).sum()), 0.25 / max(1, int((~answers).sum())))]
    if len(liked) and len(disliked):
        variance = (len(liked) + len(disliked) + 1) / (12 * len(liked) * len(disliked))
        tests.append((_ordered(liked, disliked), len(liked) + len(disliked), variance))
    used = [one for one in tests if one[1]]
    total = sum(count for _, count, _ in used)
    scores = [math.sqrt(count) * (share - 0.5) / math.sqrt(variance) for share, count, variance in used]
    agreement = sum(share * count for share, count, _ in used) / total if total else 0.0
    return (sum(scores) / math.sqrt(total) if total else 0.0), agreement


def _ordered(higher: _Matrix, lower: _Matrix) -> float:
    """Return the share of comparisons in which the first value is higher. Equal values count as one half."""
    if not len(higher):
        return 0.5
    below = np.sort(lower)
    wins = np.searchsorted(below, higher, "left") + np.searchsorted(below, higher, "right")
    return float(wins.mean() / 2 / len(below))


def _ranking(weights: _Matrix) -> tuple[tuple[str, float], ...]:
    """Return the three features with the largest effect. Words are only called WORDS, because users wrote them."""
    names = [*FORMS, *([WORDS] * (len(weights) - len(FORMS)))]
    ranked = sorted(zip(names, weights.tolist(), strict=True), key=lambda one: -abs(one[1]))
    found: dict[str, float] = {}
    for name, weight in ranked:
        found.setdefault(name, weight)
    return tuple(found.items())[:3]


def _chance(log_odds: float) -> float:
    return float(_chances(np.array([log_odds]))[0])


def _chances(log_odds: _Matrix) -> _Matrix:
    found: _Matrix = 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
    return found
