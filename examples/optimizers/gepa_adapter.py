"""Lets GEPA search for a system prompt. drpo's task model answers with it, and drpo's rewards score. See README.md."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gepa
from gepa.core.adapter import EvaluationBatch, GEPAAdapter

from optimizer.data.dataset import Row
from optimizer.prompt_scorer import PromptScorer, ScoredAnswer, open_prompt_scorer

PROMPT = "system_prompt"
Batch = EvaluationBatch[ScoredAnswer, str]


class Adapter(GEPAAdapter[Row, ScoredAnswer, str]):
    def __init__(self, scorer: PromptScorer) -> None:
        self.scorer = scorer

    def evaluate(self, batch: list[Row], candidate: dict[str, str], capture_traces: bool = False) -> Batch:
        scored = self.scorer.score([(candidate[PROMPT], row) for row in batch])
        return EvaluationBatch([one.answer for one in scored], [one.score for one in scored], scored)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Batch, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        traces = eval_batch.trajectories or []
        cases = [{"Inputs": it.row.query, "Generated Outputs": it.answer, "Feedback": it.feedback} for it in traces]
        return dict.fromkeys(components_to_update, cases)


if __name__ == "__main__":
    with open_prompt_scorer(Path(sys.argv[1]), Path(sys.argv[2])) as scorer:
        seed, rows = {PROMPT: scorer.start.prompt}, list(scorer.rows)
        models = {"adapter": Adapter(scorer), "reflection_lm": lambda text: scorer.write([text])[0]}
        print(gepa.optimize(seed, rows[::2], rows[1::2], **models, max_metric_calls=int(sys.argv[3])).best_candidate)
