"""The proposer `retrieval` divides a bank without sets, so that a search from an empty bank can reach sets."""

import random
from dataclasses import replace

from index.bundle.shipped import DEFAULT_BUNDLE
from index.example_sets.builder import choose_neutral
from index.measures.refusals import refuses
from optimizer.core.candidate import as_bundle
from optimizer.stages.proposers.base import RETRIEVAL
from optimizer.stages.proposers.example_pool import read_pool
from optimizer.stages.proposers.partition import partition
from optimizer.stages.proposers.settings import SettingsProposer, retrieval_settings
from tests.optimizer.stages.proposers.candidates import make_candidate, make_parent

POOL = read_pool(DEFAULT_BUNDLE)
REFUSALS = [one for one in POOL if refuses(one.response)][:24]
HELPFUL = [one for one in POOL if not refuses(one.response)][:60]
RANDOM = 4


def test_bank_is_divided_into_sets_whose_refusals_are_a_kind_of_their_own() -> None:
    candidate = make_candidate(*HELPFUL, *REFUSALS)
    by_id = {one.id: one for one in candidate.bank.examples}
    for seed in range(RANDOM):
        found = partition(candidate, random.Random(seed))
        assert found is not None
        assert found.part == RETRIEVAL
        bank, policy = found.candidate.bank, found.candidate.retrieval
        assert bank.examples == candidate.bank.examples
        assert {one.kind for one in bank.sets} == {"refusal", "other"}
        for one in bank.sets:
            assert {refuses(by_id[name].response) for name in (*one.shown, *one.members)} == {one.kind == "refusal"}
        assert policy.policy in ("set", "set_and_nearest")
        assert policy.neutral_set == choose_neutral(bank.sets, bank.examples, bank.vectors)
        assert policy.similarity_floor is not None
        assert as_bundle(found.candidate).sets == bank.sets, "the sets are served"


def test_bank_without_refusals_has_sets_of_one_kind() -> None:
    found = partition(make_candidate(*HELPFUL), random.Random(0))
    assert found is not None
    assert {one.kind for one in found.candidate.bank.sets} == {"other"}


def test_small_bank_stays_undivided() -> None:
    pinned = [replace(one, pinned=True) for one in HELPFUL[20:]]
    assert partition(make_candidate(*HELPFUL[:20], *pinned), random.Random(0)) is None


async def test_proposer_offers_sets_and_draws_other_ones_each_time() -> None:
    candidate = make_candidate(*HELPFUL, *REFUSALS)
    assert retrieval_settings(make_parent(make_candidate(*HELPFUL[:4])))["sets"] == []
    drawn = {
        one.candidate.key
        for again in range(5)
        for one in retrieval_settings(make_parent(candidate, again=again))["sets"]
    }
    assert len(drawn) > 1
    found = await SettingsProposer(RETRIEVAL, retrieval_settings, 0).propose(make_parent(candidate), 1)
    assert any(one.candidate.bank.sets for one in found)
