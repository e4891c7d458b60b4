"""Tests of what is read from a store that the proxy has written: votes, comments, pairs, and what cannot be used."""

import json
import sqlite3
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from index.types import Message
from optimizer.core.errors import DataError
from optimizer.harvest.collect import OVER_SHARE, Collected, collect, counts_by_source
from optimizer.harvest.exchange import Exchange, Rating
from optimizer.harvest.export_file import read_export
from optimizer.harvest.rated_answers import MAX_CHARACTERS, RatedAnswers
from optimizer.harvest.store.reader import (
    FAILED,
    NO_TEXT,
    UNREADABLE,
    ReadCounts,
    StoreQuery,
    check_store,
    count_exposures,
    exchanges_statement,
    feedback_statement,
    metric_summaries,
    read_exchanges,
)
from optimizer.harvest.store.session import ReadSession, read_session, store_address
from proxy.experiments.store.dsn import StoreDsn, dsn_of
from tests.optimizer.harvest.recorded import Recording, turns


def place_of(dsn: StoreDsn) -> str:
    """Return the value of --store for a DSN of the proxy."""
    if dsn.name.startswith("sqlite:"):
        return dsn.name
    return str(dsn.connect.args[0])  # type: ignore[attr-defined]  # a partial with the URL


def read(dsn: StoreDsn, per_user: int = 50, **query: Any) -> tuple[Collected, ReadCounts]:
    counts = ReadCounts.none()
    with read_session(store_address(place_of(dsn))) as session:
        check_store(session)
        found = collect(read_exchanges(session, StoreQuery(**query), counts), per_user, lambda: None)
    return found, counts


def collected(recording: Recording, dsn: StoreDsn, per_user: int = 50, **query: Any) -> Collected:
    recording.write(dsn)
    return read(dsn, per_user, **query)[0]


def test_votes_of_users_on_equal_answers_are_counted_together(dsn: StoreDsn) -> None:
    recording = Recording()
    for user, vote in (("a", 1.0), ("b", 1.0), ("c", 0.0)):
        recording.add(user, "What is tea?", "A drink.", vote=vote)
    recording.add("d", "What is rum?", "No.", vote=0.0, comment="Rude.")
    recording.add("e", "What is rye?", "A grain.", comment="Where does it grow?")
    found = collected(recording, dsn)
    assert [(one.query, one.likes, one.dislikes) for one in found.liked] == [("What is tea?", 2, 1)]
    assert [(one.query, one.dislikes, one.comments) for one in found.disliked] == [
        ("What is rum?", 1, ("Rude.",)),
        ("What is rye?", 0, ("Where does it grow?",)),
    ]


def test_later_vote_of_a_user_replaces_the_earlier_one(dsn: StoreDsn) -> None:
    recording = Recording()
    recording.add("a", "What is tea?", "A drink.", vote=1.0)
    recording.add("a", "What is tea?", "A drink.", vote=0.0)
    recording.rate(recording.add("b", "What is rum?", "A drink.", vote=1.0), 0.0)
    found = collected(recording, dsn)
    assert not found.liked
    votes = {(one.query, one.likes, one.dislikes) for one in found.disliked}
    assert votes == {("What is tea?", 0, 1), ("What is rum?", 0, 1)}


def test_thresholds_and_metric_decide_what_is_liked(dsn: StoreDsn) -> None:
    recording = Recording()
    for number, stars in enumerate((5.0, 3.0, 1.0), start=1):
        recording.rate(recording.add("abc"[number - 1], f"Question {number}?", f"Answer {number}."), stars, "stars")
    found = collected(recording, dsn, metric="stars", at_least=4.0, at_most=2.0)
    assert [one.query for one in found.liked] == ["Question 1?"]
    assert [one.query for one in found.disliked] == ["Question 3?"]


