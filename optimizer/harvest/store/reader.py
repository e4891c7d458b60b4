"""Reads the exposures of a store with their texts, feedback and verdicts, one by one.

drpo-proxy writes the tables (proxy/experiments/store). The rows are ordered by unit and time, so that the requests of
one unit follow each other. Only one exposure is in memory at a time.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, Final

from optimizer.core.errors import DataError
from optimizer.harvest.exchange import Exchange, JudgeComparison, Rating
from optimizer.harvest.store.bodies import reply_text, request_turns
from optimizer.harvest.store.session import ReadSession

FORMAT: Final = b"1"
_TABLES: Final = ("exposures", "contents", "feedback", "judgements")
_MAX_FEEDBACK: Final = 1_000
"""The maximum number of values and comments of one request that count, because clients can invent any number of
metrics."""
_REQUEST: Final = itemgetter(0, 1, 2)  # unit, time and request id, the first columns of both statements
_ORDER: Final = "ORDER BY unit, time, request_id"
NO_TEXT: Final = "their texts were not logged"
UNREADABLE: Final = "their texts cannot be read (cut at 64 KiB, images, tools, or several choices)"
FAILED: Final = "they failed or broke off"


@dataclass(frozen=True, slots=True)
class StoreQuery:
    """What is read from a store.

    Attributes:
        experiment: Only the exposures of this experiment; empty for all.
        since: Only requests from this time on, Unix seconds.
        metric: The metric by which answers are liked or disliked.
        at_least: An answer with at least this value is liked.
        at_most: An answer with at most this value is disliked.
    """

    experiment: str = ""
    since: float = 0.0
    metric: str = "thumbs_up"
    at_least: float = 1.0
    at_most: float = 0.0

    def rating(self, value: float) -> Rating:
        """Return whether a value of the metric means that the answer was liked or disliked."""
        return Rating(value >= self.at_least, value <= self.at_most)


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """The feedback of one metric in a store.

    Attributes:
        name: The name of the metric.
        ratings: How many values there are.
        comments: How many comments there are.
        lowest: The lowest value; None if there is none.
        highest: The highest value; None if there is none.
    """

    name: str
    ratings: int
    comments: int
    lowest: float | None
    highest: float | None


@dataclass(slots=True)
class ReadCounts:
    """What a store holds, counted while it is read.

    Attributes:
        requests: Number of requests.
        with_text: Number of requests whose texts could be read.
        rated: Number of requests with a rating by the metric.
        commented: Number of requests with a comment.
        judged: Number of requests with a verdict of the shadow judge.
        unused: Number of requests that were not used, by reason.
    """

    requests: int
    with_text: int
    rated: int
    commented: int
    judged: int
    unused: Counter[str]

    @classmethod
    def none(cls) -> "ReadCounts":
        """Return counts that are all 0."""
        return cls(0, 0, 0, 0, 0, Counter())


def check_store(session: ReadSession) -> None:
    """Raise DataError if the place holds no store, or a store of another format."""
    if any(not session.columns(table) for table in ("about", *_TABLES)):
        raise DataError("--store: this place contains no store of drpo-proxy. Give the value of --store of drpo-proxy.")
    found = next(iter(session.rows("SELECT value FROM about WHERE name = 'format'")), (b"",))
    if not isinstance(found[0], bytes | memoryview) or bytes(found[0]) != FORMAT:
        raise DataError("--store: the store has a format that this version does not read. Use its version")


def metric_summaries(session: ReadSession) -> Sequence[MetricSummary]:
    """Return the metrics for which a store has feedback, the one with the most ratings first."""
    statement = """SELECT metric, COUNT(value), COUNT(comment), MIN(value), MAX(value) FROM feedback
        GROUP BY metric ORDER BY COUNT(value) DESC, metric"""
    return [MetricSummary(*row) for row in session.rows(statement)]


def count_exposures(session: ReadSession, query: StoreQuery) -> int:
    """Return how many exposures the query reads."""
    (row,) = session.rows(f"SELECT COUNT(*) FROM exposures AS e {_where(query)}", _values(query))  # noqa: S608
    return int(row[0])


def read_exchanges(session: ReadSession, query: StoreQuery, counts: ReadCounts) -> Iterator[Exchange | None]:
    """Yield the requests of a store in the order of units and times. A request that cannot be used gives None.

    A request of several experiments is yielded once.

    Args:
        session: A connection to the store.
        query: What is read.
        counts: What was read is added to these counts.
    """
    other = "j.other_reply" if "other_reply" in session.columns("judgements") else "NULL"
    feedback = _FeedbackReader(session, query)
    for request, rows in groupby(session.rows(exchanges_statement(query, other), _values(query)), key=_REQUEST):
        yield _exchange(rows, feedback.given_to(request), query, counts)


def exchanges_statement(query: StoreQuery, other: str = "NULL") -> str:
    """Return the SELECT statement of the requests. `other` is the expression for the other arm's reply.

    The rows come in the order of the index of units, so that SQLite need not sort the texts of all rows.
    """
    return f"""
        SELECT e.unit AS unit, e.time AS time, e.request_id AS request_id, e.error, e.truncated, e.client_gone,
               c.asked, c.answered, j.score, {other}, e.asked IS NOT NULL
        FROM exposures AS e
        LEFT JOIN contents AS c ON c.exposure = e.id
        LEFT JOIN judgements AS j ON j.exposure = e.id
        {_where(query)} {_ORDER}"""  # noqa: S608


def feedback_statement(query: StoreQuery) -> str:
    """Return the SELECT statement of the feedback on the requests, in the order of `exchanges_statement`.

    Its parameters are the values of the query (`_values`), twice. The statement is separate from that of the texts,
    because a join of both would repeat the texts for each feedback. Feedback names a request by one of two ids. Each
    half of the statement reads the feedback under one id, so there is one row for each value.
    """
    parts = (
        f"""SELECT e.unit AS unit, e.time AS time, e.request_id AS request_id, f.metric, f.value, f.comment,
               f.time AS given
        FROM exposures AS e JOIN feedback AS f ON f.subject = e.{named} {_where(query)}{once}"""  # noqa: S608
        for named, once in (("request_id", ""), ("completion_id", " AND e.completion_id <> e.request_id"))
    )
    return f"{' UNION ALL '.join(parts)} {_ORDER}"


def _where(query: StoreQuery) -> str:
    """Return the WHERE clause. The `|| ''` in it keeps SQLite from using the index of experiments."""
    return "WHERE e.time >= ?" + (" AND e.experiment || '' = ?" if query.experiment else "")


def _values(query: StoreQuery) -> tuple[Any, ...]:
    return (query.since, query.experiment) if query.experiment else (query.since,)


@dataclass(slots=True)
class _Found:
    """The content of the rows of one request. The rows themselves are not kept, because each row repeats the texts."""

    asked: str | None = None
    answered: str | None = None
    verdict: JudgeComparison | None = None

    def add(self, row: Sequence[Any]) -> None:
        """Add what a row contains and the earlier rows did not."""
        if self.asked is None:
            self.asked, self.answered = row[6], row[7]
        if self.verdict is None and isinstance(row[8], int | float):
            self.verdict = JudgeComparison(row[8], row[9])


_Given = dict[tuple[str, float], tuple[Any, str | None]]
"""Values and comments by metric and time."""


class _FeedbackReader:
    """Reads the feedback on requests, which must be asked for in the order of units and times."""

    def __init__(self, session: ReadSession, query: StoreQuery) -> None:
        rows = session.rows(feedback_statement(query), (*_values(query), *_values(query)))
        self._metric = query.metric
        self._requests = groupby(rows, key=_REQUEST)
        self._next = next(self._requests, None)

    def given_to(self, request: tuple[Any, ...]) -> _Given:
        """Return the feedback on a request. If there is too much, only the wanted metric and the first values count."""
        given: _Given = {}
        if self._next is None or self._next[0] != request:
            return given
        for *_, metric, value, comment, time in self._next[1]:
            if metric == self._metric or len(given) < _MAX_FEEDBACK:
                given[metric, time] = value, comment
        self._next = next(self._requests, None)
        return given


def _exchange(rows: Iterator[Sequence[Any]], given: _Given, query: StoreQuery, counts: ReadCounts) -> Exchange | None:
    """Combine the rows of one request, one for each of its experiments, with its feedback."""
    found, first = _Found(), next(rows)
    unit, time, _, error, truncated, gone, *_, knows_person = first
    for row in chain((first,), rows):
        found.add(row)
    asked, answered, verdict = found.asked, found.answered, found.verdict
    rating, comments = _feedback(given, query)
    counts.requests += 1
    counts.rated += rating is not None
    counts.commented += bool(comments)
    counts.judged += verdict is not None
    if error or truncated or gone:
        counts.unused[FAILED] += 1
        return None
    if asked is None:
        counts.unused[NO_TEXT] += 1
        return None
    turns, answer = request_turns(asked), reply_text(answered or "")
    if turns is None or answer is None:
        counts.unused[UNREADABLE] += 1
        return None
    counts.with_text += 1
    return Exchange(bytes(unit), time, turns, answer, rating, comments, verdict, bool(knows_person))


def _feedback(given: _Given, query: StoreQuery) -> tuple[Rating | None, tuple[str, ...]]:
    """Return the latest rating by the metric, and all comments, of any metric."""
    ordered = sorted(given.items(), key=lambda one: (one[0][1], one[0][0]))
    values = [value for (metric, _), (value, _) in ordered if metric == query.metric and isinstance(value, int | float)]
    comments = tuple(dict.fromkeys(comment for _, (_, comment) in ordered if comment))
    return query.rating(values[-1]) if values else None, comments
