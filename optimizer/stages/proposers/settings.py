"""The proposers `retrieval` and `sampling`: other settings of a bundle. They call no model."""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from index.measures.refusals import refuses
from index.types import ExampleSet
from optimizer.core.candidate import Bank, Candidate
from optimizer.stages.prompt_edits import pool_sentences
from optimizer.stages.proposers.base import PROMPT, RETRIEVAL, SAMPLING, Parent, Proposal
from optimizer.stages.proposers.failures import NO_REFUSAL, WRONG_REFUSAL, Failure
from optimizer.stages.proposers.partition import partition

_COUNTS: Final = (1, 2, 3, 4, 6, 8)
_ORDERS: Final = ("similar_last", "similar_first", "canonical")
_SIMILARITIES: Final = (-1.0, 0.2, 0.35, 0.5)
_TOKENS: Final = (700, 1_000, 1_500, 2_000)
_MANY: Final = 4
_ROOM_PER_EXAMPLE: Final = 150
"""Estimated tokens of one nearest example. Prompt and pinned examples together count as two examples."""
_PENALTIES: Final[Mapping[str, Sequence[float]]] = {
    "frequency_penalty": (0.0, 0.2, 0.4, 0.6, 0.9),
    "presence_penalty": (0.0, 0.3, 0.6),
}
"""The values to try. The temperature is not among them, because its effect on the score is mostly chance."""
_WEIGHTS: Final = {"k": 3, "policy": 3, "sets": 3}
"""How much more often a proposal comes from these groups of settings than from another one."""


@dataclass(frozen=True, slots=True)
class SettingsProposer:
    """Proposes one new value of one setting at a time.

    Attributes:
        name: The name of the proposer.
        settings: Returns the possible settings of a parent, by group.
        seed: The seed of the random order.
    """

    name: str
    settings: Callable[[Parent], Mapping[str, Sequence[Proposal]]]
    seed: int

    async def propose(self, parent: Parent, _count: int) -> Sequence[Proposal]:
        """Return all candidates with one other setting, in random order."""
        rng = parent.random(f"{self.seed}:{self.name}")
        # In a thread, because dividing a bank into sets takes seconds.
        settings = await asyncio.to_thread(self.settings, parent)
        groups = {name: list(ones) for name, ones in settings.items() if ones}
        return list(_in_random_order(groups, rng))


def retrieval_settings(parent: Parent) -> Mapping[str, Sequence[Proposal]]:
    """Return candidates with another setting of retrieval, by the name of the setting or of the group of settings."""
    one, policy = parent.candidate, parent.candidate.retrieval
    if not one.bank.examples:
        return {}
    found = {
        "policy": list(_policies(one)),
        "sets": list(filter(None, [partition(one, parent.random("sets"))])),
        "prompts": list(_set_prompts(one, parent.failures)),
    }
    if policy.policy != "set":
        found["k"] = [_with_count(one, count) for count in _COUNTS if count != policy.k]
    for name, values in (("order", _ORDERS), ("minimum_similarity", _SIMILARITIES), ("max_injected_tokens", _TOKENS)):
        current = getattr(policy, name)
        if policy.shows_nearest:
            found[name] = [_changed(one, f"{name} = {value}", **{name: value}) for value in values if value != current]
    return found


def sampling_settings(parent: Parent) -> Mapping[str, Sequence[Proposal]]:
    """Return the candidates with another value of a sampling parameter, next to the current one."""
    sampling = parent.candidate.sampling
    return {name: list(_sampled(parent.candidate, name, sampling.get(name))) for name in _PENALTIES}


def _sampled(candidate: Candidate, name: str, current: Any) -> Iterator[Proposal]:
    values = _PENALTIES[name]
    near = sorted(values, key=lambda value: abs(value - (current or 0.0)))
    for value in [one for one in near if one != (current or 0.0)][:2]:
        # A penalty of 0 is none: it is left out, so that the candidate equals one that never had it.
        others = {key: one for key, one in candidate.sampling.items() if key != name}
        sampling = {**others, name: value} if value else others
        yield Proposal(replace(candidate, sampling=sampling), SAMPLING, f"{name} = {value}")


def _policies(candidate: Candidate) -> Iterator[Proposal]:
    policy = candidate.retrieval.policy
    if policy != "nearest":
        for count in (3, 4, 6):
            yield _with_count(candidate, count, "nearest")
    if candidate.bank.sets:
        for other in ("set", "set_and_nearest"):
            if other != policy:
                count = max(1, min(2, candidate.retrieval.k))
                yield _changed(candidate, f"policy = {other}, k = {count}", policy=other, k=count)


def _with_count(candidate: Candidate, count: int, policy: str = "") -> Proposal:
    """Return the candidate with this number of nearest examples, and a token limit that is enough for them."""
    old = candidate.retrieval
    room = max(old.max_injected_tokens, (count + 2) * _ROOM_PER_EXAMPLE if count >= _MANY else 0)
    changes: dict[str, Any] = {"k": count, "max_injected_tokens": room}
    text = f"k = {count}" + (f", room for {room} tokens" if room != old.max_injected_tokens else "")
    if policy:
        changes |= {"policy": policy, "neutral_set": None, "similarity_floor": None}
        text = f"policy = {policy}, {text}"
    return _changed(candidate, text, **changes)


def _changed(candidate: Candidate, text: str, **changes: Any) -> Proposal:
    return Proposal(replace(candidate, retrieval=replace(candidate.retrieval, **changes)), RETRIEVAL, text)


def _set_prompts(candidate: Candidate, failures: Sequence[Failure]) -> Iterator[Proposal]:
    """Yield candidates whose sets of one kind have a prompt of their own, with a sentence that can correct a failure.

    If the examples that the sets show are mostly refusals, the sentence asks for more refusals, or else for fewer.
    """
    bank = candidate.bank
    missed = {failure.criterion for failure in failures} & {NO_REFUSAL, WRONG_REFUSAL}
    kinds = dict.fromkeys(one.kind for one in bank.sets) if candidate.retrieval.has_sets else {}
    for kind in kinds:
        criterion = NO_REFUSAL if _mostly_refuses(bank, kind) else WRONG_REFUSAL
        if criterion not in missed:
            continue
        for sentence in pool_sentences():
            if criterion not in sentence.answers:
                continue
            sets = tuple(_said_to(one, sentence.text, candidate) if one.kind == kind else one for one in bank.sets)
            if sets != bank.sets:
                changed = replace(candidate, bank=replace(bank, sets=sets))
                yield Proposal(changed, PROMPT, f"gives sets of the kind {kind} a prompt of their own ({criterion})")


def _mostly_refuses(bank: Bank, kind: str) -> bool:
    """Whether most of the examples that the sets of a kind show are refusals."""
    shown = {name for one in bank.sets if one.kind == kind for name in one.shown}
    refusals = [refuses(example.response) for example in bank.examples if example.id in shown]
    return 2 * sum(refusals) > len(refusals)


def _said_to(one: ExampleSet, sentence: str, candidate: Candidate) -> ExampleSet:
    """Return a set whose prompt also has a sentence. A set without a prompt of its own begins with the candidate's."""
    prompt = candidate.prompt if one.prompt is None else one.prompt
    return one if sentence in prompt else replace(one, prompt=f"{prompt} {sentence}".strip())


def _in_random_order(groups: dict[str, list[Proposal]], rng: random.Random) -> Iterator[Proposal]:
    while groups:
        names = list(groups)
        name = rng.choices(names, [_WEIGHTS.get(one, 1) for one in names])[0]
        yield groups[name].pop(rng.randrange(len(groups[name])))
        if not groups[name]:
            del groups[name]
