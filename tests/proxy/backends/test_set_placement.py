"""Guards which backends get the requests with an example set: the bound of their share, the spill, and later turns."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.backends.load_balancing import Affinity, BackendLoad
from proxy.backends.set_placement import SetPlacement
from proxy.backends.set_plan import preference

SETS = tuple(f"bundle/set-{n}" for n in range(12))


def servers(
    count: int, in_flight: Sequence[int] = (), weights: Sequence[float] = (), out: int = -1
) -> list[BackendLoad]:
    return [
        BackendLoad(f"http://vllm-{n}:8000", n != out, weights[n] if weights else 1.0, in_flight[n] if in_flight else 0)
        for n in range(count)
    ]


def first_turn(number: int) -> Affinity:
    return Affinity(f"conversation {number}", None, is_first_turn=True)


def skewed(hot: float, length: int, seed: int) -> list[str]:
    """Return the sets of some requests: one has the share `hot`, and the others have shares by their rank (Zipf)."""
    weights = [hot, *((1 - hot) / n / 3.02 for n in range(1, 12))]
    return random.Random(seed).choices(SETS, weights, k=length)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("hot", [0.1, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("length", [40, 200, 1500])
def test_no_server_gets_more_than_its_share_of_requests_that_come_one_at_a_time(
    count: int, hot: float, length: int
) -> None:
    placement, loads = SetPlacement(), servers(count)
    wanted = skewed(hot, length, seed=count)
    got = Counter(placement.place(loads, first_turn(n), one).positions[0] for n, one in enumerate(wanted))
    assert max(got.values()) <= 1.3 * length / count


@settings(max_examples=40)
@given(st.lists(st.sampled_from(SETS), min_size=1, max_size=200), st.integers(1, 6), st.integers(1, 5))
def test_bound_holds_for_any_sequence_and_any_number_of_processes(
    wanted: list[str], count: int, processes: int
) -> None:
    placements, loads = [SetPlacement() for _ in range(processes)], servers(count)
    got = Counter(
        placements[n % processes].place(loads, first_turn(n), one).positions[0] for n, one in enumerate(wanted)
    )
    assert max(got.values()) <= 1.25 * len(wanted) / count + processes + 1


@settings(max_examples=50)
@given(
    st.lists(
        st.builds(BackendLoad, st.uuids().map(str), st.booleans(), st.floats(0.1, 1.0), st.integers(0, 500)),
        min_size=1,
        max_size=6,
        unique_by=lambda load: load.name,
    ),
    st.text(),
    st.none() | st.text(),
    st.booleans(),
)
def test_every_backend_is_tried_once_and_unavailable_ones_last(
    loads: list[BackendLoad], example_set: str, conversation: str | None, is_first: bool
) -> None:
    placed = SetPlacement().place(loads, Affinity(conversation, example_set, is_first), example_set)
    assert sorted(placed.positions) == list(range(len(loads)))
    flags = [loads[n].available for n in placed.positions]
    assert flags == sorted(flags, reverse=True)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_processes_agree_on_the_first_server_of_each_set(count: int) -> None:
    loads = servers(count)
    for example_set in SETS:
        orders = [SetPlacement().place(order, first_turn(1), example_set) for order in (loads, loads[::-1])]
        names = [order[placed.positions[0]].name for order, placed in zip((loads, loads[::-1]), orders, strict=True)]
        assert names == [preference(example_set, tuple(one.name for one in loads))[0]] * 2


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("one_at_a_time", [True, False])
def test_set_of_four_fifths_of_the_requests_uses_the_first_servers_it_prefers(count: int, one_at_a_time: bool) -> None:
    placement, loads = SetPlacement(), servers(count, () if one_at_a_time else [3] * count)
    got: Counter[int] = Counter()
    for n, one in enumerate(skewed(0.8, 2000, seed=1)):
        chosen = placement.place(loads, first_turn(n), one).positions[0]
        got[chosen] += one == SETS[0]
    order = [int(name[12]) for name in preference(SETS[0], tuple(one.name for one in loads))]
    needed = 2 if count == 2 else 3
    assert min(got[n] for n in order[:needed]) > 0.15 * 2000, "the second server has enough requests for its cache"
    assert all(got[n] < 0.25 * 2000 for n in order[needed:])


def test_later_turns_go_to_the_server_of_the_first_turn() -> None:
    placement, loads = SetPlacement(), servers(3)
    wanted = skewed(0.6, 1500, seed=2)
    first: dict[int, int] = {}
    moved = 0
    for n, one in enumerate(wanted):
        first[n] = placement.place(loads, first_turn(n), one).positions[0]
        if n >= 20:
            later = placement.place(loads, Affinity(f"conversation {n - 20}", None), wanted[n - 20])
            moved += later.positions[0] != first[n - 20]
    assert moved <= 0.06 * len(wanted)


def test_later_turn_stays_with_a_server_that_has_more_than_its_share() -> None:
    placement, loads = SetPlacement(), servers(2)
    start = placement.place(loads, Affinity("talk", None, is_first_turn=True), SETS[0]).positions[0]
    for _ in range(20):
        assert placement.place(loads, Affinity("talk", None), SETS[0]).positions[0] == start


@pytest.mark.parametrize("turn", [True, False])
def test_server_with_too_many_requests_in_flight_is_passed_over(turn: bool) -> None:
    home = int(preference(SETS[0], tuple(one.name for one in servers(3)))[0][12])
    busy = [30 if n == home else 2 for n in range(3)]
    placed = SetPlacement().place(servers(3, busy), Affinity("talk", None, turn), SETS[0])
    assert (placed.positions[0] != home, placed.choice) == (True, "spilled")


@pytest.mark.parametrize("weights", [(1.0, 0.25), (1.0, 1.0, 0.5), (0.1, 1.0, 1.0)])
def test_share_of_a_server_is_by_its_weight(weights: tuple[float, ...]) -> None:
    placement, loads = SetPlacement(), servers(len(weights), weights=weights)
    got = Counter(
        placement.place(loads, first_turn(n), one).positions[0] for n, one in enumerate(skewed(0.5, 4000, seed=3))
    )
    for n, weight in enumerate(weights):
        assert got[n] <= 1.3 * 4000 * weight / sum(weights)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_sets_of_a_server_in_outage_move_and_return_and_no_server_is_flooded(count: int) -> None:
    placement = SetPlacement()
    wanted = skewed(0.3, 6000, seed=4)
    homes: list[dict[str, Counter[int]]] = []
    for part, out in enumerate((-1, 0, -1)):
        got: Counter[int] = Counter()
        used: dict[str, Counter[int]] = {one: Counter() for one in SETS}
        for n, one in enumerate(wanted[part * 2000 : part * 2000 + 2000]):
            chosen = placement.place(servers(count, out=out), first_turn(n), one).positions[0]
            used[one][chosen] += 1
            got[chosen] += 1
        alive = count - (out >= 0)
        assert max(got.values()) <= max(1.3 * 2000 / alive, 2000 * (alive == 1))
        assert out not in got
        homes.append(used)
    most = [{one: used[one].most_common(1)[0][0] for one in SETS} for used in homes]
    assert sum(most[0][one] == most[2][one] for one in SETS) >= 7, "most return"
    assert sum(most[0][one] == most[1][one] for one in SETS if most[0][one] != 0) >= 6 // (5 - count), "others stay"


def test_server_that_joins_gets_its_share_at_once_and_not_more() -> None:
    placement = SetPlacement()
    wanted = skewed(0.3, 4000, seed=5)
    for n, one in enumerate(wanted[:2000]):
        placement.place(servers(2), first_turn(n), one)
    for start in range(2000, 4000, 250):
        got = Counter(
            placement.place(servers(3), first_turn(n), one).positions[0]
            for n, one in enumerate(wanted[start : start + 250])
        )
        assert got[2] <= 1.4 * 250 / 3


@pytest.mark.parametrize(("hot", "keys"), [(0.05, 1), (0.3, 1), (0.8, 3), (1.0, 4)])
def test_router_key_is_one_for_a_set_and_several_for_a_hot_set_and_the_same_in_all_turns(hot: float, keys: int) -> None:
    placement, loads = SetPlacement(), servers(1)
    for n, one in enumerate(skewed(hot, 3000, seed=6)):
        placement.place(loads, first_turn(n), one)
    found = {placement.router_key(SETS[0], f"conversation {n}") for n in range(300)}
    assert len(found) == keys
    assert found.isdisjoint(placement.router_key(SETS[1], f"conversation {n}") for n in range(300))
    assert placement.router_key(SETS[0], "talk") == placement.router_key(SETS[0], "talk")


def test_sets_of_bundles_that_are_served_no_more_are_forgotten() -> None:
    placement, loads = SetPlacement(), servers(2)
    for n in range(16_000):
        placement.place(loads, first_turn(n), f"old/{n % 40}" if n < 200 else SETS[n % 12])
    assert all(one in SETS for one in placement._plan)
