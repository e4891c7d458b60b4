"""The arguments of drpo-optimizer and their help. This module does not depend on the code of the commands."""

import argparse
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from index.embedders.registry import DEFAULT_REWARD_EMBEDDER
from index.version import add_version_flag
from optimizer.cli.help_texts import HARVESTING, IMPROVING, RUN_TOML, SHIP

_RUN_DIRECTORY: Final = "the directory of the run, such as runs/mine"
_MAX_INTEGER: Final = 1_000_000_000
HARVEST: Final = "harvest"
IMPROVE: Final = "improve"


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="drpo-optimizer",
        description=(
            "Search for the prompt and the examples that align one model, and write them as a bundle for drpo-proxy."
        ),
    )
    add_version_flag(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = _add_command(commands, "run", "make a bundle, as a run.toml says", RUN_TOML)
    _add_run_file(run)
    run.add_argument("--out", type=Path, help="the run's directory [runs/NAME, beside run.toml]")
    resume = _add_command(commands, "resume", "continue a stopped run; no paid call is made twice")
    resume.add_argument("directory", type=Path, metavar="DIR", help=_RUN_DIRECTORY)
    doctor = _add_command(
        commands, "doctor", "check a run.toml: send each model what the run will send, and say what to mend", RUN_TOML
    )
    _add_run_file(doctor)
    report = _add_command(commands, "report", "write DIR/report.html, a page about a finished or unfinished run")
    report.add_argument("directory", type=Path, metavar="DIR", help=_RUN_DIRECTORY)
    difference = _add_command(commands, "diff", "print what differs between two bundles")
    for name in ("before", "after"):
        difference.add_argument(name, metavar="BUNDLE", help="a directory, or a name of drpo-index list")
    _add_ship(_add_command(commands, "ship", "copy the bundle of a run, and add its provenance", SHIP))
    _add_judge_check(_add_command(commands, "judge-check", "measure how often a judge agrees with people"))
    _add_harvest(
        _add_command(commands, HARVEST, "make examples, rows and pairs from the feedback of users", HARVESTING)
    )
    _add_improve(_add_command(commands, IMPROVE, "make a better bundle from the feedback of users", IMPROVING))
    estimate = _add_command(
        commands, "estimate", "estimate what a run will cost, from a simulation and about ten real calls", RUN_TOML
    )
    _add_run_file(estimate)
    _add_eval(_add_command(commands, "eval", "compare variants on one data set, without a judge"))
    return parser


def _add_command(commands: Any, name: str, summary: str, epilog: str = "") -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:], epilog=epilog, formatter_class=formatter
    )
    return command


def _add_run_file(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", type=Path, metavar="RUN.TOML", help="the settings of the run")


def _add_ship(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", type=Path, metavar="DIR", help="the directory of a finished run")
    command.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="the new directory; it must have the name of the bundle"
    )
    command.add_argument("--licence", required=True, metavar="TEXT", help="the licence of the texts of the bundle")
    command.add_argument("--texts", required=True, metavar="TEXT", help="where the prompt and the examples come from")
    command.add_argument(
        "--figures",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a file of measured figures; repeatable",
    )
    command.add_argument("--note", action="append", default=[], metavar="TEXT", help="a further remark; repeatable")
    command.add_argument(
        "--bundle", type=Path, metavar="DIR", help="the bundle, if it was changed after the run [DIR/bundle]"
    )


def _add_eval(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--base-url", required=True, help="an OpenAI-compatible endpoint, such as http://127.0.0.1:8080/v1"
    )
    command.add_argument(
        "--data", required=True, type=Path, help="JSONL file; a row has query, and optionally reference, tag or safe"
    )
    command.add_argument("--variant", action="append", required=True, help="aligned, raw-matched or raw; repeatable")
    command.add_argument("--model", help="the model [the first one that the endpoint lists]")
    command.add_argument("--max-tokens", type=_positive_integer, default=256)
    command.add_argument("--temperature", type=float, default=0.0)
    command.add_argument("--concurrency", type=_positive_integer, default=4, help="number of requests at a time [4]")
    command.add_argument("--limit", type=_positive_integer, help="how many rows to use, from the first one on [all]")
    command.add_argument("--timeout", type=float, default=300.0, help="longest time for one answer, in seconds [300]")
    command.add_argument(
        "--embedder", default=DEFAULT_REWARD_EMBEDDER, help="the embedder that measures similarity to the references"
    )
    command.add_argument(
        "--out", type=Path, help="save every answer in this file, and continue from the answers that it holds"
    )
    command.add_argument("--markdown", action="store_true", help="print the table in Markdown")


def _add_judge_check(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data", required=True, type=Path, help="JSONL file; a pair has query, first, second and better (1 or 2)"
    )
    command.add_argument("--base-url", required=True, help="an OpenAI-compatible endpoint")
    command.add_argument("--model", help="the model [the first one that the endpoint lists]")
    command.add_argument("--concurrency", type=_positive_integer, default=8, help="number of requests at a time [8]")
    command.add_argument("--limit", type=_positive_integer, help="how many pairs to use, from the first one on [all]")
    command.add_argument(
        "--repeat",
        type=_positive_integer,
        default=0,
        metavar="N",
        help="ask N more times, and count how often a preference flips",
    )
    command.add_argument(
        "--paraphrase", action="store_true", help="ask in three other wordings, and count how often a preference flips"
    )
    command.add_argument("--timeout", type=float, default=300.0, help="longest time for one reply, in seconds [300]")
    command.add_argument(
        "--out", type=Path, help="save every reply in this directory, and continue from the replies that it holds"
    )


def _add_harvest(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "export",
        nargs="?",
        type=Path,
        metavar="EXPORT.JSONL",
        help='a file in place of a store; each line is a conversation: {"messages": [...], "outcome": 1}',
    )
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder of the harvest")
    _add_feedback(command)
    command.add_argument("--yes", action="store_true", help="accept the candidates without cautions, and ask nothing")


def _add_improve(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--bundle",
        required=True,
        metavar="BUNDLE",
        help="the bundle that is served now: a directory or a name",
    )
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder of this improvement")
    command.add_argument("--config", type=Path, metavar="RUN.TOML", help="settings of the run; every table is optional")
    command.add_argument(
        "--base-url",
        metavar="URL",
        help="the model server, or drpo-proxy if it serves an embedded model; takes precedence over [models.task]",
    )
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
    command.add_argument(
        "--store", help="the value of --store of drpo-proxy; give a URL with a password only in DRPO_STORE"
    )
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
    command.add_argument(
        "--words", type=_positive_integer, default=150, help="maximum number of words in an example's answer [150]"
    )
    command.add_argument(
        "--per-user",
        type=_positive_integer,
        default=50,
        metavar="N",
        help="maximum number of ratings and pairs that count for one user [50]",
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
