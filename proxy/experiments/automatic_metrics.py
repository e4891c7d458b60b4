"""The metrics that are known without feedback, one entry for each.

This module does not depend on the store, on requests or on statistics. They all read this registry.

A metric that SQL can compute from the existing columns needs one entry here and nothing else. A metric that needs a new
column also needs a field in `records.Exposure` with the default None, and its value in `service`. The store adds the
column to its table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from proxy.experiments.definition import Better


@dataclass(frozen=True, slots=True)
class AutomaticMetric:
    """A metric that the proxy or the shadow judge measures.

    Attributes:
        name: The name in experiment files, reports and the store.
        better: Which direction is an improvement.
        column: SQL type of the metric's column in the table of exposures. Empty if the metric has no column. A new
            column must allow NULL, since a store of an earlier version has rows without it.
        expression: SQL that computes the metric from one exposure `e`. Empty if the column holds the value.
    """

    name: str
    better: Better
    column: str = ""
    expression: str = ""

    @property
    def is_flag(self) -> bool:
        """Whether the column holds a truth value as 0 or 1."""
        return self.column.startswith("SMALLINT")


JUDGED_BETTER: Final = "judged_better"
"""The metric of the shadow judge. Its values are in the table of judgements."""

# A request is regenerated if the unit sends the same conversation again later.
_REGENERATED: Final = """
    CASE WHEN e.error = 1 OR e.asked IS NULL THEN NULL
         WHEN LEAD(e.id) OVER (PARTITION BY e.experiment, e.unit, e.asked ORDER BY e.time, e.id) IS NULL
         THEN 0 ELSE 1 END"""

AUTOMATIC_METRICS: Final[Mapping[str, AutomaticMetric]] = {
    metric.name: metric
    for metric in (
        AutomaticMetric("latency", "lower", "{real}"),
        AutomaticMetric("time_to_first_token", "lower", "{real}"),
        AutomaticMetric("prompt_tokens", "lower", "INTEGER"),
        AutomaticMetric("completion_tokens", "lower", "INTEGER"),
        AutomaticMetric("ended_by_itself", "higher", "SMALLINT"),
        AutomaticMetric("truncated", "lower", "SMALLINT NOT NULL"),
        AutomaticMetric("error", "lower", "SMALLINT NOT NULL"),
        AutomaticMetric("client_gone", "lower", "SMALLINT NOT NULL"),
        AutomaticMetric("regenerated", "lower", expression=_REGENERATED),
        AutomaticMetric(JUDGED_BETTER, "higher"),
    )
}
"""By name. `{real}` stands for the floating-point type of the database."""
