"""Tests of edit operators of prompts: joined units are the prompt, edits differ, and the seed determines them."""

from hypothesis import given
from hypothesis import strategies as st

from optimizer.stages.prompt_edits import edits, pool_sentences, units
from optimizer.stages.proposers.failures import NO_REFUSAL, WRONG_REFUSAL
from optimizer.stages.proposers.novelty import content_words

PROMPT = """You are a careful assistant. Answer first, then explain (briefly), and stop.

- Use plain words.
- If you do not know, say so.
Never repeat yourself!"""

prompts = st.text(alphabet="ab. \n-!,;()", max_size=60)


@given(prompts)
def test_units_joined_are_the_prompt(prompt: str) -> None:
    assert "".join(units(prompt)) == prompt


@given(prompts, st.integers(1, 5))
def test_edits_are_different_prompts_within_the_maximum_length(prompt: str, count: int) -> None:
    found = [one.prompt for one in edits(prompt, count, "0", 20)]
    assert len(set(found)) == len(found) <= count
    assert all(one != prompt and 0 < len(one.split()) <= 20 for one in found)


def test_edits_are_determined_by_the_seed() -> None:
    assert edits(PROMPT, 5, "1", 250) == edits(PROMPT, 5, "1", 250)
    assert edits(PROMPT, 5, "1", 250) != edits(PROMPT, 5, "2", 250)


def test_every_operator_is_used() -> None:
    found = {edit.prompt for seed in range(40) for edit in edits(PROMPT, 4, str(seed), 250)}
    assert any("Never repeat" not in edit for edit in found), "drop"
    assert any("(briefly)" not in edit and "Answer first" in edit for edit in found), "shorten"
    assert any(len(units(edit)) > len(units(PROMPT)) for edit in found), "add"
    assert any(len(units(edit)) == len(units(PROMPT)) and "Use plain words" not in edit for edit in found), "replace"
    assert all(content_words(edit) != content_words(PROMPT) for edit in found), "no edit is a mere reordering"


def test_inserted_sentences_answer_what_failed() -> None:
    answers = {one.text: one.answers for one in pool_sentences()}
    for criterion in (NO_REFUSAL, WRONG_REFUSAL):
        found = [one for seed in range(30) for one in edits("Be good.", 1, str(seed), 250, {criterion: 1.0})]
        inserted = [text for one in found for text in answers if text in one.prompt]
        hits = sum(criterion in answers[text] for text in inserted)
        assert hits > 0.6 * len(inserted) > 0
