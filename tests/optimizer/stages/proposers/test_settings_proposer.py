"""The proposers `retrieval` and `sampling` change one setting at a time, and only settings that have an effect."""

from dataclasses import fields, replace
from typing import Any

from index.bundle.sets_file import OTHER
from index.types import Example, ExampleSet
from optimizer.core.candidate import Candidate
from optimizer.data.dataset import REFUSE
from optimizer.search.space import Outcome
from optimizer.stages.proposers.base import RETRIEVAL, SAMPLING
from optimizer.stages.proposers.settings import SettingsProposer, retrieval_settings, sampling_settings
from tests.optimizer.stages.proposers.candidates import REFUSAL, make_candidate, make_parent, outcome

EXAMPLES = (Example("a", "apple", "A fruit."), Example("b", "bomb", REFUSAL))
SETS = (ExampleSet("fruits", ("a",), ("a",), OTHER), ExampleSet("refusals", ("b",), ("b",), "refusal"))


def with_sets(candidate: Candidate, policy: str) -> Candidate:
    retrieval = replace(candidate.retrieval, policy=policy)
    return replace(candidate, bank=replace(candidate.bank, sets=SETS), retrieval=retrieval)


async def test_every_proposal_changes_the_retrieval_and_nothing_else() -> None:
    candidate = make_candidate(*EXAMPLES, k=2)
    found = await SettingsProposer(RETRIEVAL, retrieval_settings, 0).propose(make_parent(candidate), 1)
    changed = {
        key.name
        for one in found
        for key in fields(one.candidate.retrieval)
        if getattr(one.candidate.retrieval, key.name) != getattr(candidate.retrieval, key.name)
    }
    assert changed == {"k", "order", "minimum_similarity", "max_injected_tokens"}
    assert all(replace(one.candidate, retrieval=candidate.retrieval) == candidate for one in found)
    assert len({one.candidate.key for one in found} - {candidate.key}) == len(found)


async def test_many_examples_get_room() -> None:
    found = retrieval_settings(make_parent(make_candidate(*EXAMPLES, k=2)))["k"]
    assert {one.candidate.retrieval.k: one.candidate.retrieval.max_injected_tokens for one in found}[8] >= 1_000


async def test_bundle_with_sets_may_leave_its_sets_or_show_them() -> None:
    policies = {
        policy: {one.candidate.retrieval.policy for one in retrieval_settings(make_parent(start))["policy"]}
        for policy in ("nearest", "set")
        for start in [with_sets(make_candidate(*EXAMPLES), policy)]
    }
    assert policies == {"nearest": {"set", "set_and_nearest"}, "set": {"nearest", "set_and_nearest"}}


async def test_sets_of_refusals_get_a_prompt_that_answers_missing_refusals() -> None:
    parent = make_parent(with_sets(make_candidate(*EXAMPLES), "set"), outcome(0, "bomb", REFUSE, right=0.0))
    found = retrieval_settings(parent)["prompts"]
    assert found
    for one in found:
        prompts = {example_set.name: example_set.prompt for example_set in one.candidate.bank.sets}
        assert prompts["fruits"] is None
        assert prompts["refusals"].startswith("Be good. ")


async def test_sets_whose_examples_do_not_refuse_answer_wrong_refusals_whatever_their_kind() -> None:
    start = with_sets(make_candidate(*EXAMPLES), "set")
    sets = (replace(SETS[0], kind="code", prompt="Write code."), SETS[1])
    start = replace(start, bank=replace(start.bank, sets=sets))
    missing = outcome(0, "bomb", REFUSE, right=0.0)
    assert not [one for one in proposed_prompts(start, missing) if one["fruits"] != "Write code."]
    found = proposed_prompts(start, outcome(0, "apple", right=0.0))
    assert found
    for prompts in found:
        assert prompts["fruits"].startswith("Write code. "), "the sentence follows the prompt of the set"
        assert prompts["refusals"] is None


def proposed_prompts(start: Candidate, failed: Outcome) -> list[dict[str, Any]]:
    found = retrieval_settings(make_parent(start, failed))["prompts"]
    return [{one.name: one.prompt for one in proposal.candidate.bank.sets} for proposal in found]


async def test_proposal_can_add_nearest_examples_to_a_bundle_that_shows_none() -> None:
    found = retrieval_settings(make_parent(make_candidate(*EXAMPLES, k=0)))
    assert 3 in [one.candidate.retrieval.k for one in found["k"]]
    sets = retrieval_settings(make_parent(with_sets(make_candidate(*EXAMPLES), "set")))
    assert "k" not in sets, "the policy does not use it"


async def test_penalty_of_zero_is_no_penalty() -> None:
    candidate = replace(make_candidate(*EXAMPLES), sampling={"max_tokens": 9, "presence_penalty": 0.3})
    found = sampling_settings(make_parent(candidate))["presence_penalty"]
    assert {"max_tokens": 9} in [one.candidate.sampling for one in found]


async def test_sampling_changes_one_parameter_to_a_neighbouring_value() -> None:
    candidate = replace(make_candidate(*EXAMPLES), sampling={"frequency_penalty": 0.4})
    found = await SettingsProposer(SAMPLING, sampling_settings, 0).propose(make_parent(candidate), 1)
    values = {one.candidate.sampling["frequency_penalty"] for one in found}
    assert values == {0.2, 0.4, 0.6}
    assert all(len(dict(one.candidate.sampling).items() ^ candidate.sampling.items()) in (1, 2) for one in found)
