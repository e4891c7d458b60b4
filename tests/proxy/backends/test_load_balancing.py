"""Guards the choice of a backend and the limit of retries, with a clock of the test."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.load_balancing import BackendHealth, BackendLoad, RetryBudget, rank_backends


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def backends(*loads: int, avoided: tuple[int, ...] = ()) -> list[BackendLoad]:
    return [BackendLoad(f"http://b{n}", n not in avoided, 1.0, load) for n, load in enumerate(loads)]


LOADS = st.lists(
    st.builds(BackendLoad, st.uuids().map(str), st.booleans(), st.floats(0.1, 1.0), st.integers(0, 500)),
    max_size=6,
    unique_by=lambda load: load.name,
)


@given(LOADS, st.none() | st.text())
def test_ranking_has_every_backend_once_and_unavailable_ones_last(loads: list[BackendLoad], words: str | None) -> None:
    ordered = rank_backends(loads, words)
    assert sorted(ordered) == list(range(len(loads)))
    flags = [loads[n].available for n in ordered]
    assert flags == sorted(flags, reverse=True)


@given(LOADS, st.text())
def test_first_backend_of_a_conversation_does_not_depend_on_the_input_order(
    loads: list[BackendLoad], words: str
) -> None:
    idle = [BackendLoad(one.name, True, 1.0, 0) for one in loads]
    named = [idle[n].name for n in rank_backends(idle, words)[:1]]
    reverse = idle[::-1]
    assert [reverse[n].name for n in rank_backends(reverse, words)[:1]] == named


def test_conversations_spread_and_only_those_of_an_unavailable_backend_move() -> None:
    conversations = [f"How do I make tea number {n}?" for n in range(3000)]
    three, two = backends(0, 0, 0), backends(0, 0, 0, avoided=(1,))
    before = [rank_backends(three, words)[0] for words in conversations]
    after = [rank_backends(two, words)[0] for words in conversations]
    assert all(900 < count < 1100 for count in Counter(before).values())
    assert all(old == new for old, new in zip(before, after, strict=True) if old != 1)
    moved = Counter(new for old, new in zip(before, after, strict=True) if old == 1)
    assert min(moved.values()) > 400


def test_conversation_leaves_a_backend_with_too_much_load() -> None:
    owner = rank_backends(backends(0, 0), "tea")[0]
    for own, others, stays in ((4, 3, True), (7, 0, True), (9, 0, False), (50, 45, True), (64, 36, False)):
        assert (rank_backends(backends(*(own if n == owner else others for n in range(2))), "tea")[0] == owner) is stays


def test_request_without_a_conversation_goes_to_the_least_loaded_backend() -> None:
    assert rank_backends(backends(3, 1, 2), None) == [1, 2, 0]


def test_three_failures_eject_a_backend_for_longer_each_time_and_it_starts_slowly() -> None:
    clock = Clock()
    health = BackendHealth(clock)
    assert not health.available, "not asked yet"
    health.record_check(answering=True)
    assert (health.available, health.weight) == (True, 1.0), "the first check needs no slow start"
    for seconds in (5, 10, 20, 40, 60, 60):
        assert [health.record_failure() for _ in range(3)] == [False, False, True]
        clock.now += seconds - 0.1
        assert not health.available
        clock.now += 0.2
        assert health.available
        assert health.weight == 0.1
    clock.now += 5
    assert 0.4 < health.weight < 0.6
    clock.now += 60
    health.record_success()
    assert [health.record_failure() for _ in range(3)][-1]
    clock.now += 5.1
    assert health.available, "after a good minute it begins at five seconds again"


def test_only_consecutive_failures_eject() -> None:
    health = BackendHealth(Clock())
    health.record_check(answering=True)
    for _ in range(10):
        assert not health.record_failure()
        assert not health.record_failure()
        health.record_success()
    assert health.available


def test_backend_that_answers_its_check_again_has_a_slow_start() -> None:
    clock = Clock()
    health = BackendHealth(clock)
    for answering in (True, False):
        health.record_check(answering=answering)
    assert not health.available
    clock.now += 100
    health.record_check(answering=True)
    assert (health.available, health.weight) == (True, 0.1)
    clock.now += 1
    health.record_check(answering=True)
    clock.now += 9
    assert health.weight == 1.0, "a check that was good before is no new start"


def test_retry_budget_is_three_or_a_fifth_of_the_requests_in_flight() -> None:
    for active, most in ((1, 3), (15, 3), (20, 4), (100, 20)):
        budget = RetryBudget()
        for _ in range(active):
            budget.requests.__enter__()
        retries = 0
        while budget.has_room:
            budget.retries.__enter__()
            retries += 1
        assert retries == most
        budget.retries.__exit__(None, None, None)
        assert budget.has_room, "what ended makes room"
