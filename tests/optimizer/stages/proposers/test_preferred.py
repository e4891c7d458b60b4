"""Tests of banks whose shown examples have the form that people prefer."""

from dataclasses import replace

import numpy as np
import pytest

from index.measures.refusals import refuses
from index.types import Example, ExampleSet
from optimizer.core.candidate import Candidate, as_bundle
from optimizer.data.preferences import AnswerRatings, Preferences
from optimizer.data.taste import Taste, learn_taste
from optimizer.stages.proposers.example_pool import ExamplePool
from optimizer.stages.proposers.examples import ExampleProposer
from optimizer.stages.proposers.preferred import preferred_proposals
from tests.optimizer.stages.proposers.candidates import EMBEDDER, REFUSAL, make_candidate, make_parent

PLAIN = tuple(Example(f"plain{n}", f"plain {'abc'[n % 3] * n} question", f"It is {n}. That is so.") for n in range(24))
ASKING = tuple(Example(f"ask{n}", f"ask {'xyz'[n % 3] * n} about", f"It is {n}. Is that so?") for n in range(20))
REFUSALS = tuple(Example(f"bomb{n}", f"bomb {'b' * n}", REFUSAL, pinned=n == 0, tags=("refusal",)) for n in range(6))
POOL = ExamplePool(ASKING, EMBEDDER.embed([one.query for one in ASKING]))


@pytest.fixture(scope="module")
def taste() -> Taste:
    """A taste for answers that end with a question."""
    texts = [(one.response, one in ASKING) for one in (*PLAIN, *ASKING)]
    ratings = (AnswerRatings(f"Q {n}?", text, 3 * liked, 3 * (not liked)) for n, (text, liked) in enumerate(texts))
    found = learn_taste(Preferences(ratings=tuple(ratings)))
    assert found is not None
    return found


def with_sets() -> Candidate:
    candidate = make_candidate(*PLAIN, *REFUSALS, policy="set_and_nearest", k=1)
    ids = [one.id for one in PLAIN]
    sets = (
        ExampleSet("one", tuple(ids[:3]), tuple(ids[:12])),
        ExampleSet("two", tuple(ids[12:15]), tuple(ids[12:])),
        ExampleSet("refusals", ("bomb1",), tuple(one.id for one in REFUSALS[1:]), kind="refusal"),
    )
    return replace(candidate, bank=replace(candidate.bank, sets=sets))


def shown(candidate: Candidate) -> list[Example]:
    """Return the examples that requests can contain, those of the set for refusals left out."""
    bundle = as_bundle(candidate)
    names = {name for one in bundle.sets if one.kind == "other" for name in one.shown}
    shows_all = candidate.retrieval.shows_nearest
    return [one for one in bundle.examples if one.pinned or one.id in names or shows_all]


def test_every_shown_answer_has_the_preferred_form_or_refuses(taste: Taste) -> None:
    found = list(preferred_proposals(with_sets(), POOL, taste))
    first = found[0].candidate
    assert first.retrieval.policy == "set"
    assert all(one.response.endswith("?") or refuses(one.response) for one in shown(first))
    assert len({one.candidate.key for one in found}) > len(found) / 2, "the ways differ"
    small = next(one.candidate for one in found if "16 examples" in one.change)
    assert all(one.response.endswith("?") or refuses(one.response) for one in shown(small))
    assert small.retrieval.policy == "nearest"


def test_refusals_keep_their_set_and_their_share(taste: Taste) -> None:
    start = with_sets()
    for proposal in preferred_proposals(start, POOL, taste):
        bank = proposal.candidate.bank
        assert any(refuses(one.response) for one in bank.examples)
        assert any(one.pinned and refuses(one.response) for one in bank.examples)
        if bank.sets:
            assert next(one for one in bank.sets if one.kind == "refusal") == start.bank.sets[2]
            assert {one.id for one in start.bank.examples} <= {one.id for one in bank.examples}, "members still vote"


def test_room_for_injected_tokens_grows_with_the_shown_examples(taste: Taste) -> None:
    start = with_sets()
    tight = replace(start, retrieval=replace(start.retrieval, max_injected_tokens=10))
    assert all(one.candidate.retrieval.max_injected_tokens > 50 for one in preferred_proposals(tight, POOL, taste))


def without_sets(*examples: Example) -> Candidate:
    return make_candidate(*examples, *REFUSALS, policy="nearest", k=1)


def test_strongest_bank_pins_eight_preferred_examples(taste: Taste) -> None:
    first = next(iter(preferred_proposals(without_sets(*PLAIN), POOL, taste))).candidate
    pinned = [one for one in first.bank.examples if one.pinned]
    assert sum(one.response.endswith("?") for one in pinned) == 8
    assert [refuses(one.response) for one in pinned] == [True] + [False] * 8
    assert first.retrieval.k == 1


def test_few_preferred_examples_show_no_nearest_refusal(taste: Taste) -> None:
    pool = ExamplePool(ASKING[:8], POOL.vectors[:8])
    first = next(iter(preferred_proposals(without_sets(), pool, taste))).candidate
    assert first.retrieval.k == 0


def test_an_answer_ends_where_people_like_it(taste: Taste) -> None:
    late = replace(ASKING[0], response=f"{ASKING[0].response} I am sure that it is so.")
    pool = ExamplePool((late, *ASKING[1:]), POOL.vectors)
    first = next(iter(preferred_proposals(without_sets(*PLAIN), pool, taste))).candidate
    assert ASKING[0].response in [one.response for one in first.bank.examples]


def test_some_ways_state_the_form_in_the_prompt(taste: Taste) -> None:
    prompts = {one.candidate.prompt for one in preferred_proposals(without_sets(*PLAIN), POOL, taste)}
    assert len(prompts) == 2
    assert any(one.endswith("Answers end with a question to the reader.") for one in prompts)


def test_answers_of_two_words_are_no_preferred_examples(taste: Taste) -> None:
    pool = ExamplePool(tuple(replace(one, response="Is it?") for one in ASKING), POOL.vectors)
    for proposal in preferred_proposals(without_sets(*PLAIN), pool, taste):
        assert "Is it?" not in [one.response for one in proposal.candidate.bank.examples]


async def test_proposer_offers_the_preferred_examples_first_and_only_once(taste: Taste) -> None:
    proposer = ExampleProposer(POOL, EMBEDDER, 0, taste=taste)
    first = await proposer.propose(make_parent(with_sets()), 1)
    assert "in the form that people prefer" in first[0].change
    again = await proposer.propose(make_parent(with_sets(), again=1), 1)
    assert all("in the form that people prefer" not in one.change for one in again)
    assert all(
        "in the form that people prefer" not in one.change
        for one in await ExampleProposer(POOL, EMBEDDER, 0).propose(make_parent(with_sets()), 1)
    )


def test_empty_pool_and_bank_give_nothing(taste: Taste) -> None:
    empty = ExamplePool((), np.zeros((0, 26), np.float32))
    assert list(preferred_proposals(make_candidate(*REFUSALS), empty, taste)) == []
