"""Measures how many judgements racing needs to find the best candidate: docs/benchmarks.md.

    python -m tests.bench.race               prints the table and a plot
    python -m tests.bench.race --draws 2000  more draws

It compares racing with equal numbers of judgements and with successive halving, on real judgements. The candidates are
28 systems, and the rewards are GPT-4's judgements of each system on 797 instructions. Each draw has eight candidates
and shuffled instructions. A method is right if it names the best candidate, or one within one point of its win rate.
Each method has one hyperparameter, which decides how many judgements it makes. With more judgements, a method is right
more often.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.search.race import RaceSettings, run_race
from tests.measurement import DATA

Scores = NDArray[np.float64]
Method = Callable[[Scores, float], tuple[int, int]]
# A draw has CANDIDATES candidates. A choice is right if its win rate is at most CLOSE below the best one. A draw is
# hard if the win rates of its two best candidates differ by less than HARD.
CANDIDATES, CLOSE, HARD = 8, 0.01, 0.05


@dataclass(frozen=True, slots=True)
class Point:
    """The result of one value of a hyperparameter.

    Attributes:
        spent: Mean number of judgements, over all draws.
        right: Share of right choices, over all draws.
        hard_spent: As for `spent`, but only over the hard draws.
        hard_right: As for `right`, but only over the hard draws.
    """

    spent: float
    right: float
    hard_spent: float
    hard_right: float


def uniform(scores: Scores, queries: float) -> tuple[int, int]:
    """Score every candidate on the same number of queries."""
    count = int(queries)
    return int(scores[:, :count].mean(axis=1).argmax()), len(scores) * count


def halving(scores: Scores, budget: float) -> tuple[int, int]:
    """Run successive halving (Karnin, Koren and Somekh, ICML 2013): each of its equal rounds drops the worse half."""
    alive, start, spent = list(range(len(scores))), 0, 0
    rounds = int(np.ceil(np.log2(len(scores))))
    for _ in range(rounds):
        end = min(scores.shape[1], start + max(1, int(budget / rounds / len(alive))))
        spent, start = spent + len(alive) * (end - start), end
        alive = sorted(alive, key=lambda one: -scores[one, :end].mean())[: max(1, len(alive) // 2)]
    return alive[0], spent


def raced(scores: Scores, alpha: float) -> tuple[int, int]:
    """Run the race of this project (optimizer/search/race.py)."""
    return run_race(scores, RaceSettings(alpha=alpha, max_queries=scores.shape[1]))


HYPERPARAMETERS: Mapping[str, tuple[Method, Sequence[float]]] = {
    "uniform": (uniform, [*range(10, 200, 10), *range(200, 797, 25)]),
    "successive halving": (halving, [100, 200, 300, 400, 500, 600, 800, 1000, 1300, 1600, 2000, 2500, 3000, 4000]),
    "raced": (raced, [0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01]),
}


def curve(method: Method, values: Sequence[float], draws: Sequence[Scores]) -> list[Point]:
    """Return the results of a method for every value of its hyperparameter, on the same draws."""
    truths = [draw.mean(axis=1) for draw in draws]
    hard = np.array([np.sort(truth)[-1] - np.sort(truth)[-2] < HARD for truth in truths])
    points = []
    for value in values:
        picks = [method(draw, value) for draw in draws]
        right = np.array([truth[pick] >= truth.max() - CLOSE for truth, (pick, _) in zip(truths, picks, strict=True)])
        spent = np.array([cost for _, cost in picks])
        points.append(Point(spent.mean(), right.mean(), spent[hard].mean(), right[hard].mean()))
    return points


def cost_of(points: Sequence[Point], reliability: float, *, hard: bool) -> float:
    """Return the judgements for a reliability, interpolated between two values; infinite if no value reaches it."""
    pairs = sorted((p.hard_spent, p.hard_right) if hard else (p.spent, p.right) for p in points)
    for (less, below), (more, above) in zip([(0.0, 0.0), *pairs], pairs, strict=False):
        if above >= reliability:
            return less + (more - less) * (reliability - below) / (above - below)
    return float("inf")


def draw(judged: Scores, count: int, seed: int) -> list[Scores]:
    """Return `count` draws of eight random candidates, with the queries in random order."""
    chance = np.random.default_rng(seed)
    return [
        judged[chance.choice(len(judged), CANDIDATES, replace=False)][:, chance.permutation(judged.shape[1])]
        for _ in range(count)
    ]


def judgements() -> Scores:
    """Return the reward of each system on each instruction: the probability that the judge prefers its answer."""
    judged = json.loads((DATA / "judged_preferences.json").read_text(encoding="utf-8"))
    return np.array([model["p"] for model in judged["models"].values()], dtype=np.float64)


def plot(curves: Mapping[str, Sequence[Point]]) -> str:
    """Return a text plot of reliability by judgements on a logarithmic scale. A letter stands for each method."""
    least, columns, rows = 10.0, 68, 16
    grid = [[" "] * columns for _ in range(rows)]
    for name, points in curves.items():
        for point in points:
            column = int(np.log(max(point.spent, least) / least) / np.log(1.1))
            row = int((1.0 - point.right) / (0.5 / rows))
            if column < columns and row < rows:
                grid[row][column] = name[0]
    lines = [f"{1.0 - 0.5 * row / rows:4.2f} |{''.join(cells)}" for row, cells in enumerate(grid)]
    marks = {column: f"{least * 1.1**column:.0f}" for column in range(0, columns, 12)}
    scale = "".join(f"{marks[column]:<12}" for column in marks)
    return "\n".join([*lines, f"     +{'-' * columns}", f"      {scale} judgements"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500, help="number of draws [500]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws [0]")
    options = parser.parse_args()
    draws = draw(judgements(), options.draws, options.seed)
    one = curve(uniform, [1], draws)[0]
    print(f"One query for each candidate, as DRPO scores: right in {one.right:.2f} (hard: {one.hard_right:.2f}).\n")
    curves = {name: curve(method, values, draws) for name, (method, values) in HYPERPARAMETERS.items()}
    print("| judgements for | " + " | ".join(curves) + " | raced / uniform |\n" + "| --- " * (len(curves) + 2) + "|")
    for hard in (False, True):
        for reliability in (0.95, 0.98):
            costs = [cost_of(points, reliability, hard=hard) for points in curves.values()]
            name = f"{reliability:.0%} right{', top two within 5 points' if hard else ''}"
            print(f"| {name} | " + " | ".join(f"{cost:,.0f}" for cost in costs) + f" | {costs[-1] / costs[0]:.2f} |")
    print(f"\n{plot(curves)}\n      " + ", ".join(f"{name[0]}: {name}" for name in curves))


if __name__ == "__main__":
    main()
