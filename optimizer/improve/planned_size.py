"""Plans how many users an experiment needs, from the variance of the metric in the store's feedback."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from optimizer.harvest.store.reader import StoreQuery
from optimizer.harvest.store.session import ReadSession

MIN_UNITS, MAX_UNITS = 100, 10**9
"""The limits of `planned_units` in an experiment file."""
MIN_RATERS: Final = 20
"""If fewer users rated, the plan assumes the largest possible variance."""
_BOUNDARY: Final = 2.7845  # standard errors: half-width of the anytime-valid 95 % interval at the planned size
_POWER: Final = 0.8416  # standard errors: the quantile for a power of 80 %


@dataclass(frozen=True, slots=True)
class MetricFeedback:
    """What the feedback of one metric shows, by user: the value of a user is the mean of the user's ratings.

    Attributes:
        users: Number of users who rated.
        mean: Mean over the users; 0 if nobody rated.
        variance: Variance between the users; 0 for fewer than two.
    """

    users: int
    mean: float
    variance: float

    @property
    def as_json(self) -> Mapping[str, Any]:
        """The values in a file."""
        return {"users": self.users, "mean": self.mean, "variance": self.variance}


def read_metric(session: ReadSession, query: StoreQuery) -> MetricFeedback:
    """Compute mean and variance of the metric of a query, over the requests that the query reads."""
    ratings = " UNION ".join(_ratings(column, query) for column in ("request_id", "completion_id"))
    statement = f"""SELECT COUNT(*), AVG(u.mean), AVG(u.mean * u.mean) FROM
        (SELECT r.unit, AVG(r.value) AS mean FROM ({ratings}) AS r GROUP BY r.unit) AS u"""  # noqa: S608
    values = (query.metric, query.since, *([query.experiment] if query.experiment else []))
    ((users, mean, square),) = session.rows(statement, (*values, *values))
    if not users:
        return MetricFeedback(0, 0.0, 0.0)
    spread = max(0.0, float(square) - float(mean) ** 2)
    return MetricFeedback(int(users), float(mean), spread * users / (users - 1) if users > 1 else 0.0)


def is_measured(feedback: MetricFeedback) -> bool:
    """Whether the plan can use the measured variance: enough users rated, and their ratings differ."""
    return feedback.users >= MIN_RATERS and feedback.variance > 0


def planned_variance(feedback: MetricFeedback, query: StoreQuery) -> float:
    """Return the variance to plan with: the measured one, or the largest possible one if too few users rated.

    The variance is largest if half of the metric's values are at each end of its range.
    """
    if is_measured(feedback):
        return feedback.variance
    return ((query.at_least - query.at_most) / 2) ** 2


def planned_units(variance: float, difference: float) -> int:
    """Return the number of users, in both arms together, at which the experiment finds a difference.

    If the true difference of the means is this large, the anytime-valid interval excludes 0 with a probability of 80 %
    at this number of users. The variance of the difference is 4 * variance / users.
    """
    users = 4 * variance * ((_BOUNDARY + _POWER) / difference) ** 2
    return max(MIN_UNITS, min(MAX_UNITS, math.ceil(users)))


def _ratings(column: str, query: StoreQuery) -> str:
    experiment = " AND e.experiment = ?" if query.experiment else ""
    return f"""SELECT e.unit, f.subject, f.value FROM exposures AS e JOIN feedback AS f ON f.subject = e.{column}
        WHERE f.metric = ? AND f.value IS NOT NULL AND e.time >= ?{experiment}"""  # noqa: S608
