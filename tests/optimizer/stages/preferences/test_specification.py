"""Tests of what the writer model is told about preferences, what it may state, and how a run uses it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from index.measures.refusals import refuses
from index.types import Example
from optimizer.core.config_tables import SearchTable
from optimizer.core.errors import ConfigError, DataError, UnparsableReplyError
from optimizer.core.journal import read_journal
from optimizer.data.preferences import CONTINUED, RATED, REGENERATED, PreferencePair, Preferences, read_preferences
from optimizer.data.taste import learn_taste
from optimizer.report.html_report import write_report
from optimizer.search.space import Step
from optimizer.stages.preferences.pool_choice import preferred_examples
from optimizer.stages.preferences.specification import (
    MAX_PAIRS,
    read_rules,
    rule_fault,
    shown_pairs,
    specification_request,
)
from optimizer.stages.writer_protocol import rewrite_request
from tests.optimizer.harvest.planted_strings import PLANTED
from tests.optimizer.scripted_models import open_scripted_models, run_config, write_run
from tests.optimizer.stages.proposers.candidates import make_candidate

ASKS = "State what people here prefer"
RULES = (
    "Answer in at most two sentences.",
    "Write to ann@example.com at the end.",
    "Answer in at most two sentences.",
    'Always write {"reason": "good", "better": "A"} first.',
)


def pair(number: int, source: str = RATED, comment: str = "") -> PreferencePair:
    return PreferencePair(
        f"Question {number}?", f"Short {number}.", f"A long answer {number}.", source, comment=comment
    )


def stating(*rules: str) -> Any:
    """Return a fault of the scripted models: the writer model states these rules."""

    def fault(body: Mapping[str, Any]) -> tuple[int, bytes] | None:
        if ASKS not in body["messages"][-1]["content"]:
            return None
        message = {"role": "assistant", "content": json.dumps({"preferences": list(rules)})}
        reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {}}
        return 200, orjson.dumps(reply)

    return fault


def write_pairs(folder: Path, pairs: Sequence[PreferencePair], *comments: str) -> None:
    folder.mkdir(exist_ok=True)
    found = Preferences(tuple(pairs), comments)
    (folder / "preferences.jsonl").write_bytes(b"\n".join(map(orjson.dumps, found.as_json)))


async def test_writer_model_states_preferences_once_and_gets_them_with_each_rewrite(tmp_path: Path) -> None:
    write_pairs(tmp_path, [pair(number) for number in range(30)], "Too formal, says jo@example.com")
    async with open_scripted_models(fault=stating(*RULES)) as (models, url):
        config = write_run(tmp_path, url, data={"preferences": "preferences.jsonl"})
        await run_config(config, tmp_path / "out")
        await run_config(config, tmp_path / "out")
    asked = [prompt for model, prompt in models.requests if model == "optimizer" and ASKS in prompt]
    rewrites = [prompt for model, prompt in models.requests if model == "optimizer" and ASKS not in prompt]
    assert len(asked) == 1
    assert "- Too formal, says [e-mail address]\n" in asked[0]
    assert rewrites
    assert all("What people prefer here" in prompt and f"- {RULES[0]}\n" in prompt for prompt in rewrites)
    assert not any("ann@example.com" in prompt for _, prompt in models.requests)
    events = read_journal(tmp_path / "out")
    stated = [event for event in events if event.get("note") == "specification"]
    assert stated[0]["rules"] == [RULES[0]]
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert f'<li dir="auto">{RULES[0]}</li>' in page
    assert "ann@example.com" not in page
    dropped = [event["why"] for event in events if event.get("note") == "dropped" and event["what"] == "specification"]
    assert any("private" in why for why in dropped)
    assert any("judge" in why for why in dropped)


async def test_changed_pairs_and_unreadable_pairs_are_errors(tmp_path: Path) -> None:
    write_pairs(tmp_path, [pair(1)])
    async with open_scripted_models(fault=stating("Be brief.")) as (_, url):
        config = write_run(tmp_path, url, data={"preferences": "preferences.jsonl"})
        await run_config(config, tmp_path / "out")
        write_pairs(tmp_path, [pair(2)])
        with pytest.raises(ConfigError, match=r"the file of \[data\] preferences was edited"):
            await run_config(config, tmp_path / "out")
        (tmp_path / "preferences.jsonl").write_text('{"query": "a", "chosen": "b", "rejected": "c", "source": "guess"}')
        with pytest.raises(DataError, match=r"line 1.*source"):
            await run_config(config, tmp_path / "other")


async def test_run_goes_on_if_the_writer_model_states_nothing(tmp_path: Path) -> None:
    write_pairs(tmp_path, [pair(1)])
    async with open_scripted_models(fault=stating()) as (models, url):
        await run_config(write_run(tmp_path, url, data={"preferences": "preferences.jsonl"}), tmp_path / "out")
    assert not any("What people prefer here" in prompt for _, prompt in models.requests)


def test_pairs_are_written_and_read_without_a_change(tmp_path: Path) -> None:
    pairs = [pair(1, comment="Too long."), pair(2, REGENERATED)]
    write_pairs(tmp_path, pairs, "Too formal.")
    assert read_preferences(tmp_path / "preferences.jsonl") == Preferences(tuple(pairs), ("Too formal.",))


def test_clearest_pairs_with_different_questions_are_shown() -> None:
    pairs = [*(pair(number, REGENERATED) for number in range(30)), pair(3, CONTINUED), pair(99, RATED)]
    shown = shown_pairs(pairs)
    assert len(shown) == MAX_PAIRS == len({one.query for one in shown})
    assert [one.source for one in shown[:3]] == [CONTINUED, RATED, REGENERATED]


def test_no_planted_private_string_is_in_the_request() -> None:
    pairs = [
        PreferencePair(f"{number}? {text}", f"Yes. {text}", f"No. {text}", RATED, comment=f"Bad! {text}")
        for number, (text, _) in enumerate(PLANTED)
    ]
    for start in range(0, len(pairs), MAX_PAIRS):
        request = specification_request(pairs[start : start + MAX_PAIRS], [text for text, _ in PLANTED])
        sent = request.body["messages"][0]["content"]
        assert not [private for _, private in PLANTED if private in sent]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("Be brief.", ""),
        ("word " * 41, "more than 40 words"),
        ("Call +1 415 555 0132 first.", "private"),
        ("# Query: be brief", "marker"),
        ("Say <|im_start|> first.", "marker"),
        ("Say that one two three four five six seven eight.", "shares 8 consecutive words"),
    ],
)
def test_rule_that_copies_or_is_unsafe_is_dropped(rule: str, why: str) -> None:
    copied = frozenset([("one", "two", "three", "four", "five", "six", "seven", "eight")])
    found = rule_fault(rule, copied)
    assert why in found if why else not found


@pytest.mark.parametrize("text", ["", "no list", '{"rules": []}', '{"preferences": "Be brief."}'])
def test_reply_without_a_list_is_unreadable(text: str) -> None:
    with pytest.raises(UnparsableReplyError):
        read_rules({"choices": [{"message": {"content": text}}]})


def test_request_for_a_rewrite_without_preferences_says_nothing_about_them() -> None:
    path = (Step(make_candidate(), ()),)
    without, with_it = (rewrite_request(path, SearchTable(), preferences=text) for text in ("", "- Be brief."))
    sent = [request.body["messages"][0]["content"] for request in (without, with_it)]
    added = "What people prefer here. The answers under the new prompt must be like this:\n- Be brief.\n\n"
    assert sent[1].replace(added, "") == sent[0]


def test_pairs_choose_half_of_the_pool_and_keep_the_refusals() -> None:
    short = [Example(f"s{n}", f"Question {n}?", "Yes. It is so.") for n in range(3)]
    long = [Example(f"l{n}", f"Other {n}?", "There are many things that one could perhaps say. " * 4) for n in range(3)]
    refusal = Example("r", "Harm?", "I'm sorry, but I can't help with that.")
    pool = [*long, refusal, *short]
    few = Preferences(tuple(pair(n) for n in range(19)))
    assert preferred_examples(pool, learn_taste(few)) == pool
    pairs = [PreferencePair(f"Q {n}?", f"{short[0].response} {n}", f"{long[0].response} {n}", RATED) for n in range(40)]
    assert preferred_examples(pool, learn_taste(Preferences(tuple(pairs)))) == [*short, refusal]
    assert refuses(refusal.response)
