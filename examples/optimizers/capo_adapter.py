"""Lets CAPO search for a system prompt. drpo's task model answers with it, and drpo's rewards score. See README.md."""

from typing import Any

import numpy as np
import pandas as pd
from promptolution.llms.base_llm import BaseLLM
from promptolution.optimizers.capo import CAPO
from promptolution.predictors.base_predictor import BasePredictor
from promptolution.tasks.base_task import BaseTask

from optimizer.prompt_scorer import PromptScorer

END = "Input:"  # CAPO writes this mark before the query; drpo's layouts have marks of their own


class Writer(BaseLLM):
    def _get_response(self, prompts: list[str], system_prompts: list[str]) -> list[str]:
        return self.scorer.write(prompts)


class Answers(BasePredictor):
    def predict(self, prompts: list[str], xs: list[str], system_prompts: Any = None) -> tuple[list[Any], list[str]]:
        rows = {row.query: row for row in self.llm.scorer.rows}
        found = self.llm.scorer.score([(text.removesuffix(END), rows[x]) for text, x in zip(prompts, xs, strict=True)])
        return found, [f"{one.row.query}\n{one.answer}" for one in found]

    _extract_preds = None


class Scores(BaseTask):
    def _evaluate(self, xs: list[str], ys: list[str], preds: list[Any]) -> Any:
        return np.array([one.score for one in preds])


def capo(scorer: PromptScorer, writer: Writer, prompts: list[str], task: str, block: int = 30) -> CAPO:
    bank = pd.DataFrame([(one.query, one.response) for one in scorer.start.bank.examples], columns=["x", "y"])
    rows = Scores(pd.DataFrame({"x": [row.query for row in scorer.rows], "y": ""}), "x", "y", task, block)
    return CAPO(Answers(writer), rows, writer, prompts, df_few_shots=bank, create_fs_reasoning=False)
