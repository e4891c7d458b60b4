"""Describes in words how many examples of a bundle fit beside conversations of different lengths.

The command `drpo-proxy check` prints these sentences. The module does not depend on requests.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from index.retrieval.selection import max_nearest_tokens
from proxy.backends.discovery import Model
from proxy.inference.injection.injector import bundle_cap
from proxy.inference.injection.served_bundles import ServedBundle
from proxy.inference.injection.token_budget import (
    DEFAULT_ANSWER_TOKENS,
    HYSTERESIS,
    room_for_essentials,
    room_for_injection,
)
from proxy.inference.injection.token_costs import BundleCosts


@dataclass(frozen=True, slots=True)
class InjectionRoom:
    """How long a conversation may be, so that parts of a bundle fit into the model's context beside it.

    Attributes:
        all_examples: The maximum number of tokens of a conversation that gets all of its examples. It is negative if no
            conversation gets them.
        refusals: The maximum number of tokens of a conversation that gets the pinned refusals; None if there are none.
    """

    all_examples: int
    refusals: int | None


def injection_room(served: ServedBundle, costs: BundleCosts, context: int) -> InjectionRoom:
    """Return how long a conversation may be in a context of `context` tokens, if the client sets no max_tokens.

    Args:
        served: The bundle.
        costs: The tokens of the bundle's prompt and examples.
        context: The length of the model's context in tokens.
    """
    answer = min(bundle_cap(served), DEFAULT_ANSWER_TOKENS)
    room = room_for_injection(context, 0, answer) - _most_tokens(served, costs)
    refusals = costs.longest_prompt + sum(costs.examples[example.id] for example in served.refusals)
    longest = room_for_essentials(context, 0, answer) - refusals
    return InjectionRoom(room // HYSTERESIS * HYSTERESIS, longest if served.refusals else None)


def _most_tokens(served: ServedBundle, costs: BundleCosts) -> int:
    """Return the largest number of tokens that the prompt and the examples of one request can have together."""
    always = sum(costs.examples[example.id] for example in served.pinned)
    fixed, policy = costs.longest_prompt + always, served.bundle.manifest.retrieval
    if len(costs.examples) < len(served.bundle.examples):  # The examples of a large bank are not counted in advance.
        return max(fixed, policy.max_injected_tokens)
    in_set = [costs.prompt_of(one.name) + sum(costs.examples[name] for name in one.shown) for one in served.bundle.sets]
    with_set = max(in_set, default=costs.prompt)
    pinned = {example.id for example in served.pinned}
    nearest = max_nearest_tokens(policy, [cost for name, cost in costs.examples.items() if name not in pinned])
    # With the policy `nearest`, only queries without nearest examples get a set: the neutral one.
    most = max(with_set, costs.prompt + nearest) if policy.policy == "nearest" else with_set + nearest
    return max(fixed, min(always + most, policy.max_injected_tokens))


def describe_room(served: ServedBundle, costs: BundleCosts, model: Model) -> Iterator[str]:
    """Yield sentences that say when a model's requests get only a part of the bundle."""
    if not costs.counted:
        yield "the backend does not count tokens. The proxy estimates them, and may leave out examples that would fit"
    if not served.refusals:
        yield "the bundle has no pinned refusal, so requests that get no other examples get only the prompt"
    if model.context is None:
        yield "the context is unknown, so no example is left out for a long conversation, and max_tokens is not lowered"
        return
    room = injection_room(served, costs, model.context)
    if room.all_examples > 0:
        yield (
            f"all examples fit beside conversations of up to {room.all_examples:,} tokens; longer conversations get "
            "fewer examples (x-drpo-reduced: context)"
        )
    else:
        yield "no conversation is short enough to get all examples (x-drpo-reduced: context)"
    if room.refusals is None:
        return
    if room.refusals > 0:
        yield (
            f"the pinned refusal is kept beside conversations of up to {room.refusals:,} tokens; longer conversations "
            "lose it (x-drpo-refusal: left-out)"
        )
    else:
        yield "no conversation is short enough to get the pinned refusal (x-drpo-refusal: left-out)"


def room_problem(served: ServedBundle, costs: BundleCosts, model: Model) -> str | None:
    """Return what is wrong if even a short conversation gets no pinned refusal; None if nothing is wrong."""
    if model.context is None:
        return None
    room = injection_room(served, costs, model.context)
    if room.refusals is None or room.refusals > 0:
        return None
    return (
        f"the pinned refusal of the bundle {served.bundle.manifest.name} does not fit into the context of {model.id} "
        f"({model.context:,} tokens). Raise the context of the model server, or shorten the prompt"
    )
