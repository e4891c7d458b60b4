"""The store's tables and queries, in the SQL that SQLite and PostgreSQL share. Text only; knows no connection.

Placeholders are `?`; `{real}` and `{bytes}` stand for the two types that the databases call differently. Feedback names
its request by a text and no foreign key, since it may be there before the exposure is.
"""

from typing import Final

FORMAT: Final = "1"

SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value {bytes} NOT NULL)",
    """CREATE TABLE IF NOT EXISTS exposures (
        id {bytes} PRIMARY KEY, experiment TEXT NOT NULL, arm TEXT NOT NULL, propensity {real} NOT NULL,
        override SMALLINT NOT NULL, unit {bytes} NOT NULL, request_id TEXT NOT NULL, completion_id TEXT,
        time {real} NOT NULL, model TEXT NOT NULL, variant TEXT NOT NULL, bundle TEXT, asked {bytes},
        latency {real}, time_to_first_token {real}, prompt_tokens INTEGER, completion_tokens INTEGER,
        ended_by_itself SMALLINT, truncated SMALLINT NOT NULL, error SMALLINT NOT NULL,
        client_gone SMALLINT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS exposures_by_unit ON exposures (unit, time)",
    "CREATE INDEX IF NOT EXISTS exposures_by_experiment ON exposures (experiment, time)",
    "CREATE INDEX IF NOT EXISTS exposures_by_time ON exposures (time)",
    """CREATE TABLE IF NOT EXISTS feedback (
        subject TEXT NOT NULL, metric TEXT NOT NULL, value {real}, comment TEXT, time {real} NOT NULL,
        PRIMARY KEY (subject, metric))""",
    "CREATE INDEX IF NOT EXISTS feedback_by_time ON feedback (time)",
    """CREATE TABLE IF NOT EXISTS judgements (
        exposure {bytes} PRIMARY KEY, other TEXT NOT NULL, score {real} NOT NULL, judge TEXT NOT NULL,
        time {real} NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS contents (
        exposure {bytes} PRIMARY KEY, asked TEXT NOT NULL, answered TEXT NOT NULL, time {real} NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS steering (
        experiment TEXT PRIMARY KEY, stopped TEXT NOT NULL, weights TEXT, time {real} NOT NULL)""",
)

EXPOSURE_COLUMNS: Final = (
    *("id", "experiment", "arm", "propensity", "override", "unit", "request_id", "completion_id", "time", "model"),
    *("variant", "bundle", "asked", "latency", "time_to_first_token", "prompt_tokens", "completion_tokens"),
    *("ended_by_itself", "truncated", "error", "client_gone"),
)
_PLACES: Final = ", ".join("?" * len(EXPOSURE_COLUMNS))

INSERT_ABOUT: Final = "INSERT INTO about (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING"
SELECT_ABOUT: Final = "SELECT value FROM about WHERE name = ?"
INSERT_EXPOSURE: Final = (
    f"INSERT INTO exposures ({', '.join(EXPOSURE_COLUMNS)}) VALUES ({_PLACES}) ON CONFLICT DO NOTHING"  # noqa: S608
)
INSERT_CONTENT: Final = (
    "INSERT INTO contents (exposure, asked, answered, time) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
INSERT_JUDGEMENT: Final = (
    "INSERT INTO judgements (exposure, other, score, judge, time) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
INSERT_FEEDBACK: Final = """
    INSERT INTO feedback (subject, metric, value, comment, time) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (subject, metric) DO UPDATE
    SET value = excluded.value, comment = excluded.comment, time = excluded.time
    WHERE feedback.time <= excluded.time"""
INSERT_STEERING: Final = """
    INSERT INTO steering (experiment, stopped, weights, time) VALUES (?, ?, ?, ?)
    ON CONFLICT (experiment) DO UPDATE
    SET stopped = excluded.stopped, weights = excluded.weights, time = excluded.time"""
SELECT_STEERING: Final = "SELECT experiment, stopped, weights, time FROM steering"
DELETE_STEERING: Final = "DELETE FROM steering WHERE experiment = ?"

METRIC_COLUMNS: Final = (
    *("latency", "time_to_first_token", "prompt_tokens", "completion_tokens", "ended_by_itself", "truncated", "error"),
    *("client_gone", "regenerated"),
)
_SUMS: Final = ", ".join(f"SUM({name}), COUNT({name})" for name in METRIC_COLUMNS)

# The arm of a unit is the one in which it was first seen; overrides, and what was before the start, assign none.
_MEMBERS: Final = """
    ranked AS (
        SELECT unit, arm, propensity, time,
               ROW_NUMBER() OVER (PARTITION BY unit ORDER BY time, id) AS place
        FROM exposures WHERE experiment = ? AND arm <> '' AND override = 0),
    members AS (SELECT unit, arm, propensity, time AS first_seen FROM ranked WHERE place = 1)"""

# A member's requests: those that its arm served, and (is_history = 1) those from before the first of them. One whose
# conversation the unit asked again later was regenerated.
_REQUESTS: Final = f"""{_MEMBERS},
    requests AS (
        SELECT e.id, e.request_id, e.completion_id, e.unit, m.first_seen, m.arm AS unit_arm, m.propensity AS share,
               e.latency, e.time_to_first_token, e.prompt_tokens, e.completion_tokens, e.ended_by_itself,
               e.truncated, e.error, e.client_gone,
               CASE WHEN e.time < m.first_seen THEN 1 ELSE 0 END AS is_history,
               CASE WHEN e.error = 1 OR e.asked IS NULL THEN NULL
                    WHEN LEAD(e.id) OVER (PARTITION BY e.experiment, e.unit, e.asked ORDER BY e.time, e.id) IS NULL
                    THEN 0 ELSE 1 END AS regenerated
        FROM members AS m JOIN exposures AS e ON e.unit = m.unit
        WHERE e.time < m.first_seen OR (e.experiment = ? AND e.arm = m.arm AND e.override = 0))"""  # noqa: S608

# Two placeholders, both the experiment's name; ordered so that it can be merged with the next query.
SELECT_UNITS: Final = f"""WITH {_REQUESTS}
    SELECT first_seen, unit, is_history, unit_arm, share, {_SUMS} FROM requests
    GROUP BY first_seen, unit, is_history, unit_arm, share ORDER BY first_seen, unit, is_history"""  # noqa: S608

# Feedback may name a request by either id, and both ways for one metric: the last word counts.
SELECT_SAID: Final = f"""WITH {_REQUESTS},
    named AS (
        SELECT r.id, r.first_seen, r.unit, r.is_history, f.metric, f.value, f.time
        FROM requests AS r JOIN feedback AS f ON f.subject = r.request_id
        UNION ALL
        SELECT r.id, r.first_seen, r.unit, r.is_history, f.metric, f.value, f.time
        FROM requests AS r JOIN feedback AS f ON f.subject = r.completion_id
        WHERE r.completion_id <> r.request_id
        UNION ALL
        SELECT r.id, r.first_seen, r.unit, r.is_history, 'judged_better', j.score, j.time
        FROM requests AS r JOIN judgements AS j ON j.exposure = r.id),
    said AS (
        SELECT first_seen, unit, is_history, metric, value,
               ROW_NUMBER() OVER (PARTITION BY id, metric ORDER BY time DESC) AS place
        FROM named WHERE value IS NOT NULL)
    SELECT first_seen, unit, is_history, metric, SUM(value), COUNT(value) FROM said WHERE place = 1
    GROUP BY first_seen, unit, is_history, metric ORDER BY first_seen, unit, is_history, metric"""  # noqa: S608

SELECT_EXPOSED: Final = f"WITH {_MEMBERS} SELECT arm, COUNT(*) FROM members GROUP BY arm ORDER BY arm"  # noqa: S608

SELECT_JUDGED: Final = f"""WITH {_REQUESTS}
    SELECT r.first_seen, r.unit, r.unit_arm, j.other, SUM(j.score), COUNT(*)
    FROM requests AS r JOIN judgements AS j ON j.exposure = r.id WHERE r.is_history = 0
    GROUP BY r.first_seen, r.unit, r.unit_arm, j.other ORDER BY r.first_seen, r.unit, j.other"""  # noqa: S608

# Export: one row for each exposure, its content where there is one, and what was said of it.
SELECT_EXPORT: Final = f"""
    SELECT {", ".join(f"e.{name}" for name in EXPOSURE_COLUMNS)}, c.asked, c.answered
    FROM exposures AS e LEFT JOIN contents AS c ON c.exposure = e.id
    WHERE e.experiment = ? ORDER BY e.time, e.id"""  # noqa: S608
SELECT_FEEDBACK_OF: Final = """
    SELECT f.subject, f.metric, f.value, f.comment, f.time FROM feedback AS f WHERE f.subject IN (
        SELECT request_id FROM exposures WHERE experiment = ? UNION
        SELECT completion_id FROM exposures WHERE experiment = ?)
    ORDER BY f.time, f.subject, f.metric"""
SELECT_JUDGEMENTS_OF: Final = """
    SELECT j.exposure, j.other, j.score, j.judge, j.time FROM judgements AS j
    JOIN exposures AS e ON e.id = j.exposure WHERE e.experiment = ? ORDER BY j.time, j.exposure"""

# All of one unit, in every experiment; what hangs on its exposures first.
DELETE_UNIT: Final = (
    """DELETE FROM feedback WHERE subject IN (SELECT request_id FROM exposures WHERE unit = ?
       UNION SELECT completion_id FROM exposures WHERE unit = ?)""",
    "DELETE FROM judgements WHERE exposure IN (SELECT id FROM exposures WHERE unit = ?)",
    "DELETE FROM contents WHERE exposure IN (SELECT id FROM exposures WHERE unit = ?)",
    "DELETE FROM exposures WHERE unit = ?",
)
# Retention, a few thousand rows at a time, so that nobody waits long for the tables.
_AT_ONCE: Final = 5_000
DELETE_OLD: Final = tuple(
    f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE time < ? ORDER BY time LIMIT {_AT_ONCE})"  # noqa: S608
    for table, key in (
        ("feedback", "subject, metric"),
        ("judgements", "exposure"),
        ("contents", "exposure"),
        ("exposures", "id"),
    )
)
