"""Simulates users with hidden tastes, to measure whether their feedback leads to a better bundle: docs/benchmarks.md.

    DRPO_DATA=../shared/data python -m tests.bench.tastes --out DIR [--tastes short,list] [--users 200] [--rounds 2]

200 scripted users ask the first bundle. Each taste says which answers a user likes. 10 % of the thumbs are wrong, and
5 % of the users are malicious. For each taste, the bench runs `drpo-optimizer improve` on the store, serves its
experiment from the real drpo-proxy to new users, and reads the verdict, in as many rounds as --rounds says. Model,
proxy, store, improve and verdict are real. Only the users are scripted, and the ratings of the first answers are
written with the proxy's store function, because the tastes share these answers. Each step is kept in the folder. After
Ctrl-C or a kill, the same command continues the bench. --replays measures how often a winner is declared although all
thumbs are random. It needs no model.
"""

import argparse
import asyncio
import json
import os
from pathlib import Path

from tests.bench.embedders import say
from tests.bench.tastes.hidden import TASTES
from tests.bench.tastes.questions import read_questions
from tests.bench.tastes.replays import replay
from tests.bench.tastes.rounds import Plan, record, run_taste, write_start
from tests.bench.tastes.world import open_model


def main() -> None:
    """Run the simulation, or continue it, and print a line for each taste."""
    options = _parser().parse_args()
    if options.out is None or "DRPO_DATA" not in os.environ:
        print("not run: it needs --out and $DRPO_DATA")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if options.replays:
        replay(options.out, options.replays, options.seed)
        return
    plan = Plan(
        options.out.resolve(),
        read_questions(options.questions, options.seed),
        options.users,
        options.testers,
        options.each,
        options.draws,
        options.calls,
        options.tokens,
        options.rounds,
        options.seed,
    )
    asyncio.run(_run(plan, options.tastes.split(",")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the folder of the results, with which the bench goes on")
    parser.add_argument("--tastes", default=",".join(TASTES), help="names of hidden tastes, with commas [all ten]")
    parser.add_argument("--users", type=int, default=200, help="users of the first bundle [200]")
    parser.add_argument("--testers", type=int, default=300, help="users of each experiment [300]")
    parser.add_argument("--each", type=int, default=10, help="questions of a user [10]")
    parser.add_argument("--questions", type=int, default=60, help="different questions [60]")
    parser.add_argument("--draws", type=int, default=4, help="answers that are sampled for each question at first [4]")
    parser.add_argument("--calls", type=int, default=220, help="calls of one run of the optimizer [220]")
    parser.add_argument("--tokens", type=int, default=40, help="longest answer [40]")
    parser.add_argument("--rounds", type=int, default=2, help="improvements of a taste [2]")
    parser.add_argument("--seed", default="0", help="seed of users and questions [0]")
    parser.add_argument("--replays", type=int, default=0, help="only replay the recorded answers with random thumbs")
    return parser


async def _run(plan: Plan, tastes: list[str]) -> None:
    if unknown := [name for name in tastes if name not in TASTES]:
        raise SystemExit(f"--tastes: {unknown[0]} is unknown. The tastes are {', '.join(TASTES)}")
    write_start(plan)
    async with open_model() as model:
        await record(plan, model)
        for name in tastes:
            found = await run_taste(plan, model, name)
            say(f"{name}: done")
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
