"""Chooses among written examples by preference pairs. A run without a writer model uses pairs in this way."""

from collections.abc import Sequence

from index.measures.refusals import refuses
from index.types import Example
from optimizer.data.preferences import PreferencePair
from optimizer.data.taste import learn_taste


def preferred_examples(pool: Sequence[Example], pairs: Sequence[PreferencePair]) -> Sequence[Example]:
    """Return the examples whose form people prefer, the best first, and all refusals.

    Half of the examples stay. All stay in their order if there are fewer than 20 pairs, or if the form of the answers
    does not explain them.
    """
    taste = learn_taste(pairs)
    if taste is None:
        return pool
    answers = sorted((one for one in pool if not refuses(one.response)), key=lambda one: -taste.score(one.response))
    return [*answers[: (len(answers) + 1) // 2], *(one for one in pool if refuses(one.response))]