def test_one_user_cannot_rate_without_limit(dsn: StoreDsn) -> None:
    recording = Recording()
    for number in range(5):
        recording.add("a", f"Question {number}?", "Yes.", vote=1.0)
    found = collected(recording, dsn, per_user=2)
    assert len(found.liked) == 2
    assert found.ignored[OVER_SHARE] == 3


def test_regenerated_answer_with_which_the_user_went_on_is_preferred(dsn: StoreDsn) -> None:
    recording = Recording()
    for answer in ("Bees fly.", "Bees sting.", "Bees make honey."):
        recording.add("a", "Tell me about bees", answer)
    recording.add("a", turns("Tell me about bees", "Bees sting.", "More?"), "They dance.")
    pairs = collected(recording, dsn).pairs
    assert {(one.chosen, one.rejected, one.source) for one in pairs} == {
        ("Bees sting.", "Bees fly.", "continued"),
        ("Bees sting.", "Bees make honey.", "continued"),
    }


def test_last_of_several_answers_is_preferred_unless_it_is_disliked_or_came_much_later(dsn: StoreDsn) -> None:
    recording = Recording()
    recording.add("a", "Tell me about bees", "Bees fly.", comment="Too short.")
    recording.add("a", "Tell me about bees", "Bees make honey.")
    recording.add("c", "Tell me about wasps", "Wasps fly.", time=10.0)
    recording.add("c", "Tell me about wasps", "Wasps hunt.", time=10.0 + 3601)
    recording.add("b", "Tell me about ants", "Ants walk.")
    recording.add("b", "Tell me about ants", "Ants dig.", vote=0.0)
    (pair,) = collected(recording, dsn).pairs
    assert (pair.chosen, pair.rejected, pair.source, pair.comment) == (
        "Bees make honey.", "Bees fly.", "regenerated", "Too short.",
    )  # fmt: skip


def test_answers_to_equal_first_questions_of_unknown_people_are_no_pair(dsn: StoreDsn) -> None:
    recording = Recording()
    for query, again in (("Tell me about bees", {}), ("What is tea?", {"messages": "What is tea?"})):
        recording.add("a", query, f"First about {query}", knows_person=False)
        recording.add("a", again.get("messages", query), f"Second about {query}", knows_person=False, vote=1.0)
    went_on = turns("Tell me about bees", "First about Tell me about bees", "And wasps?")
    recording.add("a", went_on, "They sting.")
    assert collected(recording, dsn).pairs == ()


def test_corrected_answer_is_preferred_and_another_text_is_not(dsn: StoreDsn) -> None:
    recording = Recording()
    for user, kept in (("a", "Tea is a drink made from leaves."), ("b", "[this turn was removed]")):
        recording.add(user, "What is tea?", "Tea is a food made from leaves.")
        recording.add(user, turns("What is tea?", kept, "And rum?"), "A spirit.")
    (pair,) = collected(recording, dsn).pairs
    assert (pair.chosen, pair.rejected, pair.source) == (
        "Tea is a drink made from leaves.", "Tea is a food made from leaves.", "edited",
    )  # fmt: skip


def test_answer_to_a_reworded_question_is_preferred(dsn: StoreDsn) -> None:
    recording = Recording()
    recording.add("a", "Explain the rainbow to me", "A rainbow is a long story.")
    recording.add("a", "Explain the rainbow to me briefly", "Drops split light.")
    recording.add("a", "Who was Bach?", "A composer.")
    (pair,) = collected(recording, dsn).pairs
    assert (pair.query, pair.chosen, pair.source) == (
        "Explain the rainbow to me briefly", "Drops split light.", "reworded",
    )  # fmt: skip


def test_liked_and_disliked_answers_of_different_users_to_one_question_are_a_pair(dsn: StoreDsn) -> None:
    recording = Recording()
    recording.add("a", "What is tea?", "A drink.", vote=1.0)
    recording.add("b", "What is tea?", "Dunno.", vote=0.0, comment="Lazy.")
    (pair,) = collected(recording, dsn).pairs
    assert (pair.chosen, pair.rejected, pair.source, pair.comment) == ("A drink.", "Dunno.", "rated", "Lazy.")


