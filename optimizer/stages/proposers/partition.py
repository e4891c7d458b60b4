"""Divides the bank of a candidate into example sets, as `drpo-index sets` divides the bank of a finished bundle.

Refusals get a set of their own. Without sets, a request gets the nearest examples only, so one refusal among them can
make a small model refuse a harmless query. With sets, the neighbours of the query vote. A search that starts with an
empty bank has no sets, so it needs this edit to reach a bundle such as the hand-written one.

The optimizer has no tokenizer of the model, so lengths are estimates (`index/token_estimate.py`). The estimates are
usually too high, so a set usually has fewer tokens than its limit.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import numpy as np

from index.counted import counted
from index.errors import BundleError
from index.example_sets.builder import choose_neutral
from index.example_sets.partition import PartitionSpec, SeparateTag, TokenLengths, partition_into_sets
from index.layouts import LAYOUTS
from index.measures.refusals import refuses
from index.rendering import render_example, render_preamble
from index.token_estimate import estimated_tokens
from index.types import Example, ExampleSet, PolicyName, RetrievalPolicy
from optimizer.core.candidate import Bank, Candidate
from optimizer.stages.proposers.base import RETRIEVAL, Proposal

_REFUSAL: Final = "refusal"
_FEWEST_EXAMPLES: Final = 24
"""A bank with fewer examples stays undivided: its sets would show nearly all of them."""
_CHOSEN_SHARE: Final = 0.7
"""The largest share of the tokens of a kind's examples that one set may show. The rest lets the sets differ."""
_COUNTS: Final = (4, 9)  # sets, with the one for refusals
_ROOMS: Final = (200, 350, 600, 900)
"""Estimated tokens of the examples that a set shows."""
_WEIGHTS: Final = (1.0, 1.8)
"""The factors by which a vote for the refusals is multiplied."""
_SHOWN: Final[Sequence[tuple[PolicyName, int]]] = (("set", 1), ("set_and_nearest", 1), ("set_and_nearest", 2))
_ROOM_PER_NEAREST: Final = 150  # estimated tokens of one nearest example
_MOST_TRIED: Final = 4  # plans
_BELOW_FLOOR: Final = 0.1  # the share of the examples below the similarity floor


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a bank is divided, and which examples of the result a request gets.

    Attributes:
        count: The number of sets, the one for refusals included.
        room: The estimated tokens of the examples that a set shows.
        weight: The factor of each vote for the refusals.
        policy: The retrieval policy.
        nearest: The number of nearest examples.
    """

    count: int
    room: int
    weight: float
    policy: PolicyName
    nearest: int


def partition(candidate: Candidate, rng: random.Random) -> Proposal | None:
    """Return the candidate with its bank divided into sets, in a way that is drawn at random.

    The result is None if the bank has too few examples, or if no drawn way fits the bank. It is one proposal only,
    because dividing takes seconds.
    """
    examples = tuple(_with_kind(one) for one in candidate.bank.examples)
    lengths = _lengths(candidate)
    room = _largest_room(examples, lengths)
    plans = [
        _Plan(count, tokens, weight, policy, nearest)
        for count, tokens, weight, (policy, nearest) in product(_COUNTS, _ROOMS, _WEIGHTS, _SHOWN)
    ]
    fitting = [one for one in plans if one.room <= room]
    for plan in rng.sample(fitting, min(len(fitting), _MOST_TRIED)):
        spec = PartitionSpec(plan.count, lengths.fixed + plan.room, _separate(examples, plan.weight))
        try:
            sets = partition_into_sets(examples, candidate.bank.vectors, lengths, spec)
        except BundleError:
            continue
        ways = f"{counted(len(sets), 'set')} of {plan.room} tokens, policy = {plan.policy}, k = {plan.nearest}"
        return Proposal(_served(candidate, sets, plan, spec.tokens), RETRIEVAL, f"divides the bank into {ways}")
    return None


def _separate(examples: Sequence[Example], weight: float) -> dict[str, SeparateTag]:
    """Return the settings of the set for refusals, if the bank has any that is not pinned."""
    has_refusals = any(_REFUSAL in one.tags and not one.pinned for one in examples)
    return {_REFUSAL: SeparateTag(weight)} if has_refusals else {}


def _largest_room(examples: Sequence[Example], lengths: TokenLengths) -> float:
    """Return how many tokens a set may show: a share of the tokens of the kind of examples that has the fewest."""
    is_free = np.array([not one.pinned for one in examples], bool)
    if is_free.sum() < _FEWEST_EXAMPLES:
        return 0.0
    is_refusal = np.array([bool(one.tags) for one in examples], bool)
    tokens = [int(lengths.examples[is_free & kind].sum()) for kind in (is_refusal, ~is_refusal)]
    return min((one for one in tokens if one), default=0.0) * _CHOSEN_SHARE


def _with_kind(example: Example) -> Example:
    """Return the example with the tag `refusal` if its answer refuses, and with no other tag."""
    return replace(example, tags=(_REFUSAL,) if refuses(example.response) else ())


def _lengths(candidate: Candidate) -> TokenLengths:
    layout, examples = LAYOUTS[candidate.layout], candidate.bank.examples
    preamble = render_preamble(layout, candidate.prompt, tuple(one for one in examples if one.pinned))
    costs = [estimated_tokens(render_example(layout, one)) for one in examples]
    return TokenLengths(estimated_tokens(preamble), np.array(costs, np.int64))


def _served(candidate: Candidate, sets: tuple[ExampleSet, ...], plan: _Plan, tokens: int) -> Candidate:
    """Return the candidate with the sets, and with a policy that shows them within its limit of tokens."""
    bank, old = candidate.bank, candidate.retrieval
    neutral = choose_neutral(sets, bank.examples, bank.vectors)
    needed = tokens + _ROOM_PER_NEAREST * (plan.nearest if plan.policy != "set" else 0)
    policy: RetrievalPolicy = replace(
        old,
        policy=plan.policy,
        k=plan.nearest,
        neutral_set=neutral,
        similarity_floor=_floor(bank) if neutral is not None else None,
        max_injected_tokens=max(old.max_injected_tokens, needed),
    )
    return replace(candidate, bank=replace(bank, sets=sets), retrieval=policy)


def _floor(bank: Bank) -> float:
    """Return the similarity floor: a tenth of the examples are less similar than this to each other example."""
    similarities = bank.vectors @ bank.vectors.T
    np.fill_diagonal(similarities, -1.0)
    return round(float(np.quantile(similarities.max(axis=1), _BELOW_FLOOR)), 4)
