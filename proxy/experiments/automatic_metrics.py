"""Lists the automatic metrics, which the proxy or the shadow judge measures. They need no feedback.

The parsers of experiment files and of feedback use this list, and so does the store. This module depends on none of
them.

To add a metric that SQL can compute from existing columns of the table of exposures, add one entry here. To add a
metric that needs a new column, also add a field with the default None to `records.Exposure`, and set this field in the
module `service`. The store adds the column to an existing table automatically.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from proxy.experiments.definition import Better

MetricUnit = Literal["share", "seconds", "tokens", ""]
"""The unit of a metric's values. share: the fraction of requests for which something is true. Empty: unknown."""


@dataclass(frozen=True, slots=True)
class AutomaticMetric:
    """A metric that the proxy or the shadow judge measures.

    Attributes:
        name: The metric's name in experiment files, in reports and in the store.
        better: Whether higher or lower values of the metric are better.
        column: SQL type of the metric's column in the table of exposures. Empty if the metric has no column. A new
            column must allow NULL, since rows that an earlier version wrote have no value in it.
        expression: SQL expression that computes the metric from a row `e` of the table of exposures. Empty if the
            metric's column holds the value, or if the value is in the table of judgements.
        unit: The unit of the metric's values.
    """

    name: str
    better: Better
    column: str = ""
    expression: str = ""
    unit: MetricUnit = "share"

    @property
    def maximum(self) -> float:
        """The largest value that a row can have. The smallest is 0. Values outside this range are left out."""
        return 1.0 if self.is_flag or self.name == JUDGED_BETTER else MAX_VALUE

    @property
    def is_flag(self) -> bool:
        """Whether the metric's column holds a boolean, stored as 0 or 1."""
        return self.column.startswith("SMALLINT")


def plain_name(metric: str) -> str:
    """Return the name of a metric in the form in which similar spellings are equal: thumbsup for "Thumbs-Up"."""
    return re.sub(r"[_.-]", "", metric).lower()


MAX_VALUE: Final = 1e9
"""The largest magnitude of a metric's value. A larger value is refused in feedback, and left out if it is stored.

The statistics add up squares of values. Without a limit, the sums could overflow, and a single value could decide every
mean.
"""
JUDGED_BETTER: Final = "judged_better"
"""The name of the shadow judge's metric, whose values are in the table of judgements."""

# The value of a request is 1 if its unit sends the same conversation again later, else 0. A request has no value if it
# failed or if the digest of its conversation is missing.
_REGENERATED: Final = """
    CASE WHEN e.error = 1 OR e.asked IS NULL THEN NULL
         WHEN LEAD(e.id) OVER (PARTITION BY e.experiment, e.unit, e.asked ORDER BY e.time, e.id) IS NULL
         THEN 0 ELSE 1 END"""

AUTOMATIC_METRICS: Final[Mapping[str, AutomaticMetric]] = {
    metric.name: metric
    for metric in (
        AutomaticMetric("latency", "lower", "{real}", unit="seconds"),
        AutomaticMetric("time_to_first_token", "lower", "{real}", unit="seconds"),
        AutomaticMetric("prompt_tokens", "lower", "INTEGER", unit="tokens"),
        AutomaticMetric("completion_tokens", "lower", "INTEGER", unit="tokens"),
        AutomaticMetric("ended_by_itself", "higher", "SMALLINT"),
        AutomaticMetric("truncated", "lower", "SMALLINT NOT NULL"),
        AutomaticMetric("error", "lower", "SMALLINT NOT NULL"),
        AutomaticMetric("client_gone", "lower", "SMALLINT NOT NULL"),
        AutomaticMetric("regenerated", "lower", expression=_REGENERATED),
        AutomaticMetric(JUDGED_BETTER, "higher"),
    )
}
"""The automatic metrics by name. In a column's type, `{real}` stands for the floating-point type of the database."""


def unit_of(metric: str, *, is_share: bool) -> MetricUnit:
    """Return the unit of a metric. `is_share` says whether all values that clients sent are true (1) or false (0)."""
    if metric in AUTOMATIC_METRICS:
        return AUTOMATIC_METRICS[metric].unit
    return "share" if is_share else ""