def test_clear_verdicts_of_the_judge_are_pairs_if_the_other_reply_was_logged(dsn: StoreDsn) -> None:
    recording = Recording()
    for number, (score, other) in enumerate([(1.0, "Worse."), (0.0, "Better."), (0.5, "Equal."), (0.0, None)]):
        recording.add("abcd"[number], f"Question {number}?", "Mine.", judged=(score, other))
    found = {(one.chosen, one.rejected) for one in collected(recording, dsn).pairs}
    assert found == {("Mine.", "Worse."), ("Better.", "Mine.")}


def test_requests_that_cannot_be_used_are_counted_by_reason(dsn: StoreDsn) -> None:
    recording = Recording()
    recording.add("a", "What is tea?", "A drink.", vote=1.0)
    recording.add("b", "What is tea?", "A", truncated=True)
    recording.add("c", "What is tea?", "A drink.", error=True)
    recording.add("d", "What is tea?", "A drink.", asked='{"messages": [{"role": "user", "content": "Wha')
    recording.write(dsn)
    without = Recording(logs_content=False)
    for _ in range(5):
        without.add("e", "What is tea?", "A drink.", vote=1.0)
    without.write(dsn)
    _, counts = read(dsn)
    assert (counts.requests, counts.with_text) == (5, 1), "the first four exist already"
    assert counts.unused == {FAILED: 2, UNREADABLE: 1, NO_TEXT: 1}


def test_experiment_and_date_choose_the_requests_and_a_request_of_two_experiments_counts_once(dsn: StoreDsn) -> None:
    recording = Recording()
    recording.add("a", "What is tea?", "A drink.", vote=1.0, time=10.0)
    recording.add("b", "What is tea?", "A drink.", vote=1.0, time=20.0, experiment="other")
    recording.add("c", "What is tea?", "A drink.", vote=1.0, time=30.0)
    twin = recording._exposures[-1]._replace(id=b"%016d" % 99, experiment="third")
    recording._exposures.append(twin)
    recording.write(dsn)
    for query, expected in (({}, 3), ({"experiment": "other"}, 1), ({"since": 15.0}, 2), ({"since": 99.0}, 0)):
        found, counts = read(dsn, **query)
        assert counts.requests == expected
        assert sum(one.likes for one in found.liked) == expected
    with read_session(store_address(place_of(dsn))) as session:
        assert count_exposures(session, StoreQuery()) == 4
        assert [(one.name, one.ratings, one.highest) for one in metric_summaries(session)] == [("thumbs_up", 3, 1.0)]


@pytest.mark.parametrize("query", [StoreQuery(), StoreQuery(experiment="tone"), StoreQuery("tone", 5.0)], ids=str)
def test_sqlite_reads_in_the_order_of_an_index_and_sorts_no_texts(query: StoreQuery, tmp_path: Path) -> None:
    Recording().write(dsn_of(f"sqlite:{tmp_path}/s.sqlite3"))
    with closing(sqlite3.connect(tmp_path / "s.sqlite3")) as connection:
        values = (query.since, query.experiment)[: 1 + bool(query.experiment)]
        plan = connection.execute(f"EXPLAIN QUERY PLAN {exchanges_statement(query)}", values).fetchall()
        more = connection.execute(f"EXPLAIN QUERY PLAN {feedback_statement(query)}", values * 2).fetchall()
    assert not [step[3] for step in (*plan, *more) if step[3] == "USE TEMP B-TREE FOR ORDER BY"]
    assert "exposures_by_unit" in plan[0][3]
    assert sum("exposures_by_unit" in step[3] for step in more) == 2


