"""The proposer `examples` acts on what failed: it adds near the failed rows, and drops what was shown before them."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from index.errors import BundleError
from index.types import Example
from optimizer.core.errors import ConfigError
from optimizer.data.dataset import COMPLY, GENERAL, REFUSE
from optimizer.models.row_embedder import RowEmbedder
from optimizer.stages.proposers.base import Parent, Proposal
from optimizer.stages.proposers.example_pool import ExamplePool, embed_pool, read_pool
from optimizer.stages.proposers.examples import ExampleProposer, failed_shares
from optimizer.stages.proposers.own_answers import OwnAnswers
from tests.optimizer.stages.proposers.candidates import (
    EMBEDDER,
    REFUSAL,
    PickyEmbedder,
    make_candidate,
    make_parent,
    outcome,
)

WRITTEN = (
    *(Example(f"bomb{number}", f"bomb bomb bom {'b' * number}", REFUSAL) for number in range(3)),
    *(Example(f"kill{number}", f"kill a process {'k' * number}", "Use the command kill.") for number in range(3)),
    *(Example(f"zoo{number}", f"zoo {'z' * number}", "It has animals.") for number in range(3)),
)
POOL = ExamplePool(WRITTEN, EMBEDDER.embed([one.query for one in WRITTEN]))
PROPOSER = ExampleProposer(POOL, EMBEDDER, 0)
BANK = (Example("good", "good question", "A good answer. It is long."), Example("bad", "bad question", "A bad answer."))


def parents(parent: Parent, times: int = 20) -> list[Parent]:
    return [Parent(parent.path, parent.failures, again) for again in range(times)]


async def proposals(parent: Parent, times: int = 20) -> list[Proposal]:
    found = [await PROPOSER.propose(one, 3) for one in parents(parent, times)]
    return [one for ones in found for one in ones]


async def test_examples_near_the_failed_rows_are_added_with_the_answers_that_were_missed() -> None:
    failed = outcome(0, "How do I make a bomb?", REFUSE, right=0.0), outcome(1, "zoo", GENERAL)
    added = [
        one for one in await proposals(make_parent(make_candidate(*BANK), *failed)) if "near the refuse" in one.change
    ]
    assert added
    for proposal in added:
        new = proposal.candidate.bank.examples[len(BANK) :]
        assert {one.response for one in new} == {REFUSAL}


async def test_wrongly_refused_rows_get_answers_that_help() -> None:
    failed = outcome(0, "How do I kill a process?", COMPLY, right=0.0)
    added = [
        one for one in await proposals(make_parent(make_candidate(*BANK), failed)) if "near the comply" in one.change
    ]
    assert added
    assert all(one.response != REFUSAL for proposal in added for one in proposal.candidate.bank.examples)
    assert added[0].candidate.bank.examples[len(BANK)].id.startswith("kill")


async def test_empty_bank_is_filled_from_the_pool() -> None:
    parent = make_parent(make_candidate(k=0), outcome(0, "How do I kill a process?", COMPLY, right=0.0))
    found = await proposals(parent)
    assert found
    assert all(one.candidate.bank.examples and one.candidate.retrieval.shows_nearest for one in found)
    assert max(len(one.candidate.bank.examples) for one in found) == len(WRITTEN)


async def test_examples_shown_before_failed_answers_are_dropped() -> None:
    outcomes = (
        *(outcome(number, f"a{number}", shown=["bad"], right=0.0) for number in range(2)),
        *(outcome(number, f"a{number}", shown=["good"]) for number in range(2, 4)),
        outcome(4, "a4", shown=["once"], right=0.0),
    )
    assert failed_shares(outcomes)["bad"] > 0 > failed_shares(outcomes)["good"]
    assert "once" not in failed_shares(outcomes)
    dropped = [one for one in await proposals(make_parent(make_candidate(*BANK), *outcomes)) if "drops" in one.change]
    assert dropped
    assert all([one.id for one in proposal.candidate.bank.examples] == ["good"] for proposal in dropped)


async def test_proposals_repeat_with_the_seed_and_keep_one_example_for_each_id() -> None:
    parent = make_parent(make_candidate(*BANK, *WRITTEN[:2]), outcome(0, "bomb", REFUSE, right=0.0, ends=0.0))
    one, other = await proposals(parent), await proposals(parent)
    assert [proposal.candidate.key for proposal in one] == [proposal.candidate.key for proposal in other]
    assert {"pins", "cuts", "adds"} <= {proposal.change.split()[0] for proposal in one}
    for proposal in one:
        ids = [example.id for example in proposal.candidate.bank.examples]
        assert len(ids) == len(set(ids)) == len(proposal.candidate.bank.vectors)


class UnusedPool(ExamplePool):
    def nearest(self, *_: object, **__: object) -> list[int]:
        raise AssertionError("the bank has the whole pool")


async def test_nothing_is_added_to_a_bank_with_the_whole_pool() -> None:
    proposer = ExampleProposer(UnusedPool(POOL.examples, POOL.vectors), EMBEDDER, 0)
    parent = make_parent(make_candidate(*WRITTEN), outcome(0, "bomb", REFUSE, right=0.0))
    found = [await proposer.propose(one, 3) for one in parents(parent)]
    assert {"pins", "cuts"} <= {proposal.change.split()[0] for ones in found for proposal in ones}


def test_pool_leaves_out_the_queries_of_rows(tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_text('{"query": "How are you?", "response": "Well."}\n{"query": "zoo", "response": "Animals."}\n')
    assert [one.query for one in read_pool(str(file), {"how are  YOU"})] == ["zoo"]
    assert not embed_pool([Example("unread", "12345", "A number.")], EMBEDDER).examples, "the vector is zero"


PICKY = RowEmbedder(PickyEmbedder(EMBEDDER, "zoo zz"))


def test_pool_leaves_out_only_the_queries_that_the_embedder_cannot_read() -> None:
    read = [one for one in WRITTEN if one.query != "zoo zz"]
    pool = embed_pool(WRITTEN, PICKY)
    assert list(pool.examples) == read
    assert np.array_equal(pool.vectors, EMBEDDER.embed([one.query for one in read]))


@pytest.mark.parametrize(("others", "added"), [(["How do I kill a process?"], True), ([], False)])
async def test_failed_rows_that_the_embedder_cannot_read_are_skipped(others: list[str], added: bool) -> None:
    failed = [outcome(number, query, COMPLY, right=0.0) for number, query in enumerate(["zoo zz", *others])]
    proposer = ExampleProposer(POOL, PICKY, 0)
    found = [await proposer.propose(one, 3) for one in parents(make_parent(make_candidate(*BANK), *failed))]
    assert any("near the comply" in one.change for ones in found for one in ones) is added


class FixedAnswers:
    """Makes the same examples each time, and counts what is dropped."""

    dropped = 0

    @property
    def gate(self) -> "FixedAnswers":
        return self

    async def examples(self, *_: object) -> list[Example]:
        return [Example("own1", "zoo zz", "Animals."), Example("own2", "12", "Twelve."), Example("own3", "cat", "Tom.")]

    async def drop(self, what: str, source: str, why: str, count: int) -> None:
        self.dropped += count


async def test_own_questions_that_the_embedder_cannot_read_are_dropped_and_counted() -> None:
    own = FixedAnswers()
    proposer = ExampleProposer(POOL, PICKY, 0, cast("OwnAnswers", own))
    parent = make_parent(make_candidate(*BANK), outcome(0, "kill", COMPLY, right=0.0))
    found = [await proposer.propose(one, 3) for one in parents(parent)]
    changed = [one for ones in found for one in ones if "own answers" in one.change]
    assert changed
    assert own.dropped == 2 * len(changed)
    for one in changed:
        assert [example.id for example in one.candidate.bank.examples] == ["good", "bad", "own3"]
        assert "adds 1 new" in one.change


def test_pool_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[examples\] pool: .*none.jsonl cannot be read"):
        read_pool(str(tmp_path / "none.jsonl"))
    (tmp_path / "bad.jsonl").write_text("{}")
    with pytest.raises(BundleError, match=r"bad.jsonl, line 1"):
        read_pool(str(tmp_path / "bad.jsonl"))
