"""Tests how a judge's scores and preferences are read. A text without a verdict is never a score."""

import pytest

from optimizer.core.errors import UnparsableReplyError
from optimizer.rewards.judge_replies import parse_score, read_letter, read_scores

NAMES = ("clarity", "critical-thinking")


@pytest.mark.parametrize(
    ("value", "score"),
    [
        *((4, 4), (4.0, 4), (4.5, 4.5), ("4", 4), (" 4 ", 4), ("4/5", 4), ("4 / 5", 4), ("4.0", 4), ("3 out of 5", 3)),
        *(("four", 4), ("Four out of 5", 4), ("4 out of 5 stars", 4), ("4 - good", 4), ("4 (good)", 4), ("4.", 4)),
        *(("Score: 4", 4), ("4,5", 4.5), ("rating 4/5", 4)),
    ],
)
def test_score_is_a_number_or_a_text_with_a_number(value: object, score: float) -> None:
    assert parse_score(value) == score


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "",
        "fourteen",
        "four to five",
        "one of the best",
        "40%",
        "4 - 5",
        "4 (of 10)",
        "1 to 5",
        0,
        6,
        0.9,
        -1,
        "8/10",
        "4/10",
        "45",
        [4],
        {},
        float("nan"),
        float("inf"),
        "4 5",
        10**400,
    ],
)
def test_value_that_is_no_score_is_unreadable(value: object) -> None:
    with pytest.raises(UnparsableReplyError):
        parse_score(value)