def test_long_history_of_one_unit_is_compared_in_blocks_without_double_pairs(dsn: StoreDsn) -> None:
    recording = Recording()
    for number in range(450):
        recording.add("a", f"Question {number // 2}?", f"Answer {number}.")
    pairs = collected(recording, dsn, per_user=1_000).pairs
    assert counts_by_source(pairs)["regenerated"] == len({one.query for one in pairs}) == 225


def test_store_of_an_earlier_version_and_absurd_values_are_read(tmp_path: Path) -> None:
    dsn = dsn_of(f"sqlite:{tmp_path}/s.sqlite3")
    recording = Recording()
    recording.add("a", "What is tea?", "A drink.", vote=1.0, judged=(0.0, "Other."))
    recording.write(dsn)
    with sqlite3.connect(tmp_path / "s.sqlite3") as connection:
        connection.execute("ALTER TABLE judgements DROP COLUMN other_reply")
        connection.execute("INSERT INTO feedback VALUES ('r1', 'x', 'text', NULL, 1.0)")
    connection.close()
    found, counts = read(dsn)
    assert (len(found.liked), len(found.pairs), counts.judged) == (1, 0, 1)


def test_memory_is_bounded_by_dropping_the_answers_with_the_fewest_votes() -> None:
    answers = RatedAnswers(per_user=1_000, most=10)
    for number in range(100):
        likes = 3 if number % 10 == 0 else 1
        for user in range(likes):
            turn = Message("user", f"Question {number}?")
            answers.add(
                Exchange(b"%d-%d" % (number, user), number, (turn,), "Yes.", Rating(liked=True, disliked=False))
            )
    assert answers.dropped > 0
    assert len(answers.liked()) <= 20
    assert {one.query for one in answers.liked() if one.likes == 3} == {f"Question {n}?" for n in range(0, 100, 10)}
    answers.add(Exchange(b"x", 1.0, (Message("user", "q" * (MAX_CHARACTERS + 1)),), "Yes.", Rating(True, False)))
    assert answers.too_long == 1
    one = Exchange(b"y", 1.0, (Message("user", "Q?"),), "No.", None, ("c" * (MAX_CHARACTERS + 1), "short"))
    answers.add(one)
    assert [row.comments for row in answers.disliked()] == [("short",)]


@pytest.mark.parametrize("place", ["", "sqlite:", "mysql://u:secret@h/d", "secret"])
def test_wrong_store_address_is_an_error_without_the_password(place: str) -> None:
    with pytest.raises(DataError, match="expected sqlite:PATH") as caught:
        store_address(place)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("rest", ["7secret/w@h/d", "7secret?w@h/d", "7secret#w@h/d", "12/secret@h/d", "x@[::1/d"])
def test_password_with_a_character_of_urls_is_not_taken_for_the_host(rest: str) -> None:
    with pytest.raises(DataError, match="%2F for /") as caught:
        store_address(f"postgresql://u:{rest}")
    assert "secret" not in str(caught.value)


def test_url_with_a_percent_encoded_password_and_parameters_is_a_store_address() -> None:
    assert store_address("postgresql://u:s%2Fs@h:1/d?options=a@b").name == "postgresql://h:1/d"


class CountingSession:
    """Counts the rows that it reads."""

    def __init__(self, session: ReadSession) -> None:
        self._session, self.count = session, 0

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        for row in self._session.rows(statement, values):
            self.count += 1
            yield row

    def columns(self, table: str) -> set[str]:
        return self._session.columns(table)


def test_feedback_under_both_ids_of_a_request_is_read_once_each(dsn: StoreDsn) -> None:
    recording = Recording()
    for number in (1, 2):
        recording.add("a", f"Question {number}?", "Yes.", vote=float(number == 2), comment=f"Comment {number}.")
        for metric in range(50):
            recording.rate(f"r{number}", 1.0, f"m{metric}")
            recording.rate(f"c{number}", 1.0, f"m{metric}")
    recording.rate("c1", 1.0)
    recording.write(dsn)
    counts = ReadCounts.none()
    with read_session(store_address(place_of(dsn))) as session:
        counting = CountingSession(session)
        found = [one for one in read_exchanges(counting, StoreQuery(), counts) if one]
    assert [(one.rating, one.comments) for one in found] == [
        (Rating(liked=True, disliked=False), ("Comment 1.",)), (Rating(liked=True, disliked=False), ("Comment 2.",)),
    ]  # fmt: skip
    assert counting.count <= 2 + 5 + 200


