"""Selects the examples of a prompt by their token counts, and orders them.

The proxy and the optimizer both use these functions, so that the optimizer measures what the proxy serves. This module
only adds and compares token counts: it does not depend on texts, tokenizers or vectors.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from index.types import Example, Hit, Order, RetrievalPolicy


@dataclass(frozen=True, slots=True)
class Selection:
    """The examples to put into a prompt.

    Attributes:
        pinned: The pinned examples, in the order of the bank.
        hits: The retrieved examples, in the order of `Retriever.choose`: the most similar first, or the order of a set.
        tokens: The number of tokens of the system prompt, `pinned` and `hits` together.
    """

    pinned: tuple[Example, ...]
    hits: tuple[Hit, ...]
    tokens: int

    def in_order(self, order: Order) -> tuple[Example, ...]:
        """Return all examples in the order of the prompt: pinned examples, then retrieved examples by `order`."""
        return (*self.pinned, *arrange(self.hits, order))


def select_within_policy(
    policy: RetrievalPolicy,
    prompt_tokens: int,
    costs: Mapping[str, int],
    pinned: Sequence[Example],
    hits: Sequence[Hit],
) -> Selection:
    """Select the pinned examples, and each hit that keeps the total within `policy.max_injected_tokens`.

    A hit that would exceed the limit is skipped. A shorter hit after a skipped hit can still be selected.

    Args:
        policy: The retrieval policy of the bundle.
        prompt_tokens: The number of tokens of the system prompt.
        costs: The number of tokens of each rendered example, by the id of the example.
        pinned: The pinned examples. All of them are selected, even if they exceed the limit.
        hits: The retrieved examples, in order of preference.
    """
    tokens = prompt_tokens + sum([costs[example.id] for example in pinned])
    selected = []
    for hit in hits:
        cost = costs[hit.example.id]
        if tokens + cost <= policy.max_injected_tokens:
            tokens += cost
            selected.append(hit)
    return Selection(tuple(pinned), tuple(selected), tokens)


@dataclass(frozen=True, slots=True)
class Essentials:
    """The examples that are removed last, and the room that they may use.

    Attributes:
        examples: Pinned examples.
        room: The maximum number of tokens of system prompt and examples together, as long as only these examples are
            left.
    """

    examples: Collection[Example] = ()
    room: int = 0


def fit_to_room(
    selection: Selection, costs: Mapping[str, int], room: int, essentials: Essentials = Essentials()
) -> Selection:
    """Return the selection without the examples that do not fit into `room` tokens.

    The last retrieved example is removed first, then the one before it, and so on. When no retrieved example is left,
    the pinned examples are removed in the same way, and at last the essential ones. The system prompt is never removed:
    if the prompt alone has more than `room` tokens, the result has no examples and still exceeds `room`.

    Args:
        selection: The examples of a prompt.
        costs: The number of tokens of each rendered example, by the id of the example.
        room: The maximum number of tokens of system prompt and examples together.
        essentials: The examples that are removed last.
    """
    hits, tokens = list(selection.hits), selection.tokens
    while hits and tokens > room:
        tokens -= costs[hits.pop().example.id]
    pinned = list(selection.pinned)
    for removable, limit in (
        ([example for example in pinned if example not in essentials.examples], room),
        ([example for example in pinned if example in essentials.examples], max(room, essentials.room)),
    ):
        while removable and tokens > limit:
            removed = removable.pop()
            pinned.remove(removed)
            tokens -= costs[removed.id]
    return Selection(tuple(pinned), tuple(hits), tokens)


def arrange(hits: Sequence[Hit], order: Order) -> tuple[Example, ...]:
    """Return the examples of `hits` in the order in which a prompt contains them.

    Args:
        hits: The result of `Retriever.choose`, or a part of it in the same order.
        order: `canonical` sorts the hits by their position in the bank. `similar_last` reverses the hits. `set` keeps
            the order of the hits.
    """
    if order == "canonical":
        hits = sorted(hits, key=lambda hit: hit.position)
    elif order == "similar_last":
        hits = hits[::-1]
    return tuple([hit.example for hit in hits])
