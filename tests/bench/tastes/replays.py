"""Replays the recorded answers with random thumbs, and counts how often the verdict declares a winner.

A replay draws users of the recorded experiment, with their requests, and an arm for each user. Then it draws the share
of users who like each answer, and from this share all thumbs. Answers and users therefore differ, but the arms do not.
The report is read repeatedly, as by an operator. A replay counts if an arm is declared better or worse at any of these
looks.
"""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from index.measures.confidence import wilson
from proxy.experiments.analysis.analyze import LEVEL, Analysis, compare, planned_units_of_equal_arms
from proxy.experiments.analysis.comparisons import conclude
from proxy.experiments.analysis.readiness import BURN_IN
from proxy.experiments.analysis.samples import collect_samples, sample_ratio
from proxy.experiments.analysis.verdict import Evidence, verdict_of
from proxy.experiments.config import read_experiment
from proxy.experiments.definition import Experiment
from proxy.experiments.records import SumAndCount, UnitOutcomes
from tests.bench.embedders import say
from tests.bench.tastes.world import Answered, read_answers

UNITS: Final = 400
LOOKS: Final = range(210, UNITS + 1, 10)
_METRIC: Final = "thumbs_up"
_PROGRESS: Final = 100


def replay(out: Path, count: int, seed: str) -> None:
    """Print in how many replays the verdict declares a winner. Finished replays are kept in the folder."""
    experiment = read_experiment(out / "recorded" / "recorded.toml").experiment
    by_user: dict[str, list[Answered]] = {}
    for one in read_answers(out / "recorded" / "answers.jsonl"):
        by_user.setdefault(one.ask.user, []).append(one)
    journal = out / f"replays-{seed}.txt"
    found = journal.read_text(encoding="utf-8").split() if journal.exists() else []
    with journal.open("a", encoding="utf-8") as file:
        for number in range(len(found), count):
            decision = _decision(experiment, list(by_user.values()), random.Random(f"{seed}:{number}"))
            found.append(decision)
            file.write(f"{decision}\n")
            file.flush()
            if len(found) % _PROGRESS == 0:
                say(f"{len(found)} of {count} replays: {dict(Counter(found))}")
    winners = sum(decision in ("better", "worse") for decision in found[:count])
    share = wilson(winners, count)
    looks = f"{len(LOOKS)} looks at {LOOKS[0]} to {LOOKS[-1]} users"
    print(f"{count} replays, {looks}: a winner in {share.estimate:.1%} [{share.low:.1%}, {share.high:.1%}]")


def _decision(experiment: Experiment, users: Sequence[Sequence[Answered]], rng: random.Random) -> str:
    """Return the first decision of a replay that declares a winner; an empty text if no look does.

    A verdict declares a winner only if the p-value is at most LEVEL. So the verdict is built only at such looks.
    """
    liked: dict[tuple[int, int], float] = {}
    units = [_unit(number, rng.choice(users), liked, rng) for number in range(UNITS)]
    arms = [arm.name for arm in experiment.arms]
    control, treatment = experiment.control, next(name for name in arms if name != experiment.control)
    planned = planned_units_of_equal_arms(experiment, treatment)
    samples = collect_samples(units, arms, [_METRIC])
    for look in LOOKS:
        found = compare(samples.first(look), _METRIC, treatment, control, planned).difference
        if found is not None and found.p_anytime <= LEVEL:
            decision = decision_of(experiment, units[:look])
            if decision in ("better", "worse"):
                return decision
    return "none"


def decision_of(experiment: Experiment, units: Sequence[UnitOutcomes]) -> str:
    """Return the decision of the verdict, as `analyse` computes it. Its report also has a curve, which takes long."""
    samples = collect_samples(units, [arm.name for arm in experiment.arms], [_METRIC])
    comparisons = conclude(Analysis(experiment, samples, False).comparisons())
    ratio = sample_ratio(samples, adaptive=False)
    return verdict_of(Evidence(experiment, len(samples), None, ratio, comparisons, (), LEVEL, BURN_IN)).decision


def _unit(
    number: int, requests: Sequence[Answered], liked: dict[tuple[int, int], float], rng: random.Random
) -> UnitOutcomes:
    """Return a user with random thumbs. `liked` keeps the share of users who like an answer, over all users."""
    mood = rng.gauss(0.0, 0.15)
    thumbs = 0
    for one in requests:
        share = liked.setdefault((one.ask.question, one.ask.draw), rng.random())
        thumbs += rng.random() < share + mood
    return unit_of(number, rng.choice(("control", "treatment")), thumbs, len(requests))


def unit_of(number: int, arm: str, thumbs: int, count: int) -> UnitOutcomes:
    """Return the outcomes of a user of an arm with equal shares, who gave `thumbs` thumbs up to `count` answers."""
    rated: SumAndCount = (float(thumbs), count)
    return UnitOutcomes(f"{number:032x}", arm, 0.5, float(number), {_METRIC: rated}, {})
