"""The arguments of drpo-optimizer and their help texts. This module does not depend on the code of the commands."""

import argparse
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from index.embedders.registry import DEFAULT_REWARD_EMBEDDER
from index.version import add_version_flag

_RUN_TOML = """\
A run.toml with its required keys:

  [models.task]                   # the model to write a bundle for
  base_url = "http://127.0.0.1:8000/v1"
  model = "google/gemma-3-270m"
  kind = "completion"             # "completion" for a base model, "chat" for a chat model

  [data]                          # JSONL rows: query, and optionally reference, tag, split
  train = "rows.jsonl"
  validation = "rows.jsonl"
  sealed = "rows.jsonl"

  [reward]                        # how answers are scored: rules, reference, likelihood, judge, MODULE:FUNCTION
  weights = { rules = 0.5, reference = 0.5 }

  [bundle]
  name = "mine"

More: [models.optimizer] and [models.judge] (rewrite prompts, score answers), [search] (recipe = "raced" or "drpo",
beam, actions, depth, ...), [examples], [tune], [budget] (calls, tokens, money, minutes). docs/run-toml.md explains.
"""

_SHIP = """\
The new directory holds the bundle, provenance.json (models, start, rewards, calls, data files, licence, figures),
run.toml, and journal.json: for each level of the search the calls, what each proposer proposed, what was kept, and the
best mean. It holds no row, no answer and no prompt that was tried. docs/learned-bundles.md explains the figures.

  drpo-optimizer ship runs/mine --out mine --licence Apache-2.0 --texts "written by us" --figures validation.json
"""

_MAX_INTEGER: Final = 1_000_000_000
HARVEST: Final = "harvest"
_HARVESTING: Final = """\
Examples:

  drpo-optimizer harvest --store sqlite:/var/lib/drpo/store.sqlite3 --out harvest
  drpo-optimizer harvest --experiment tone --since 2026-11-01 --yes --out harvest     # the store is in DRPO_STORE
  drpo-optimizer harvest --metric stars --at-least 4 --at-most 2 --out harvest

The store needs the texts of requests and replies: drpo-proxy keeps them only with --store-content, also without an
experiment. Feedback comes from POST /v1/feedback. The store is only read.

  liked answers      candidate examples: scrubbed, checked, without duplicates. You accept, edit or reject each
  disliked answers   training rows with the comments of users
  two answers        preference pairs: regenerated, corrected and reworded turns, ratings, the shadow judge

DIR holds report.txt (what was taken, what was not and why), candidates.jsonl, examples.jsonl (what you accepted; for
drpo-index build --examples), rows.jsonl and preferences.jsonl (for [data] of run.toml: train, preferences). Ctrl-C or q
ends the review; the same command continues it. --yes leaves the candidates undecided in which private data was
replaced, and those near harmful questions. Rules find patterns of private data, not every name: docs/harvest.md says
what they find.
"""

