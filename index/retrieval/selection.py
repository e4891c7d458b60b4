"""Selects the examples of a prompt by their token counts, and orders them.

The proxy and the optimizer both use these functions, so that the optimizer measures what the proxy serves. This module
only adds and compares token counts: it does not depend on texts, tokenizers or vectors.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from index.types import Example, Hit, Order, RetrievalPolicy, Retrieved


@dataclass(frozen=True, slots=True)
class Selection:
    """The examples to put into a prompt.

    Attributes:
        pinned: The pinned examples, in the order of the bank.
        in_set: The examples of the example set, in the order of the set.
        nearest: The nearest examples, the most similar first.
        tokens: The number of tokens of the system prompt and all examples together.
    """

    pinned: tuple[Example, ...] = ()
    in_set: tuple[Hit, ...] = ()
    nearest: tuple[Hit, ...] = ()
    tokens: int = 0

    def in_order(self, order: Order) -> tuple[Example, ...]:
        """Return all examples in the order of the prompt: pinned examples, the set, the nearest examples by `order`."""
        return (*self.pinned, *[hit.example for hit in self.in_set], *arrange(self.nearest, order))


def select_within_policy(
    policy: RetrievalPolicy,
    prompt_tokens: int,
    costs: Mapping[str, int],
    pinned: Sequence[Example],
    retrieved: Retrieved,
) -> Selection:
    """Select the pinned examples, and the retrieved examples that the limits of the policy allow.

    A hit that would exceed `max_injected_tokens`, or with which the nearest examples would exceed `max_nearest_tokens`,
    is skipped. A shorter hit after a skipped hit can still be selected. At most `k` nearest examples are selected. A
    nearest example that is already in the set counts as one of these `k` examples.

    Args:
        policy: The retrieval policy of the bundle.
        prompt_tokens: The number of tokens of the system prompt.
        costs: The number of tokens of each rendered example, by the id of the example.
        pinned: The pinned examples. All of them are selected, even if they exceed the limit.
        retrieved: The result of `Retriever.choose`.
    """
    tokens = prompt_tokens + sum([costs[example.id] for example in pinned])
    in_set = []
    for hit in retrieved.in_set:
        cost = costs[hit.example.id]
        if tokens + cost <= policy.max_injected_tokens:
            tokens += cost
            in_set.append(hit)
    nearest = _select_nearest(policy, tokens, costs, retrieved) if retrieved.nearest else ()
    tokens += sum([costs[hit.example.id] for hit in nearest])
    return Selection(tuple(pinned), tuple(in_set), nearest, tokens)


def select_without_costs(policy: RetrievalPolicy, pinned: Sequence[Example], retrieved: Retrieved) -> Selection:
    """Select the examples of a prompt without token counts, as if no example were too long.

    Args:
        policy: The retrieval policy of the bundle.
        pinned: The pinned examples.
        retrieved: The result of `Retriever.choose`.
    """
    costs = dict.fromkeys([example.id for example in (*pinned, *(hit.example for hit in retrieved.hits))], 0)
    return select_within_policy(policy, 0, costs, pinned, retrieved)


def max_nearest_tokens(policy: RetrievalPolicy, costs: Iterable[int]) -> int:
    """Return the maximum number of tokens of the nearest examples of a prompt together.

    Args:
        policy: The retrieval policy of the bundle.
        costs: The number of tokens of each example of the bank that is not pinned.
    """
    if not policy.shows_nearest:
        return 0
    longest = sum(sorted(costs, reverse=True)[: policy.k])
    return longest if policy.max_nearest_tokens is None else min(longest, policy.max_nearest_tokens)


def _select_nearest(
    policy: RetrievalPolicy, tokens: int, costs: Mapping[str, int], retrieved: Retrieved
) -> tuple[Hit, ...]:
    """Select the nearest examples. `tokens` is the number of tokens before them in the prompt."""
    room = policy.max_injected_tokens - tokens
    if policy.max_nearest_tokens is not None:
        room = min(room, policy.max_nearest_tokens)
    selected: list[Hit] = []
    places = policy.k
    for hit in retrieved.nearest:
        if places == 0:
            break
        if hit.position in retrieved.covered:
            places -= 1
        elif costs[hit.example.id] <= room:
            places -= 1
            room -= costs[hit.example.id]
            selected.append(hit)
    return tuple(selected)


@dataclass(frozen=True, slots=True)
class Essentials:
    """The pinned examples that are removed last, and the token limit that decides whether they are removed.

    Attributes:
        examples: The pinned examples that are removed last, such as the pinned refusals.
        room: The maximum number of tokens of system prompt and examples together when only these examples are left.
    """

    examples: Collection[Example] = ()
    room: int = 0


def fit_to_room(
    selection: Selection, costs: Mapping[str, int], room: int, essentials: Essentials = Essentials()
) -> Selection:
    """Return the selection without the examples that do not fit into `room` tokens.

    The examples are removed one by one, until the others fit. The nearest examples are removed first, beginning with
    the least similar one. Then the examples of the set are removed, then the pinned examples that are not essential,
    and at last the essential examples. Of each of these three groups, the last example is removed first. The system
    prompt is never removed: if the prompt alone has more than `room` tokens, the result has no examples and still
    exceeds `room`.

    Args:
        selection: The examples of a prompt.
        costs: The number of tokens of each rendered example, by the id of the example.
        room: The maximum number of tokens of system prompt and examples together.
        essentials: The examples that are removed last. When only these examples are left, `essentials.room` replaces
            `room` if it is larger.
    """
    in_set, nearest, tokens = list(selection.in_set), list(selection.nearest), selection.tokens
    for hits in (nearest, in_set):
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
    return Selection(tuple(pinned), tuple(in_set), tuple(nearest), tokens)


def arrange(hits: Sequence[Hit], order: Order) -> tuple[Example, ...]:
    """Return the nearest examples in the order in which a prompt contains them.

    Args:
        hits: The nearest examples, the most similar first.
        order: `canonical` sorts the hits by their position in the bank. `similar_first` keeps their order, and
            `similar_last` reverses it.
    """
    if order == "canonical":
        hits = sorted(hits, key=lambda hit: hit.position)
    return tuple([hit.example for hit in (hits[::-1] if order == "similar_last" else hits)])
