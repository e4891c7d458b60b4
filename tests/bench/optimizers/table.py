"""Prints the table: each optimizer at each number of answers, on validation rows, with paired 95 % intervals."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

import numpy as np

from index.measures.confidence import Interval, bootstrap_mean
from tests.bench.optimizers.runs import START, Done
from tests.bench.optimizers.setting import OPTIMIZERS

Scores = Mapping[str, Sequence[float]]
_OURS = OPTIMIZERS[0]
_HEAD = (
    "answers",
    "optimizer",
    "seeds",
    "score",
    "less the start",
    "less raced",
    "calls",
    "replies",
    "failed proposals",
    "minutes",
)


def table(done: Sequence[Done], scores: Scores) -> str:
    """Return the table of the runs whose bundles were scored. Scores are means over seeds, intervals are over rows."""
    if not scores.get(START):
        return "No bundle was scored on validation rows yet."
    shown = {bundle: scores[bundle] for bundle in (START, *(one.bundle for one in done)) if bundle in scores}
    rows = min(map(len, shown.values()))
    equal = {bundle: list(values)[:rows] for bundle, values in shown.items()}
    head = [f"| {' | '.join(_HEAD)} |", f"| {' | '.join('---' for _ in _HEAD)} |"]
    return "\n".join([f"{rows} validation rows", "", *head, *_lines(done, equal)])


def _lines(done: Sequence[Done], scores: Scores) -> Iterator[str]:
    start = scores[START]
    yield _line("0", "the start", "", _figure(bootstrap_mean(start)), "", "", "", "", "", "")
    scored = sorted((one for one in done if one.bundle in scores), key=lambda one: one.run.seed)
    for answers in sorted({one.run.answers for one in scored}):
        by_name = {
            name: [one for one in scored if (one.run.optimizer, one.run.answers) == (name, answers)]
            for name in OPTIMIZERS
        }
        for name, runs in by_name.items():
            if runs:
                yield _line(
                    str(answers),
                    name,
                    ", ".join(str(one.run.seed) for one in runs),
                    _figure(bootstrap_mean(_by_row(scores, runs))),
                    _less(_by_row(scores, runs), start),
                    "" if name == _OURS else _paired(scores, runs, by_name[_OURS]),
                    f"{mean(one.answers for one in runs):.0f}",
                    f"{mean(one.replies for one in runs):.0f}",
                    f"{mean(one.failed for one in runs):.1f}",
                    f"{mean(one.seconds for one in runs) / 60:.0f}",
                )


def _by_row(scores: Scores, runs: Sequence[Done]) -> list[float]:
    """Return the mean over seeds of the score of each row."""
    return [float(it) for it in np.mean([scores[one.bundle] for one in runs], axis=0)]


def _paired(scores: Scores, runs: Sequence[Done], ours: Sequence[Done]) -> str:
    """Return the difference to the optimizer of this project, on the seeds that both have."""
    seeds = {one.run.seed for one in runs} & {one.run.seed for one in ours}
    if not seeds:
        return ""
    these, those = ([one for one in some if one.run.seed in seeds] for some in (runs, ours))
    return _less(_by_row(scores, these), _by_row(scores, those))


def _less(scores: Sequence[float], others: Sequence[float]) -> str:
    return _figure(bootstrap_mean([one - other for one, other in zip(scores, others, strict=True)]), sign="+")


def _figure(found: Interval, sign: str = "") -> str:
    return f"{found.estimate:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
