"""The command drpo-optimizer: eval. Reads the command line, shows progress, prints the table, exits.

Exit codes: 0 good; 1 the endpoint or the data fails; 2 the command line is wrong; 130 interrupted.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from index.embed import Embedder, open_embedder
from index.errors import DrpoError
from optimizer.answers import AnswersFile
from optimizer.evaluate import Evaluation, Plan, evaluate
from optimizer.model import Decoding, Endpoint, Model, Patience, first_model
from optimizer.rows import Row, read_rows
from optimizer.table import as_markdown, as_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit code; argparse itself exits with 2."""
    options = command_line().parse_args(arguments)
    try:
        return asyncio.run(_eval(options))
    except DrpoError as error:
        print(f"drpo-optimizer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("drpo-optimizer: interrupted", file=sys.stderr)
        return 130


def command_line() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="drpo-optimizer", description="Measures what a prompt and examples do.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("eval", help="variants side by side on one data set, without a judge")
    command.add_argument(
        "--base-url", required=True, help="an OpenAI-compatible endpoint, such as http://127.0.0.1:8080/v1"
    )
    command.add_argument("--data", required=True, type=Path, help="JSONL: query, and optionally reference, tag or safe")
    command.add_argument("--variant", action="append", required=True, help="aligned, raw-matched, raw; repeatable")
    command.add_argument("--model", help="default: the first model that the endpoint lists")
    command.add_argument("--max-tokens", type=_positive, default=256)
    command.add_argument("--temperature", type=float, default=0.0)
    command.add_argument("--concurrency", type=_positive, default=4, help="requests at a time")
    command.add_argument("--limit", type=_positive, help="only the first rows")
    command.add_argument("--timeout", type=float, default=300.0, help="seconds for one answer")
    command.add_argument("--embedder", default="onnx", help="what measures similarity to the references")
    command.add_argument("--out", type=Path, help="file every answer here, and go on from what it holds")
    command.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    return parser


async def _eval(options: argparse.Namespace) -> int:
    rows = read_rows(options.data, options.limit)
    api_key = os.environ.get("DRPO_API_KEY")
    name = options.model or await first_model(options.base_url, api_key, options.timeout)
    decoding = Decoding(options.max_tokens, options.temperature)
    plan = Plan(name, decoding, tuple(dict.fromkeys(options.variant)), rows)
    endpoint = Endpoint(options.base_url, name, api_key)
    patience = Patience(reply_timeout=options.timeout)
    async with Model(endpoint, decoding, options.concurrency, patience) as model:
        with AnswersFile(options.out) as answers:
            evaluation = await _with_progress(plan, model, answers, _open_embedder(options.embedder, rows))
    _show(evaluation, f"{name}, {len(rows):,} rows of {options.data.name}", markdown=options.markdown)
    return 0


async def _with_progress(plan: Plan, model: Model, answers: AnswersFile, embedder: Embedder | None) -> Evaluation:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("answers", total=len(plan.rows) * len(plan.variants))
        return await evaluate(plan, model, answers, embedder, lambda: bar.advance(task))


def _open_embedder(name: str, rows: Sequence[Row]) -> Embedder | None:
    """None where nothing is to be compared: a data set without references needs no embedder."""
    return open_embedder(name) if any(row.reference for row in rows) else None


def _show(evaluation: Evaluation, title: str, *, markdown: bool) -> None:
    if markdown:
        print(as_markdown(evaluation))
    else:
        Console().print(as_table(evaluation, title))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
