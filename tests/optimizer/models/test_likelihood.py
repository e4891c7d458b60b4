"""Tests that a likelihood covers all tokens of the reference answer and no others."""

import math

import pytest

from optimizer.core.errors import UnparsableReplyError
from optimizer.models.task_model import mean_log_probability

SHOWN, REFERENCE = "Hello\n\n# Answer:\n", " 🙌😅🎉"
# The reply of vLLM for gemma-3-270m: the tokens of the text, and one generated token. <bos> counts as five characters.
OFFSETS = [0, 5, 10, 12, 13, 20, 21, 22, 24, 25, 26]
LOGPROBS = [None, -6.1, -3.6, -9.9, -9.3, -1.7, -3.1, -20.2, -10.2, -7.1, -1.6]


def test_beginning_of_sequence_token_does_not_shift_offsets() -> None:
    start, end = len(SHOWN), len(SHOWN + REFERENCE)
    found = mean_log_probability({"offsets": OFFSETS, "logprobs": LOGPROBS}, start, end)
    assert found == pytest.approx((-20.2 - 10.2 - 7.1) / 3)
    without = {"offsets": [offset - 5 for offset in OFFSETS[1:]], "logprobs": LOGPROBS[1:]}
    assert mean_log_probability(without, start, end) == found


def test_token_across_the_start_of_the_reference_counts() -> None:
    kept = {"offsets": [0, 3, 8], "logprobs": [None, -2.0, -1.0]}
    assert mean_log_probability(kept, 5, 8) == -2.0


def test_reference_without_a_token_is_an_error() -> None:
    with pytest.raises(UnparsableReplyError):
        mean_log_probability({"offsets": [0, 3], "logprobs": [None, -2.0]}, 3, 3)
    assert math.isfinite(mean_log_probability({"offsets": [0, 2, 3], "logprobs": [None, -2.0, -1.0]}, 2, 3))
