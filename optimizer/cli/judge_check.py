"""The logic of the command judge-check: does a judge agree with people, and does it agree with itself?"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.progress import Progress
from rich.table import Table

from index.counted import counted
from optimizer.core.budget import Budget, Limits, Prices
from optimizer.core.journal import Journal
from optimizer.core.model_tables import JudgeTable
from optimizer.evaluation.judge_agreement import Judgement, agreement_table, check_judge, read_pairs
from optimizer.evaluation.judge_stability import (
    Stability,
    Variation,
    check_stability,
    paraphrases,
    question_count,
    repeats,
    stability_table,
)
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.http_client import Client, Endpoint, RetryPolicy
from optimizer.models.paid_replies import PricedClient
from optimizer.rewards.judge_model import Judge


async def judge_tables(options: argparse.Namespace, endpoint: Endpoint, bar: Progress) -> list[Table]:
    """Compare a judge with people and, if the options ask for it, with itself. Return a table for each.

    Raises:
        DataError: The pairs cannot be read.
        ModelError: The judge gave no usable reply, but a later call may succeed.
        JournalError: The replies cannot be saved.
    """
    pairs, patience = read_pairs(options.data, options.limit), RetryPolicy(reply_timeout=options.timeout)
    with ExitStack() as stack:
        folder = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        journal = stack.enter_context(Journal(folder))
        async with Client(endpoint, options.concurrency, patience) as client:
            judge = Judge(
                CachedCalls({"judge": PricedClient(client, Prices())}, journal, Budget(Limits())), JudgeTable()
            )
            task = bar.add_task("comparisons", total=2 * len(pairs))
            judgements = await check_judge(judge, pairs, lambda: bar.advance(task))
            stability = [
                await _check_stability(bar, judge, judgements, label, variations)
                for label, variations in _variations(options).items()
            ]
    name = endpoint.model
    return [agreement_table(judgements, name), *([stability_table(stability, name)] if stability else [])]


def _variations(options: argparse.Namespace) -> Mapping[str, Sequence[Variation]]:
    asked = {f"asked again, {counted(options.repeat, 'time')}": repeats(options.repeat)} if options.repeat else {}
    reworded = paraphrases() if options.paraphrase else ()
    return asked | ({f"asked in {counted(len(reworded), 'other wording')}": reworded} if reworded else {})


async def _check_stability(
    bar: Progress, judge: Judge, judgements: Sequence[Judgement], label: str, variations: Sequence[Variation]
) -> Stability:
    task = bar.add_task(label, total=question_count(judgements) * len(variations))
    return await check_stability(label, judge, judgements, variations, lambda: bar.advance(task))
