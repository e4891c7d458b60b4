"""Defines the tables and queries of the store, in SQL that both SQLite and PostgreSQL accept.

This module does not depend on a connection. A `?` stands for a value that is passed with the query. `{real}` and
`{bytes}` stand for the two types that have different names in the two databases. The table of feedback has no foreign
key to exposures, since feedback may be written before the exposure of its request.
"""

from collections.abc import Collection
from typing import Final

from proxy.experiments.automatic_metrics import AUTOMATIC_METRICS, JUDGED_BETTER, MAX_VALUE
from proxy.experiments.definition import MIN_PROPENSITY
from proxy.experiments.records import NO_EXPERIMENT

FORMAT: Final = "1"  # the version of the tables, which is saved in the store
EXPOSURES: Final = "exposures"
JUDGEMENTS: Final = "judgements"
_OTHER_REPLY: Final = "other_reply"
_EXAMPLE_SET: Final = "example_set"

_METRICS_WITH_COLUMN: Final = tuple(metric for metric in AUTOMATIC_METRICS.values() if metric.column)
_METRIC_COLUMNS: Final = ", ".join(f"{metric.name} {metric.column}" for metric in _METRICS_WITH_COLUMN)

SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value {bytes} NOT NULL)",
    f"""CREATE TABLE IF NOT EXISTS exposures (
        id {{bytes}} PRIMARY KEY, experiment TEXT NOT NULL, arm TEXT NOT NULL, propensity {{real}} NOT NULL,
        override SMALLINT NOT NULL, unit {{bytes}} NOT NULL, request_id TEXT NOT NULL, completion_id TEXT,
        time {{real}} NOT NULL, model TEXT NOT NULL, variant TEXT NOT NULL, bundle TEXT, asked {{bytes}},
        {_METRIC_COLUMNS}, {_EXAMPLE_SET} TEXT)""",
    "CREATE INDEX IF NOT EXISTS exposures_by_unit ON exposures (unit, time)",
    "CREATE INDEX IF NOT EXISTS exposures_by_experiment ON exposures (experiment, time)",
    "CREATE INDEX IF NOT EXISTS exposures_by_time ON exposures (time)",
    "CREATE INDEX IF NOT EXISTS exposures_by_request ON exposures (request_id)",
    "CREATE INDEX IF NOT EXISTS exposures_by_completion ON exposures (completion_id)",
    """CREATE TABLE IF NOT EXISTS feedback (
        subject TEXT NOT NULL, metric TEXT NOT NULL, value {real}, comment TEXT, time {real} NOT NULL,
        PRIMARY KEY (subject, metric))""",
    "CREATE INDEX IF NOT EXISTS feedback_by_time ON feedback (time)",
    """CREATE TABLE IF NOT EXISTS judgements (
        exposure {bytes} PRIMARY KEY, other TEXT NOT NULL, score {real} NOT NULL, judge TEXT NOT NULL,
        time {real} NOT NULL, other_reply TEXT)""",
    """CREATE TABLE IF NOT EXISTS contents (
        exposure {bytes} PRIMARY KEY, asked TEXT NOT NULL, answered TEXT NOT NULL, time {real} NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS steering (
        experiment TEXT PRIMARY KEY, stopped TEXT NOT NULL, weights TEXT, time {real} NOT NULL)""",
)

EXPOSURE_COLUMNS: Final = (
    *("id", "experiment", "arm", "propensity", "override", "unit", "request_id", "completion_id", "time", "model"),
    *("variant", "bundle", "asked", *(metric.name for metric in _METRICS_WITH_COLUMN), _EXAMPLE_SET),
)


def add_missing_columns(exposures: Collection[str], judgements: Collection[str]) -> list[str]:
    """Return statements that add missing columns to the tables of exposures and of judgements.

    A table that an earlier version created lacks the columns that were added later.

    Args:
        exposures: The names of the columns that the table of exposures already has.
        judgements: The names of the columns that the table of judgements already has.
    """
    other_reply = [] if _OTHER_REPLY in judgements else [f"ALTER TABLE {JUDGEMENTS} ADD COLUMN {_OTHER_REPLY} TEXT"]
    example_set = [] if _EXAMPLE_SET in exposures else [f"ALTER TABLE {EXPOSURES} ADD COLUMN {_EXAMPLE_SET} TEXT"]
    return [*other_reply, *example_set] + [
        f"ALTER TABLE {EXPOSURES} ADD COLUMN {metric.name} {metric.column}"
        for metric in _METRICS_WITH_COLUMN
        if metric.name not in exposures
    ]