def test_export_is_read_line_by_line(tmp_path: Path) -> None:
    line = json.dumps({"messages": turns("What is tea?", "x" * 10_000), "outcome": 1}) + "\n"
    (tmp_path / "export.jsonl").write_text(line * 500)
    tracemalloc.start()
    found = sum(one is not None for one in read_export(tmp_path / "export.jsonl", StoreQuery(), ReadCounts.none()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == 500
    assert peak < 1_000_000


def test_very_much_feedback_on_one_request_does_not_fill_the_memory(tmp_path: Path) -> None:
    dsn = dsn_of(f"sqlite:{tmp_path}/s.sqlite3")
    recording = Recording()
    recording.add("a", "What is tea? " + "x" * 20_000, "A drink.", vote=1.0)
    recording.write(dsn)
    with sqlite3.connect(tmp_path / "s.sqlite3") as connection:
        ids = connection.execute("SELECT request_id, completion_id FROM exposures").fetchone()
        rows = [(one, f"m{number}", 1.0, None, 2.0 + number) for one in ids for number in range(60)]
        connection.executemany("INSERT OR IGNORE INTO feedback VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()
    tracemalloc.start()
    _, counts = read(dsn)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (counts.requests, counts.rated) == (1, 1)
    assert peak < 10_000_000


def test_store_whose_format_is_text_instead_of_bytes_is_an_error(tmp_path: Path) -> None:
    recording = Recording()
    recording.add("a", "What is tea?", "A drink.")
    recording.write(dsn_of(f"sqlite:{tmp_path}/s.sqlite3"))
    with sqlite3.connect(tmp_path / "s.sqlite3") as connection:
        connection.execute("UPDATE about SET value = '2' WHERE name = 'format'")
    connection.close()
    with pytest.raises(DataError, match="format"), read_session(store_address(f"sqlite:{tmp_path}/s.sqlite3")) as one:
        check_store(one)


def test_text_that_is_not_utf_8_is_read_and_is_in_no_error(tmp_path: Path) -> None:
    dsn = dsn_of(f"sqlite:{tmp_path}/s.sqlite3")
    recording = Recording()
    recording.add("a", "What is tea?", "A drink.", vote=1.0, comment="fine")
    recording.write(dsn)
    with sqlite3.connect(tmp_path / "s.sqlite3") as connection:
        connection.execute("UPDATE feedback SET comment = CAST(X'73656372657480' AS TEXT) WHERE comment IS NOT NULL")
    connection.close()
    found, _ = read(dsn)
    assert "secret\ufffd" in found.liked[0].comments


def test_address_without_a_store_is_an_error_and_nothing_is_created(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="this file does not exist"),
        read_session(store_address(f"sqlite:{tmp_path}/none")),
    ):
        pass
    assert not list(tmp_path.iterdir())
    sqlite3.connect(tmp_path / "empty").close()
    with (
        pytest.raises(DataError, match="this place contains no store"),
        read_session(store_address(f"sqlite:{tmp_path}/empty")) as one,
    ):
        check_store(one)
    (tmp_path / "text").write_text("no database " * 100)
    with (
        pytest.raises(DataError, match="cannot be read"),
        read_session(store_address(f"sqlite:{tmp_path}/text")) as one,
    ):
        check_store(one)
    with pytest.raises(DataError, match="cannot be read") as caught:
        with read_session(store_address("postgresql://ann:secret@127.0.0.1:1/none")):
            pass
    assert "secret" not in str(caught.value)
