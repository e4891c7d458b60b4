"""Tests of the simulation without a model: users, noise, and replays that find a difference if there is one."""

import random
from pathlib import Path

from proxy.experiments.config import read_experiment
from tests.bench.tastes.hidden import TASTES
from tests.bench.tastes.population import Ask, asks, is_malicious, thumb
from tests.bench.tastes.replays import LOOKS, UNITS, decision_of, unit_of
from tests.bench.tastes.rounds import experiment_text, name_server


def test_thumbs_are_wrong_for_one_in_ten_and_for_all_of_the_malicious() -> None:
    users = [f"user {number}" for number in range(2_000)]
    malicious = [is_malicious(user, "s") for user in users]
    assert 0.03 < sum(malicious) / len(users) < 0.07
    rated = [thumb(Ask(user, 0, 0), "Is it?", TASTES["closing-question"], "s", "first") for user in users]
    honest = [value for value, is_bad in zip(rated, malicious, strict=True) if not is_bad]
    assert 0.87 < sum(honest) / len(honest) < 0.93
    assert not any(value for value, is_bad in zip(rated, malicious, strict=True) if is_bad)


def test_requests_follow_from_the_seed() -> None:
    first = asks(20, 5, 10, 2, "s")
    assert first == asks(20, 5, 10, 2, "s") != asks(20, 5, 10, 2, "t")
    assert len({one.key for one in first}) == len(first) == 100
    assert len(asks(3, 50, 10, 1, "s")) == 30, "a user asks each question once"


def test_verdict_finds_a_difference_in_a_replay(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "e.toml").write_text(experiment_text("e", tmp_path / "a", tmp_path / "a"))
    experiment = read_experiment(tmp_path / "e.toml").experiment
    rng = random.Random(0)
    for lift, decision in ((0.0, "undecided"), (0.3, "better"), (-0.3, "worse")):
        units = [
            unit_of(number, arm, sum(rng.random() < 0.5 + lift * (arm == "treatment") for _ in range(10)), 10)
            for number, arm in enumerate(("control", "treatment") * (UNITS // 2))
        ]
        assert decision_of(experiment, units[: LOOKS[-1]]) == decision


def test_run_that_has_begun_goes_on_with_the_server_of_today(tmp_path: Path) -> None:
    name_server(tmp_path / "run.toml", "http://127.0.0.1:2")
    assert not (tmp_path / "run.toml").exists()
    (tmp_path / "run.toml").write_text('base_url = "http://127.0.0.1:35563/v1"\n')
    name_server(tmp_path / "run.toml", "http://127.0.0.1:2")
    assert (tmp_path / "run.toml").read_text() == 'base_url = "http://127.0.0.1:2/v1"\n'