_PLACEHOLDERS: Final = ", ".join("?" * len(EXPOSURE_COLUMNS))

INSERT_ABOUT: Final = "INSERT INTO about (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING"
SELECT_ABOUT: Final = "SELECT value FROM about WHERE name = ?"
INSERT_EXPOSURE: Final = (
    f"INSERT INTO exposures ({', '.join(EXPOSURE_COLUMNS)}) VALUES ({_PLACEHOLDERS}) ON CONFLICT DO NOTHING"  # noqa: S608
)


def select_recorded(count: int) -> str:
    """Return the query of those of `count` ids that are the request id or the completion id of an exposure."""
    ids = ", ".join("?" * count)
    return (
        f"SELECT request_id FROM exposures WHERE request_id IN ({ids}) "  # noqa: S608
        f"UNION SELECT completion_id FROM exposures WHERE completion_id IN ({ids})"
    )


INSERT_CONTENT: Final = (
    "INSERT INTO contents (exposure, asked, answered, time) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
INSERT_JUDGEMENT: Final = (
    "INSERT INTO judgements (exposure, other, score, judge, time, other_reply) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO NOTHING"
)
INSERT_FEEDBACK: Final = """
    INSERT INTO feedback (subject, metric, value, comment, time) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (subject, metric) DO UPDATE
    SET value = excluded.value, comment = excluded.comment, time = excluded.time
    WHERE feedback.time <= excluded.time"""
INSERT_ALLOCATION: Final = """
    INSERT INTO steering (experiment, stopped, weights, time) VALUES (?, ?, ?, ?)
    ON CONFLICT (experiment) DO UPDATE
    SET stopped = excluded.stopped, weights = excluded.weights, time = excluded.time"""
SELECT_ALLOCATIONS: Final = "SELECT experiment, stopped, weights, time FROM steering"
DELETE_ALLOCATION: Final = "DELETE FROM steering WHERE experiment = ?"

MEASURED_METRICS: Final = tuple(
    metric.name for metric in AUTOMATIC_METRICS.values() if metric.column or metric.expression
)
"""The names of the automatic metrics whose values come from the table of exposures."""

# The statistics leave out values that cannot be right, since a single such value could make every sum overflow. The
# proxy stores no such values, but an earlier version or another program may have stored them. SQLite also stores texts
# in columns of numbers.
_MAX_TIME: Final = 1e11  # Unix seconds
_IS_POSSIBLE: Final = (
    f"(e.propensity BETWEEN {MIN_PROPENSITY} AND 1 AND e.time BETWEEN -{_MAX_TIME:.0f} AND {_MAX_TIME:.0f})"
)
_IS_RATING: Final = f"BETWEEN -{MAX_VALUE:.0f} AND {MAX_VALUE:.0f}"
_IS_SCORE: Final = f"BETWEEN 0 AND {AUTOMATIC_METRICS[JUDGED_BETTER].maximum:.0f}"
_MEASUREMENTS: Final = ",\n".join(
    metric.expression + f" AS {metric.name}"
    if metric.expression
    else f"CASE WHEN e.{metric.name} BETWEEN 0 AND {metric.maximum:.0f} THEN e.{metric.name} END AS {metric.name}"
    for metric in AUTOMATIC_METRICS.values()
    if metric.name in MEASURED_METRICS
)
_SUMS: Final = ", ".join(f"SUM({name}), COUNT({name})" for name in MEASURED_METRICS)

# The common table expression `members` has one row for each unit of the experiment: the arm, the propensity and the
# time of the unit's first request in the experiment. Requests in which the client named a variant (override), and
# requests before the experiment's start, do not count as the first request.
_MEMBERS: Final = f"""
    ranked AS (
        SELECT unit, arm, propensity, time,
               ROW_NUMBER() OVER (PARTITION BY unit ORDER BY time, id) AS ordinal
        FROM exposures AS e WHERE experiment = ? AND arm <> '' AND override = 0 AND {_IS_POSSIBLE}),
    members AS (SELECT unit, arm, propensity, time AS first_seen FROM ranked WHERE ordinal = 1)"""  # noqa: S608

# The common table expression `requests` contains, for each unit in `members`, the requests in the experiment that the
# unit's arm served (is_history = 0), and the requests before `first_seen` in any experiment (is_history = 1).
_REQUESTS: Final = f"""{_MEMBERS},
    requests AS (
        SELECT e.id, e.request_id, e.completion_id, e.unit, m.first_seen, m.arm AS unit_arm, m.propensity AS share,
               {_MEASUREMENTS},
               CASE WHEN e.time < m.first_seen THEN 1 ELSE 0 END AS is_history
        FROM members AS m JOIN exposures AS e ON e.unit = m.unit
        WHERE {_IS_POSSIBLE}
          AND (e.time < m.first_seen OR (e.experiment = ? AND e.arm = m.arm AND e.override = 0)))"""  # noqa: S608

# Each `?` stands for the experiment's name. This query and SELECT_RATING_SUMS return units in the same
# order, so that `stored_outcomes` can merge their rows.
SELECT_MEASUREMENT_SUMS: Final = f"""WITH {_REQUESTS}
    SELECT first_seen, unit, is_history, unit_arm, share, {_SUMS} FROM requests
    GROUP BY first_seen, unit, is_history, unit_arm, share ORDER BY first_seen, unit, is_history"""  # noqa: S608

# Feedback may name a request by its request id or its completion id. If a request has feedback on one metric under both
# ids, the later feedback counts. Judgements are values of the metric JUDGED_BETTER.
SELECT_RATING_SUMS: Final = f"""WITH {_REQUESTS},
    named AS (
        SELECT r.id, r.first_seen, r.unit, r.is_history, f.metric, f.value, f.time
        FROM requests AS r JOIN feedback AS f ON f.subject = r.request_id
        UNION ALL
        SELECT r.id, r.first_seen, r.unit, r.is_history, f.metric, f.value, f.time
        FROM requests AS r JOIN feedback AS f ON f.subject = r.completion_id
        WHERE r.completion_id <> r.request_id
        UNION ALL
        SELECT r.id, r.first_seen, r.unit, r.is_history, '{JUDGED_BETTER}', j.score, j.time
        FROM requests AS r JOIN judgements AS j ON j.exposure = r.id WHERE j.score {_IS_SCORE}),
    latest AS (
        SELECT first_seen, unit, is_history, metric, value,
               ROW_NUMBER() OVER (PARTITION BY id, metric ORDER BY time DESC) AS ordinal
        FROM named WHERE value {_IS_RATING})
    SELECT first_seen, unit, is_history, metric, SUM(value), COUNT(value) FROM latest WHERE ordinal = 1
    GROUP BY first_seen, unit, is_history, metric ORDER BY first_seen, unit, is_history, metric"""  # noqa: S608

SELECT_UNITS_BY_ARM: Final = f"WITH {_MEMBERS} SELECT arm, COUNT(*) FROM members GROUP BY arm ORDER BY arm"  # noqa: S608

# The queries COUNT_IMPOSSIBLE_EXPOSURES and COUNT_IMPOSSIBLE_RATINGS count the rows of an experiment that the
# statistics leave out. Each `?` stands for the experiment's name.
BOUNDED_METRICS: Final = tuple(metric.name for metric in _METRICS_WITH_COLUMN)
_IMPOSSIBLE_COUNTS: Final = ", ".join(
    f"SUM(CASE WHEN e.{metric.name} IS NULL OR e.{metric.name} BETWEEN 0 AND {metric.maximum:.0f} THEN 0 ELSE 1 END)"
    for metric in _METRICS_WITH_COLUMN
)
COUNT_IMPOSSIBLE_EXPOSURES: Final = f"""
    SELECT SUM(CASE WHEN {_IS_POSSIBLE} THEN 0 ELSE 1 END), {_IMPOSSIBLE_COUNTS}
    FROM exposures AS e WHERE e.experiment = ?"""  # noqa: S608
COUNT_IMPOSSIBLE_RATINGS: Final = f"""
    SELECT f.metric, COUNT(*) FROM feedback AS f
    WHERE f.value IS NOT NULL AND NOT f.value {_IS_RATING} AND f.subject IN (
        SELECT request_id FROM exposures WHERE experiment = ? UNION
        SELECT completion_id FROM exposures WHERE experiment = ?)
    GROUP BY f.metric
    UNION ALL
    SELECT '{JUDGED_BETTER}', COUNT(*) FROM judgements AS j JOIN exposures AS e ON e.id = j.exposure
    WHERE e.experiment = ? AND NOT j.score {_IS_SCORE}"""  # noqa: S608


# The queries of the export. Each `?` stands for the experiment's name.
def select_exported_exposures(existing: Collection[str]) -> str:
    """Return the query of an experiment's exposures, with NULL for each column that the table does not have.

    A table that an earlier version created lacks the columns of metrics that were added later. The export does not add
    them, because it only reads. `existing` contains the names of the columns that the table has.
    """
    columns = ", ".join(f"e.{name}" if name in existing else "NULL" for name in EXPOSURE_COLUMNS)
    return f"""
        SELECT {columns}, c.asked, c.answered
        FROM exposures AS e LEFT JOIN contents AS c ON c.exposure = e.id
        WHERE e.experiment = ? ORDER BY e.time, e.id"""  # noqa: S608


SELECT_EXPORTED_FEEDBACK: Final = """
    SELECT f.subject, f.metric, f.value, f.comment, f.time FROM feedback AS f WHERE f.subject IN (
        SELECT request_id FROM exposures WHERE experiment = ? UNION
        SELECT completion_id FROM exposures WHERE experiment = ?)
    ORDER BY f.time, f.subject, f.metric"""


def select_exported_judgements(existing: Collection[str]) -> str:
    """Return the query of an experiment's judgements. `existing` has the names of the columns that the table has."""
    other_reply = f"j.{_OTHER_REPLY}" if _OTHER_REPLY in existing else "NULL"
    return f"""
        SELECT j.exposure, j.other, j.score, j.judge, j.time, {other_reply} FROM judgements AS j
        JOIN exposures AS e ON e.id = j.exposure WHERE e.experiment = ? ORDER BY j.time, j.exposure"""  # noqa: S608


# The statements delete all rows of one unit, in all experiments. Exposures are deleted last, because the statements for
# the other tables find their rows through the exposures of the unit.
DELETE_UNIT: Final = (
    """DELETE FROM feedback WHERE subject IN (SELECT request_id FROM exposures WHERE unit = ?
       UNION SELECT completion_id FROM exposures WHERE unit = ?)""",
    "DELETE FROM judgements WHERE exposure IN (SELECT id FROM exposures WHERE unit = ?)",
    "DELETE FROM contents WHERE exposure IN (SELECT id FROM exposures WHERE unit = ?)",
    "DELETE FROM exposures WHERE unit = ?",
)
# Each statement deletes a limited number of rows, so that other connections do not wait long for the tables.
_MAX_ROWS: Final = 5_000
DELETE_OLD: Final = tuple(
    f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE time < ? ORDER BY time LIMIT {_MAX_ROWS})"  # noqa: S608
    for table, key in (
        ("feedback", "subject, metric"),
        ("judgements", "exposure"),
        ("contents", "exposure"),
        ("exposures", "id"),
    )
)

# The surplus is all requests in no experiment except the latest ones, which are kept. SELECT_SURPLUS gives the time of
# the newest request of the surplus. The exposures are deleted last, because the other statements find their rows
# through the exposures.
SELECT_SURPLUS: Final = (
    f"SELECT time FROM exposures WHERE experiment = '{NO_EXPERIMENT}' ORDER BY time DESC LIMIT 1 OFFSET ?"  # noqa: S608
)
_SURPLUS: Final = (
    f"FROM exposures WHERE experiment = '{NO_EXPERIMENT}' AND time <= ? ORDER BY time, id LIMIT {_MAX_ROWS}"
)
DELETE_SURPLUS: Final = (
    f"DELETE FROM feedback WHERE subject IN (SELECT request_id {_SURPLUS})",  # noqa: S608
    f"DELETE FROM feedback WHERE subject IN (SELECT completion_id {_SURPLUS})",  # noqa: S608
    f"DELETE FROM judgements WHERE exposure IN (SELECT id {_SURPLUS})",  # noqa: S608
    f"DELETE FROM contents WHERE exposure IN (SELECT id {_SURPLUS})",  # noqa: S608
    f"DELETE FROM exposures WHERE id IN (SELECT id {_SURPLUS})",  # noqa: S608
)
