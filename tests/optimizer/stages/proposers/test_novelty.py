"""A candidate is new if it differs from all known ones in a content word, or in anything but its prompt."""

from dataclasses import replace

import pytest

from index.types import Example
from optimizer.stages.proposers.novelty import SAME_AS_KNOWN, SAME_AS_PARENT, KnownCandidates
from tests.optimizer.stages.proposers.candidates import make_candidate

PARENT = make_candidate(Example("one", "query", "answer"), prompt="Answer the question first. Never guess, but ask.")


@pytest.mark.parametrize(
    "prompt",
    [
        "Never guess, but ask. Answer the question first.",
        "Answer the question first; never guess, but ask!",
        "Answer a question first. And then never guess, but ask.",
        "ANSWER the question first. Never guess, and ask.",
    ],
)
def test_reordering_punctuation_and_function_words_make_no_new_candidate(prompt: str) -> None:
    assert KnownCandidates().fault(PARENT.with_prompt(prompt), PARENT) == SAME_AS_PARENT


@pytest.mark.parametrize(
    "prompt", ["Answer the question first. Guess, but ask.", "Answer the question first.", "Answer at once.", "+"]
)
def test_changed_content_words_make_a_new_candidate_once(prompt: str) -> None:
    known = KnownCandidates()
    assert not known.fault(PARENT.with_prompt(prompt), PARENT)
    assert known.fault(PARENT.with_prompt(f"{prompt} And!"), PARENT) == SAME_AS_KNOWN


def test_other_examples_or_settings_make_a_new_candidate() -> None:
    known = KnownCandidates()
    known.add(PARENT)
    for child in (
        make_candidate(Example("one", "query", "another"), prompt=PARENT.prompt),
        replace(PARENT, sampling={}),
        PARENT.with_nearest(5),
    ):
        assert not known.fault(child, PARENT)
        assert known.fault(child, PARENT) == SAME_AS_KNOWN
