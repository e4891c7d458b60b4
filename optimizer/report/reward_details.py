"""Computes the means of the rewards and of their details on the sealed rows."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from index.measures.confidence import Interval, bootstrap_mean
from optimizer.report.run_summary import RunSummary
from optimizer.rewards.pleading import PLEADING


def detail_means(summary: RunSummary) -> dict[str, dict[str, Interval]]:
    """Return the means of the rewards and of their details on the sealed rows, by name and variant.

    The details of a reward are the numbers from which its value was computed, such as the judge's score for each
    criterion. The name of a detail is `REWARD: DETAIL`. The value of a reward is from 0 to 1. Its details can have
    other ranges, because the judge scores each criterion from 1 to 5.
    """
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for variants in summary.answers.values():
        for variant, event in variants.items():
            for name, value in _details(event["parts"]):
                values[name][variant].append(value)
    return {
        name: {variant: bootstrap_mean(found) for variant, found in by_variant.items()}
        for name, by_variant in values.items()
    }


def _details(parts: Mapping[str, Any]) -> list[tuple[str, float]]:
    found = []
    for reward, part in parts.items():
        for name, detail in part.items():
            value = detail["score"] if isinstance(detail, dict) else detail
            if name != PLEADING:  # its mean would always be 1
                found.append((reward if name == "value" else f"{reward}: {name}", float(value)))
    return found