IMPROVE: Final = "improve"
_IMPROVING: Final = """\
Examples:

  drpo-optimizer improve --store sqlite:/var/lib/drpo/store.sqlite3 --bundle bundles/now --out improve-2026-11-30 \\
      --base-url http://127.0.0.1:8000/v1                     # the model server; drpo-proxy's for an embedded model
  drpo-optimizer improve --bundle bundles/now --out improve-2026-11-30 --config run.toml    # the store is in DRPO_STORE

The steps, each of which leaves its result in DIR:

  harvest/         what the feedback gives, as drpo-optimizer harvest writes it. Candidate examples are accepted that
                   need no person's look; --review asks you about each
  inputs/          the run's rows, examples, preference pairs and run.toml
  run/             the run: raced, within its budget, with a sealed evaluation. report.html shows it
  bundle/          the new bundle, if it is better than the current one on sealed rows
  experiment.toml  control: the current bundle; treatment: the new one; guardrails; how many users it needs
  summary.html     what changed and why, and what to do next

Nothing is served until you give experiment.toml to drpo-proxy. Ctrl-C is safe: the same command continues, and no step
and no paid call is repeated. DIR belongs to one store, one bundle and one choice of feedback: name a new one each week.

--config names a run.toml, as for drpo-optimizer run. Every table is optional: [models] (a writer model and a judge
improve the search), [data] (rows of your own, which are added), [reward], [search], [budget] (5,000 calls without it).
[bundle] start and the rows of the harvest are set for you. docs/improving.md explains.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="drpo-optimizer",
        description="Writes the bundle that drpo-proxy serves: searches a prompt and examples that align one model.",
    )
    add_version_flag(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = _add_command(commands, "run", "from a run.toml to a bundle", _RUN_TOML)
    run.add_argument("config", type=Path, metavar="RUN.TOML")
    run.add_argument("--out", type=Path, help="the run's directory [runs/NAME, beside run.toml]")
    resume = _add_command(commands, "resume", "continue a stopped run: no paid call is made twice")
    resume.add_argument("directory", type=Path, metavar="DIR")
    doctor = _add_command(commands, "doctor", "send each model what the run will send, and say what to do", _RUN_TOML)
    doctor.add_argument("config", type=Path, metavar="RUN.TOML")
    report = _add_command(commands, "report", "a page about a run, finished or not: DIR/report.html")
    report.add_argument("directory", type=Path, metavar="DIR")
    difference = _add_command(commands, "diff", "what differs between two bundles")
    difference.add_argument("before", type=Path, metavar="BUNDLE")
    difference.add_argument("after", type=Path, metavar="BUNDLE")
    _add_ship(_add_command(commands, "ship", "the bundle of a run with its provenance, as bundles of drpo ship", _SHIP))
    _add_judge_check(_add_command(commands, "judge-check", "how often a judge agrees with people"))
    _add_harvest(_add_command(commands, HARVEST, "examples, rows and pairs from the feedback of users", _HARVESTING))
    _add_improve(_add_command(commands, IMPROVE, "from the feedback of users to a better bundle", _IMPROVING))
    estimate = _add_command(
        commands, "estimate", "what a run will cost, from a simulation and about ten real calls", _RUN_TOML
    )
    estimate.add_argument("config", type=Path, metavar="RUN.TOML")
    _add_eval(_add_command(commands, "eval", "variants side by side on one data set, without a judge"))
    return parser


def _add_command(commands: Any, name: str, summary: str, epilog: str = "") -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary.capitalize(), epilog=epilog, formatter_class=formatter
    )
    return command


def _add_ship(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, metavar="DIR", help="the directory of a finished run")
    command.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the new directory; its name is that of the bundle"
    )
    command.add_argument("--licence", required=True, metavar="TEXT", help="the licence of the texts of the bundle")
    command.add_argument("--texts", required=True, metavar="TEXT", help="where its prompt and its examples come from")
    command.add_argument(
        "--figures", action="append", default=[], type=Path, metavar="FILE", help="what was measured; repeatable"
    )
    command.add_argument("--note", action="append", default=[], metavar="TEXT", help="a further remark; repeatable")
    command.add_argument(
        "--bundle", type=Path, metavar="DIR", help="the bundle, if it was changed after the run [DIR/bundle]"
    )


def _add_eval(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--base-url", required=True, help="an OpenAI-compatible endpoint, such as http://127.0.0.1:8080/v1"
    )
    command.add_argument("--data", required=True, type=Path, help="JSONL: query, and optionally reference, tag or safe")
    command.add_argument("--variant", action="append", required=True, help="aligned, raw-matched, raw; repeatable")
    command.add_argument("--model", help="default: the first model that the endpoint lists")
    command.add_argument("--max-tokens", type=_positive_integer, default=256)
    command.add_argument("--temperature", type=float, default=0.0)
    command.add_argument("--concurrency", type=_positive_integer, default=4, help="requests at a time")
    command.add_argument("--limit", type=_positive_integer, help="only the first rows")
    command.add_argument("--timeout", type=float, default=300.0, help="seconds for one answer")
    command.add_argument(
        "--embedder", default=DEFAULT_REWARD_EMBEDDER, help="the embedder that measures similarity to the references"
    )
    command.add_argument(
        "--out", type=Path, help="save every answer in this file, and continue from the answers that it holds"
    )
    command.add_argument("--markdown", action="store_true", help="print the table in Markdown")


def _add_judge_check(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", required=True, type=Path, help="JSONL: query, first, second, better (1 or 2)")
    command.add_argument("--base-url", required=True, help="an OpenAI-compatible endpoint")
    command.add_argument("--model", help="default: the first model that the endpoint lists")
    command.add_argument("--concurrency", type=_positive_integer, default=8, help="requests at a time")
    command.add_argument("--limit", type=_positive_integer, help="only the first pairs")
    command.add_argument(
        "--repeat", type=_positive_integer, default=0, metavar="N", help="ask N times again: how often does it flip?"
    )
    command.add_argument(
        "--paraphrase", action="store_true", help="ask in three other wordings: how often does a preference flip?"
    )
    command.add_argument("--timeout", type=float, default=300.0, help="seconds for one reply")
    command.add_argument(
        "--out", type=Path, help="save every reply in this directory, and continue from the replies that it holds"
    )


def _add_harvest(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "export",
        nargs="?",
        type=Path,
        metavar="EXPORT.JSONL",
        help='in place of a store: one conversation a line, {"messages": [...], "outcome": 1}',
    )
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder of the harvest")
    _add_feedback(command)
    command.add_argument(
        "--yes", action="store_true", help="accept the candidates that need no person's look, without asking"
    )


def _add_improve(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--bundle",
        required=True,
        metavar="BUNDLE",
        help="the bundle that is served now: a directory or a name",
    )
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder of this improvement")
    command.add_argument("--config", type=Path, metavar="RUN.TOML", help="settings of the run; every table is optional")
    command.add_argument("--base-url", metavar="URL", help="the model server; takes precedence over [models.task]")
    command.add_argument("--model", help="the model to improve the bundle for [the first one that the server lists]")
    command.add_argument(
        "--kind", choices=("completion", "chat"), help="completion for a base model [completion], chat for a chat model"
    )
    command.add_argument(
        "--difference",
        type=_positive_number,
        default=0.05,
        metavar="D",
        help="the smallest difference of the metric that the experiment should find; sets its planned size [0.05]",
    )
    command.add_argument("--review", action="store_true", help="ask about each candidate example in the terminal")
    _add_feedback(command)


def _add_feedback(command: argparse.ArgumentParser) -> None:
    """Add the flags that choose feedback in a store."""
    command.add_argument("--store", help="the value of --store of drpo-proxy; a URL with a password only in DRPO_STORE")
    command.add_argument("--experiment", metavar="NAME", help="only the requests of this experiment [all]")
    command.add_argument(
        "--since", type=_date, metavar="DATE", help="only requests from this date on, such as 2026-11-30"
    )
    command.add_argument("--metric", default="thumbs_up", metavar="NAME", help="the metric of the feedback [thumbs_up]")
    command.add_argument(
        "--at-least",
        type=_finite_number,
        default=1.0,
        metavar="VALUE",
        help="an answer with this value or a higher one is liked [1]",
    )
    command.add_argument(
        "--at-most",
        type=_finite_number,
        default=0.0,
        metavar="VALUE",
        help="an answer with this value or a lower one is disliked [0]",
    )
    command.add_argument("--words", type=_positive_integer, default=150, help="most words of an example's answer [150]")
    command.add_argument(
        "--per-user",
        type=_positive_integer,
        default=50,
        metavar="N",
        help="most ratings and pairs of one user that count [50]",
    )


def _date(text: str) -> float:
    """Parse a date or a time in ISO 8601, in UTC unless it names another zone. Return Unix seconds."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a date such as 2026-11-30") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError("must be a finite number")
    return number


def _positive_integer(text: str) -> int:
    number = int(text)
    if not 1 <= number <= _MAX_INTEGER:
        raise argparse.ArgumentTypeError(f"must be from 1 to {_MAX_INTEGER:,}")
    return number


def _positive_number(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return number
