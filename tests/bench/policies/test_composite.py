"""Tests of the composite by which bundles are compared with their rivals."""

from collections.abc import Sequence

import pytest

from index.bundle.bundle import default_bundle_directory, read_bundle
from index.bundle.provenance import figures_record, json_bytes, parse_figures
from optimizer.data.dataset import COMPLY, GENERAL, REFUSE, Row
from optimizer.evaluation.chat_endpoint import Answer
from optimizer.evaluation.measures import MeasuredAnswer
from tests.bench.policies.composite import detectable, difference, measured, parts, similarity_difference
from tests.bench.rivals import figures

REFUSAL = "I'm sorry, but I can't help with that."


def answered(kind: str, text: str, similarity: float | None = None, reason: str = "stop") -> MeasuredAnswer:
    return MeasuredAnswer(Row("?", kind), Answer(text, reason, 10, 5), similarity)


def answers(right: int, similarity: float, cut: int = 0) -> Sequence[MeasuredAnswer]:
    """Return the answers to four rows of each kind.

    `right` of the unsafe ones are refused, and `cut` general ones are cut.
    """
    return (
        *(answered(GENERAL, "Yes.", similarity, "length" if number < cut else "stop") for number in range(4)),
        *(answered(COMPLY, "Yes.") for _ in range(4)),
        *(answered(REFUSE, REFUSAL if number < right else "Yes.") for number in range(4)),
    )


def test_composite_is_the_mean_of_three_parts() -> None:
    found = parts(answers(right=2, similarity=0.6, cut=3))
    assert (found.balanced, found.similarity, found.ends) == pytest.approx((0.75, 0.6, 0.75))
    assert found.composite == pytest.approx(0.7)


def test_difference_is_that_of_the_composites() -> None:
    ours, other = answers(right=4, similarity=0.6), answers(right=1, similarity=0.4, cut=2)
    found = difference(ours, other, comparisons=4)
    assert found.estimate == pytest.approx(parts(ours).composite - parts(other).composite)
    assert found.low < found.estimate < found.high


def test_interval_is_wider_for_more_comparisons() -> None:
    ours, other = answers(right=3, similarity=0.6), answers(right=1, similarity=0.4)
    one, four = (difference(ours, other, comparisons) for comparisons in (1, 40))
    assert four.low <= one.low
    assert four.high >= one.high


def test_equal_answers_have_no_difference() -> None:
    found = difference(answers(right=2, similarity=0.5), answers(right=2, similarity=0.5), comparisons=4)
    assert (found.low, found.estimate, found.high) == (0, 0, 0)


def test_similarity_counts_general_rows_only() -> None:
    found = similarity_difference(answers(right=0, similarity=0.7), answers(right=4, similarity=0.5))
    assert (found.low, found.estimate, found.high) == pytest.approx((0.2, 0.2, 0.2))


def test_more_rows_show_smaller_differences() -> None:
    ours, other = answers(right=3, similarity=0.6), answers(right=1, similarity=0.4, cut=1)
    few, many = (detectable(ours, other, {GENERAL: n, COMPLY: n, REFUSE: n}, 4) for n in (10, 40))
    assert few == pytest.approx(2 * many)


def test_measured_values_are_the_parts_with_intervals() -> None:
    some = answers(right=2, similarity=0.6, cut=3)
    found, expected = measured(some), parts(some)
    assert found.composite.estimate == pytest.approx(expected.composite)
    assert found.composite.low < found.composite.estimate < found.composite.high
    assert found.balanced.estimate == pytest.approx(expected.balanced)
    assert found.similarity.estimate == pytest.approx(expected.similarity)
    assert found.ends.estimate == pytest.approx(expected.ends)
    assert found.prompt_tokens > 0


def test_figures_compare_the_first_bundle_with_the_others() -> None:
    ours, other, raw = answers(4, 0.6), answers(2, 0.6), answers(0, 0.5)
    directory = default_bundle_directory()
    bundles = {"ours": directory, "hand-written": directory}
    found = figures({"ours": ours, "hand-written": other, "raw": raw}, bundles, "validation", "lm")
    assert found.differences["hand-written"].composite == difference(ours, other, 2)
    assert (found.bundle, found.level, found.rows) == ("ours", 0.975, {GENERAL: 4, COMPLY: 4, REFUSE: 4})
    assert found.ids == dict.fromkeys(bundles, read_bundle(directory).id)
    assert list(found.measured) == ["ours", "hand-written", "raw"]
    assert str(directory) not in found.command
    read = parse_figures(json_bytes(figures_record(found)), "here")
    assert read.differences["raw"].composite.estimate == pytest.approx(
        found.differences["raw"].composite.estimate, abs=1e-4
    )


def test_figures_of_one_bundle_alone_have_no_differences() -> None:
    found = figures({"ours": answers(4, 0.6)}, {"ours": default_bundle_directory()}, "validation", "lm")
    assert (found.differences, found.own.balanced.estimate) == ({}, 1.0)
