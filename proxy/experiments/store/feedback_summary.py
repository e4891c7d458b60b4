"""Reads what users say about the answers of one experiment, or about the answers outside experiments.

The result has the feedback by arm and example set, and the questions whose answers users disliked.

Only the latest MAX_REQUESTS requests are read. An index by experiment and time finds them, so the queries take the same
time in a store of any size. Texts are read for at most MAX_WORST requests, and only if texts were stored.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.experiments.automatic_metrics import MAX_VALUE
from proxy.experiments.definition import Metric
from proxy.experiments.records import NO_EXPERIMENT
from proxy.experiments.store.content import answer_text, last_question
from proxy.experiments.store.dsn import Session
from proxy.experiments.store.schema import EXPOSURES

MAX_REQUESTS: Final = 20_000
_MAX_GROUPS: Final = 200  # pairs of an arm and an example set
MAX_WORST: Final = 40
_MAX_TEXT: Final = 600  # characters of a question, an answer or a comment that are shown
_MAX_COMMENTS: Final = 3  # of one question

# The common table expression `named` has the latest requests of an experiment, each with the value of its feedback.
# Feedback names a request by its request id or by its completion id. If there is feedback under both ids, the later
# value is used.
_RATED: Final = f"""
    WITH recent AS (
        SELECT id, arm, {{example_set}} AS example_set, request_id, completion_id, time FROM exposures
        WHERE experiment = ? AND (arm <> '' OR experiment = '{NO_EXPERIMENT}') AND override = 0
        ORDER BY time DESC LIMIT {MAX_REQUESTS}),
    named AS (
        SELECT r.id, r.arm, r.example_set, r.request_id, r.completion_id, r.time,
               CASE WHEN f.value IS NULL OR g.time > f.time THEN g.value ELSE f.value END AS value
        FROM recent AS r
        LEFT JOIN feedback AS f ON f.subject = r.request_id AND f.metric = ?
             AND f.value BETWEEN -{MAX_VALUE:.0f} AND {MAX_VALUE:.0f}
        LEFT JOIN feedback AS g ON g.subject = r.completion_id AND g.metric = ? AND r.completion_id <> r.request_id
             AND g.value BETWEEN -{MAX_VALUE:.0f} AND {MAX_VALUE:.0f})"""  # noqa: S608
_GROUPS: Final = f"""{_RATED}
    SELECT arm, example_set, COUNT(*), COUNT(value), SUM(value),
           SUM(CASE WHEN value IS NOT NULL AND EXISTS (SELECT 1 FROM contents WHERE exposure = named.id)
               THEN 1 ELSE 0 END)
    FROM named GROUP BY arm, example_set ORDER BY COUNT(*) DESC, arm, example_set LIMIT {_MAX_GROUPS}"""  # noqa: S608
_WORST: Final = f"""{_RATED},
    worst AS (
        SELECT * FROM named WHERE {{sign}} * value < ? AND EXISTS (SELECT 1 FROM contents WHERE exposure = named.id)
        ORDER BY {{sign}} * value, time DESC LIMIT {MAX_WORST})
    SELECT w.arm, w.example_set, w.request_id, w.completion_id, w.time, w.value, c.asked, c.answered
    FROM worst AS w JOIN contents AS c ON c.exposure = w.id ORDER BY {{sign}} * w.value, w.time DESC"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class RatedGroup:
    """The feedback on the requests of one arm that got the same example set.

    Attributes:
        arm: Name of the arm. Empty for requests in no experiment.
        example_set: Name of the example set. None for requests without a set.
        requests: Number of requests.
        rated: Number of requests with a value of the metric.
        mean: Mean of the values. None if there is none.
    """

    arm: str
    example_set: str | None
    requests: int
    rated: int
    mean: float | None


