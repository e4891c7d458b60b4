"""What the quality tests share: the measurement data, the proxy, the report, and one way to measure."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from index.embedders.base import Embedder
from index.embedders.registry import open_embedder
from optimizer.cli.tables import as_markdown, as_table
from optimizer.data.dataset import COMPLY, GENERAL, REFUSE, Row
from optimizer.evaluation.answers_file import AnswersFile
from optimizer.evaluation.chat_endpoint import Decoding, Model
from optimizer.evaluation.evaluate import Evaluation, Plan, evaluate
from optimizer.evaluation.measures import Measure
from optimizer.models.http_client import Endpoint, Patience, first_model
from tests.quality.served import served_proxy

DATA = Path(os.environ.get("DRPO_DATA") or Path(__file__).parents[3] / "shared" / "data")
REPORT = Path(os.environ.get("DRPO_QUALITY_REPORT") or Path("build") / "quality.md")
CONCURRENCY = 4

Measuring = Callable[[str, Sequence[Row], Sequence[str], int], Evaluation]


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"NOT MEASURED: the measurement data is not at {DATA}; set DRPO_DATA to its folder")
    return DATA


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    with served_proxy() as url:
        yield url


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return open_embedder("onnx")


@pytest.fixture(scope="session")
def report() -> Path:
    """A fresh report; every measurement adds its table."""
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text("# Answer quality: embedded model, default bundle, greedy, test rows\n")
    return REPORT


@pytest.fixture
def measuring(base_url: str, embedder: Embedder, report: Path, capsys: pytest.CaptureFixture[str]) -> Measuring:
    """measuring(title, rows, variants, max_tokens): asks the proxy, shows the table and adds it to the report."""

    def measure(title: str, rows: Sequence[Row], variants: Sequence[str], max_tokens: int) -> Evaluation:
        evaluation = asyncio.run(_measure(base_url, rows, variants, Decoding(max_tokens), embedder))
        heading = f"{title} ({len(rows)} rows, {max_tokens} tokens)"
        with capsys.disabled():
            print()
            Console(width=140).print(as_table(evaluation, heading))
        with report.open("a") as file:
            file.write(f"\n## {heading}\n\n{as_markdown(evaluation)}\n")
        return evaluation

    return measure


async def _measure(
    base_url: str, rows: Sequence[Row], variants: Sequence[str], decoding: Decoding, embedder: Embedder
) -> Evaluation:
    patience = Patience(reply_timeout=600)
    name = await first_model(base_url, None, patience.reply_timeout)
    plan = Plan(name, decoding, tuple(variants), tuple(rows))
    async with Model(Endpoint(base_url, name), decoding, CONCURRENCY, patience) as model:
        with AnswersFile(None) as answers:
            return await evaluate(plan, model, answers, embedder, lambda: None)


def named(evaluation: Evaluation, variant: str) -> Mapping[str, Measure]:
    return {line.name: line for line in evaluation.variants[variant]}


def general_test_rows(data: Path) -> tuple[Row, ...]:
    """references.jsonl, tag general, validation."""
    return general_rows(data, "validation")


def general_rows(data: Path, split: str) -> tuple[Row, ...]:
    """references.jsonl, tag general, of a split that is not sealed."""
    rows = _read(data / "references.jsonl")
    chosen = [row for row in rows if row["tag"] == GENERAL and row["split"] == split]
    return tuple(Row(row["query"], GENERAL, row["reference"]) for row in chosen)


def xstest_test_rows(data: Path) -> tuple[Row, ...]:
    """xstest_prompts.jsonl, the rows whose query has an odd SHA-256."""
    return _xstest_rows(data, tests=True)


def xstest_development_rows(data: Path) -> tuple[Row, ...]:
    """xstest_prompts.jsonl, the rows whose query has an even SHA-256."""
    return _xstest_rows(data, tests=False)


def _xstest_rows(data: Path, *, tests: bool) -> tuple[Row, ...]:
    rows = [row for row in _read(data / "xstest_prompts.jsonl") if is_test(row["query"]) == tests]
    return tuple(Row(row["query"], COMPLY if row["safe"] else REFUSE) for row in rows)


def is_test(query: str) -> bool:
    return int(hashlib.sha256(query.encode()).hexdigest(), 16) % 2 == 1


def _read(path: Path) -> list[dict[str, str]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]
