"""Chooses among written examples by the taste. A run without a writer model uses ratings and pairs in this way."""

from collections.abc import Sequence

from index.measures.refusals import refuses
from index.types import Example
from optimizer.data.taste import Taste


def preferred_examples(pool: Sequence[Example], taste: Taste | None) -> Sequence[Example]:
    """Return the examples whose form people prefer, the best first, and then all refusals.

    Half of the examples that are no refusals stay. If the taste is not known, all examples stay in their order.
    """
    if taste is None:
        return pool
    answers = sorted((one for one in pool if not refuses(one.response)), key=lambda one: -taste.chance(one.response))
    return [*answers[: (len(answers) + 1) // 2], *(one for one in pool if refuses(one.response))]