@dataclass(frozen=True, slots=True)
class RatedQuestion:
    """A question whose answers have a worse value than the mean of the experiment.

    Attributes:
        arm: Name of the arm.
        example_set: Name of the example set. None without a set.
        count: Number of requests with this question and this arm among the worst requests.
        value: Value of the latest of these requests.
        time: Time of the latest of these requests, Unix seconds.
        question: The last question of the conversation, cut after 600 characters.
        answer: The answer, cut after 600 characters. Empty if it cannot be read.
        comments: Comments of users on these requests.
    """

    arm: str
    example_set: str | None
    count: int
    value: float
    time: float
    question: str = field(repr=False)
    answer: str = field(repr=False)
    comments: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class FeedbackSummary:
    """What users say about the latest requests of an experiment.

    Attributes:
        metric: Name of the metric.
        better: Whether higher or lower values are better.
        requests: Number of requests that were read.
        is_cut: Whether the experiment has older requests that were not read.
        rated: Number of these requests with a value of the metric.
        logged: Number of rated requests whose texts were stored.
        groups: The feedback by arm and example set, the group with the most requests first.
        worst: The questions with the worst feedback, the worst first.
    """

    metric: str
    better: str
    requests: int
    is_cut: bool
    rated: int
    logged: int
    groups: tuple[RatedGroup, ...]
    worst: tuple[RatedQuestion, ...]


def read_feedback(session: Session, experiment: str, metric: Metric) -> FeedbackSummary:
    """Read the feedback on the latest requests of an experiment.

    Args:
        session: A connection in a transaction that reads.
        experiment: Name of the experiment, or NO_EXPERIMENT.
        metric: The metric by which answers are rated.
    """
    sign, values = -1 if metric.better == "lower" else 1, (experiment, metric.name, metric.name)
    column = "example_set" if "example_set" in session.columns(EXPOSURES) else "NULL"
    rows = [tuple(row) for row in session.rows(_GROUPS.format(example_set=column), values)]
    groups = tuple(_group(row) for row in rows)
    requests, rated = sum(one.requests for one in groups), sum(one.rated for one in groups)
    worst: tuple[RatedQuestion, ...] = ()
    if rated:
        mean = sum(float(row[4]) for row in rows if row[3]) / rated
        worst = _questions(session, session.rows(_WORST.format(example_set=column, sign=sign), (*values, sign * mean)))
    logged, is_cut = sum(int(row[5]) for row in rows), requests >= MAX_REQUESTS
    return FeedbackSummary(metric.name, metric.better, requests, is_cut, rated, logged, groups, worst)


def _group(row: Sequence[Any]) -> RatedGroup:
    arm, example_set, requests, rated, total, _ = row
    return RatedGroup(arm, example_set, requests, rated, float(total) / rated if rated else None)


def _questions(session: Session, rows: Iterable[Sequence[Any]]) -> tuple[RatedQuestion, ...]:
    """Combine requests of the same arm with the same question. Leave out requests whose question cannot be read."""
    by_question: dict[tuple[str, str], list[Sequence[Any]]] = {}
    for row in list(rows):
        if question := last_question(row[6]):
            by_question.setdefault((row[0], " ".join(question.split())), []).append(row)
    comments = _comments(
        session, [name for found in by_question.values() for row in found for name in row[2:4] if name]
    )
    return tuple(_question(question, found, comments) for (_, question), found in by_question.items())


def _question(text: str, rows: Sequence[Sequence[Any]], comments: Mapping[str, str]) -> RatedQuestion:
    arm, example_set, _, _, time, value, _, answered = max(rows, key=lambda row: float(row[4]))
    said = dict.fromkeys(comments[name] for row in rows for name in row[2:4] if name in comments)
    answer = answer_text(answered.encode("utf-8", "replace"))
    shown = tuple(_shortened(one) for one in list(said)[:_MAX_COMMENTS])
    return RatedQuestion(arm, example_set, len(rows), value, time, _shortened(text), _shortened(answer), shown)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"


def _comments(session: Session, subjects: Sequence[str]) -> Mapping[str, str]:
    """Return the comment on each subject that has one."""
    if not subjects:
        return {}
    places = ", ".join("?" * len(subjects))
    statement = f"SELECT subject, comment FROM feedback WHERE subject IN ({places}) AND comment IS NOT NULL"  # noqa: S608
    return dict(map(tuple, session.rows(statement, subjects)))