@pytest.mark.parametrize(
    "text",
    [
        '{"clarity": {"rationale": "x", "score": 4}, "critical-thinking": {"score": "2/5"}}',
        '{"Clarity": {"score": 4.0}, "Critical_Thinking": {"score": 2}, "overall": 5}',
        '{"clarity": 4, "critical thinking": "2"}',
        '{"clarity": {"score": 1}, "critical-thinking": {"score": 1}} {"clarity": 4, "critical-thinking": 2}',
        '{"clarity": 4, "critical-thinking": 2} {"note": "done"}',
        '{"verdict": {"clarity": {"score": 4}, "critical-thinking": {"score": 2}}}',
        '{"scores": {"clarity": 4, "critical-thinking": 2}, "overall": 3}',
        '{"clarity": 1, "critical-thinking": 1} {"final": {"clarity": 4, "critical-thinking": 2}}',
        "clarity: 4\ncritical-thinking: 2",
        "**Clarity**: 4/5\n**Critical Thinking** - 2/5",
        "- clarity = 4\n- critical_thinking = 2",
        "clarity: 4 (good)/5\ncritical-thinking: 2 (weak) out of 5",
        "clarity: 4 (covers 3/4 of the points)\ncritical-thinking: 2 [see 1/10]",
        "1. Clarity: the answer is clear. Score: 4\n2. Critical-thinking: shallow. Score: 2",
        "<think>clarity: 1\ncritical-thinking: 1</think>clarity: 4\ncritical-thinking: 2",
        "Clarity: 3\nCritical-thinking: 3\nOn second thought:\nClarity: 4\nCritical-thinking: 2",
        '[{"clarity": 4}, {"critical-thinking": 2}]',
        '{"clarity": {"score": 4}}\n```json\n{"critical-thinking": {"score": 2}}\n```',
        '{"evaluation": [{"criterion": "Clarity", "score": 4}, {"criterion": "critical thinking", "score": 2}]}',
        '[{"name": "clarity", "rating": "4/5"}, {"name": "critical-thinking", "rating": "two"}]',
        '{"clarity": {"Score": 4}, "critical-thinking": {"rating": 2}}',
        '{"clarity": {"score": "four"}, "critical-thinking": {"score": "2 (weak)"}}',
        "{'clarity': {'rationale': 'it's clear', 'score': 4,}, 'critical-thinking': {'score': 2},}",
        '{"name": "verdict", "arguments": "{\\"clarity\\": {\\"score\\": 4}, \\"critical-thinking\\": 2}"}',
        "| Criterion | Why | Score |\n|---|---|---|\n| Clarity | x | 4 |\n| **Critical thinking** | y | **2/5** |",
        "| 1 | Clarity | 4 |\n| 2 | Critical thinking | 2 |",
        "**Clarity:**\nIt is clear.\n**Score: 4/5**\n\n**Critical Thinking:**\nWeak.\nScore: 2",
        "clarity:\n  rationale: x\n  score: 4\ncritical-thinking:\n  rationale: y\n  score: 2",
        "Clarity:\n1. It is short.\nScore: 4\nCritical thinking:\n1) No.\nScore: 2",
        "Clarity: four\nCritical-thinking: **two**",
        "Clarity: \u2605\u2605\u2605\u2605\u2606\nCritical-thinking: \u2605\u2605\u2606\u2606\u2606",
        "Scores: clarity = 4; critical-thinking = 2",
    ],
)
def test_scores_are_read_from_json_or_lines(text: str) -> None:
    assert {name: score.value for name, score in read_scores(text, NAMES).items()} == {
        "clarity": 4,
        "critical-thinking": 2,
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"clarity": 4}',
        '{"clarity": {"score": 4}, "critical-thinking": {"rationale": "no score"}}',
        '{"clarity": 4, "critical-thinking": 7}',
        '{"clarity": 4, "critical-thinking": 2} {"clarity": 4, "critical-thinking": 7}',
        '{"clarity": 4, "critical-thinking": null}',
        '[{"clarity": 4}, {"critical-thinking": 7}]',
        '[{"name": "clarity", "score": 4}, {"name": "safety", "score": 2}]',
        "Clarity: one of the best\nCritical-thinking: 2",
        "Clarity: good\nCritical-thinking: weak. Score: 2",
        '{"clarity": {"score": 4}, "critical-thinking": {"score": 2}',
        "clarity: 4",
        "clarity: 4\ncritical-thinking: 7",
        "clarity: 4\ncritical-thinking: 2/10",
        "clarity: 4\ncritical-thinking: 2 (weak)/10",
        "clarity: 4 (good) / 10\ncritical-thinking: 2",
        "clarity: 4\ncritical-thinking: 2 [shallow] out of 7",
        "clarity: 1 to 5\ncritical-thinking: 1-5",
        "clarity: good\ncritical-thinking: 2",
        "I'm sorry, but I can't rate this.",
        '{"clarity": }\nclarity: 4\ncritical-thinking: 2',
        '{"clarity": 1' + "0" * 400 + ', "critical-thinking": 2}',
        '{"a": {"b": {"clarity": 4, "critical-thinking": 2}}}',
    ],
)
def test_missing_or_impossible_scores_are_unreadable(text: str) -> None:
    with pytest.raises(UnparsableReplyError):
        read_scores(text, NAMES)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ('{"reason": "x", "better": "b"}', "B"),
        ('{"better": "Answer A"}', "A"),
        ('{"better": "A"} {"better": "B"}', "B"),
        ('{"better": "B"} {"note": 1}', "B"),
        ("Output (a) is better", "A"),
        ("Answer B is better because it is a better answer.", "B"),
        ("A is better.", "A"),
        ("It is shorter.\n\n**B**", "B"),
        ("B.", "B"),
        ("Verdict: Answer A", "A"),
        ("I prefer B, a clear answer.", "B"),
        ("Which is better, A or B? The better answer is A.", "A"),
        ("<think>Answer A is better</think>Answer B is better", "B"),
        ('{"preference": {"reason": "x", "better": "A"}}', "A"),
        ("Assistant B", "B"),
        ("A does not answer, so B is better.", "B"),
        ("B is the winner. A is better at detail.", "B"),
        ("A is better at detail, and B is safer.\nAnswer B is better", "B"),
        ("{'better': 'A',}", "A"),
        ('{"Better": "A"}', "A"),
        ("```\nA\n```", "A"),
        ("<reason>B is better</reason>\nA", "A"),
        ("<answer>A</answer>", "A"),
        ("It follows that \\boxed{A}", "A"),
        ("Final answer: A", "A"),
        ("A\n\nExplanation: it is right.", "A"),
        ("I prefer A over the other one.", "A"),
    ],
)
def test_preference_is_read_from_json_or_words(text: str, letter: str) -> None:
    assert read_letter(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Both are good.",
        "It is better.",
        "A better answer would be shorter.",
        "Which is better, A or B?",
        "I would not choose A",
        '{"better": "both"}',
        '{"better": null}',
        '{"better": "A or B"}',
        '{"better": ["A"]}',
        '{"best": "A"}',
        '{"better": "A"} {"better": "tie"}',
        '{"reason": "Output (a) is better in style", "bett',
        "<think>Answer A is better",
        "I prefer B, although A is better structured.",
        "A is better if you want detail, B is better if not",
        "Neither A nor B is better",
        "A\n\nBut B is better.",
        "It is not true that Answer A is better",
        "Is Answer A better? No.",
        "Answer A is better? No, that one is wrong.",
    ],
)
def test_text_that_names_no_better_answer_is_unreadable(text: str) -> None:
    with pytest.raises(UnparsableReplyError):
        read_letter(text)
