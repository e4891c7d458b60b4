"""The allocation of slots to proposers: those that win get more, none is starved, and a seed repeats all draws."""

from collections import Counter

from optimizer.search.allocation import Allocation

NAMES = ("writer", "edits", "examples")


def first_choices(allocation: Allocation, occasions: int = 200) -> Counter[str]:
    return Counter(ranked[0] for one in range(occasions) for ranked in allocation.preferences(3, str(one)))


def test_without_results_all_proposers_get_slots() -> None:
    shares = first_choices(Allocation(NAMES, "0"))
    assert min(shares.values()) > 0.25 * shares.total()


def test_each_proposer_is_tried_before_any_is_tried_twice() -> None:
    for seed in "01234":
        allocation = Allocation(NAMES, seed)
        assert {ranked[0] for ranked in allocation.preferences(3, "a")} == set(NAMES)
        firsts = [ranked[0] for ranked in allocation.preferences(2, "b")]
        allocation.note(firsts[0], is_won=True)
        allocation.note_unfilled(firsts[1])
        assert {*firsts, allocation.preferences(1, "c")[0][0]} == set(NAMES)


def test_proposer_that_wins_gets_most_slots_and_no_other_is_starved() -> None:
    allocation = Allocation(NAMES, "0")
    for number in range(10):
        allocation.note("examples", is_won=number < 6)
        allocation.note("edits", is_won=number < 1)
        allocation.note("writer", is_won=False)
    shares = first_choices(allocation)
    assert shares["examples"] > 0.8 * shares.total()
    assert shares["edits"] > 0
    assert allocation.results == {"writer": (10, 0), "edits": (10, 1), "examples": (10, 6)}


def test_each_slot_ranks_all_proposers_and_equal_seeds_give_equal_draws() -> None:
    one, other, third = (Allocation(NAMES, seed).preferences(5, "a") for seed in ("0", "0", "1"))
    assert one == other != third
    assert all(sorted(ranked) == sorted(NAMES) for ranked in one)
    assert Allocation(NAMES, "0").preferences(5, "b") != one


def test_slot_that_is_left_empty_is_a_loss_but_no_candidate_that_raced() -> None:
    allocation = Allocation(NAMES, "0")
    allocation.note_unfilled("writer", 30)
    shares = first_choices(allocation)
    assert shares["writer"] < 0.1 * shares.total()
    assert allocation.results["writer"] == (0, 0)
