"""Fixtures of the quality tests: the measurement data, the proxy, the report, and a function that measures."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from index.embedders.base import Embedder
from index.embedders.registry import DEFAULT_REWARD_EMBEDDER, open_embedder
from optimizer.cli.tables import evaluation_markdown, evaluation_table
from optimizer.data.dataset import Row
from optimizer.evaluation.answers_file import AnswersFile
from optimizer.evaluation.chat_endpoint import ChatEndpoint, Decoding
from optimizer.evaluation.evaluate import Evaluation, EvaluationPlan, evaluate
from optimizer.evaluation.measures import Measure
from optimizer.models.http_client import Endpoint, RetryPolicy
from optimizer.models.model_list import first_model
from tests.measurement import DATA

REPORT = Path(os.environ.get("DRPO_QUALITY_REPORT") or Path("build") / "quality.md")
CONCURRENCY = 4

Measuring = Callable[[str, Sequence[Row], Sequence[str], int], Evaluation]


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"NOT MEASURED: the measurement data is not at {DATA}; set DRPO_DATA to its folder")
    return DATA


@pytest.fixture(scope="session")
def base_url(embedded_url: str) -> str:
    return embedded_url


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return open_embedder(DEFAULT_REWARD_EMBEDDER)


@pytest.fixture(scope="session")
def report() -> Path:
    """A new report. Each measurement adds its table."""
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text("# Answer quality: embedded model, default bundle, greedy, validation rows\n")
    return REPORT


@pytest.fixture
def measuring(base_url: str, embedder: Embedder, report: Path, capsys: pytest.CaptureFixture[str]) -> Measuring:
    """A function that measures the proxy's answers, prints the table, and adds it to the report."""

    def measure(title: str, rows: Sequence[Row], variants: Sequence[str], max_tokens: int) -> Evaluation:
        evaluation = asyncio.run(_measure(base_url, rows, variants, Decoding(max_tokens), embedder))
        heading = f"{title} ({len(rows)} rows, {max_tokens} tokens)"
        with capsys.disabled():
            print()
            Console(width=140).print(evaluation_table(evaluation, heading))
        with report.open("a") as file:
            file.write(f"\n## {heading}\n\n{evaluation_markdown(evaluation)}\n")
        return evaluation

    return measure


async def _measure(
    base_url: str, rows: Sequence[Row], variants: Sequence[str], decoding: Decoding, embedder: Embedder
) -> Evaluation:
    patience = RetryPolicy(reply_timeout=600)
    name = await first_model(base_url, None, patience.reply_timeout)
    plan = EvaluationPlan(name, decoding, tuple(variants), tuple(rows))
    async with ChatEndpoint(Endpoint(base_url, name), decoding, CONCURRENCY, patience) as model:
        with AnswersFile(None) as answers:
            return await evaluate(plan, model, answers, embedder, lambda: None)


def named(evaluation: Evaluation, variant: str) -> Mapping[str, Measure]:
    return {line.name: line for line in evaluation.variants[variant]}
