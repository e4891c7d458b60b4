"""Implements the command `drpo-proxy fit`: reads its flags, runs the measurement, and prints or writes the result."""

import argparse
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import orjson
import uvloop
from rich.console import Console

from proxy.core.errors import StartupError
from proxy.core.settings import BackendSettings, Settings, flag, setting_groups
from proxy.core.settings_reader import build_settings, read_flags
from proxy.fit.arms import BASELINE_NAMES
from proxy.fit.client import Answer
from proxy.fit.questions import SHIPPED, mixed, read_questions
from proxy.fit.report import FitResult, print_result, result_json
from proxy.fit.run import Outcomes
from proxy.fit.session import FitOptions, measure_fit
from proxy.fit.verdict import Decision

_DESCRIPTION: Final = """\
Does this bundle help this model? Asks 120 questions with and without the bundle, and needs no judge.

  drpo-proxy fit                                     the embedded model and drpo's bundle for it
  drpo-proxy fit --backend http://127.0.0.1:8000/v1  your model and drpo's bundle for it
  drpo-proxy fit --backend URL --bundle DIR --bundle DIR2
                                                     several bundles at once
  drpo-proxy fit --backend URL --baseline DIR --bundle DIR2
                                                     is the second bundle better than the first?

Each question is served in several ways: raw, raw with the bundle's sampling (raw-matched), and with each bundle.
The tables show how the answers end, repeat, refuse and leak markers, and what the bundle costs. The last line says
in one sentence: helps, little headroom, harms, or cannot tell. docs/fit.md has the rule.
Ctrl-C ends the run and shows the result so far.
"""
_EXIT_STATUSES: Final = """\
exit status: 0 no bundle harms; 3 a bundle harms; 1 an error, such as a backend that does not answer; 2 a wrong flag;
130 SIGINT ended the run early; 143 SIGTERM ended it early
"""
_SHOWN_GROUPS: Final = ("backends", "injection")  # groups of settings whose flags the help shows
_DEFAULT_CONCURRENCY: Final = 4
_MAX_CONCURRENCY: Final = 128  # half of the requests that the proxy serves at once
_HARMS_STATUS: Final = 3
_SIGNAL_STATUS: Final = 128  # plus the number of the signal


@dataclass(frozen=True, slots=True)
class _Output:
    """The form of the result, and the file for the answers.

    Attributes:
        as_json: Whether the result is printed as JSON.
        answers: The file that gets all answers; None if there is none.
    """

    as_json: bool
    answers: Path | None


def run_fit_command(
    arguments: Sequence[str], environment: Mapping[str, str], output: Console, messages: Console
) -> int:
    """Run the command.

    Args:
        arguments: The command line after `fit`.
        environment: The environment variables.
        output: Gets the result.
        messages: Gets the progress.

    Returns:
        The exit status; see `_EXIT_STATUSES`.

    Raises:
        DrpoError: The message says what the user must change.
        SystemExit: The command line is wrong (exit status 2), or asks for help (exit status 0).
    """
    settings, options, wanted = _parse(arguments, environment)
    if wanted.answers is not None:
        _write_answers(wanted.answers, ())
    try:
        result = uvloop.run(measure_fit(settings, options, messages))
    except KeyboardInterrupt:
        messages.print("Interrupted before the first question: there is no result.", markup=False)
        return _SIGNAL_STATUS + signal.SIGINT
    if wanted.answers is not None:
        _write_answers(wanted.answers, _answer_lines(result.outcomes))
    if wanted.as_json:
        output.file.write(orjson.dumps(result_json(result), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        print_result(result, output)
    return _exit_status(result)


def _exit_status(result: FitResult) -> int:
    if result.signal is not None:
        return _SIGNAL_STATUS + result.signal
    if result.outcomes.stopped:
        return 1
    return _HARMS_STATUS if any(one.decision is Decision.HARMS for one in result.verdicts) else 0


def _parse(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[Settings, FitOptions, _Output]:
    parser = argparse.ArgumentParser(
        "drpo-proxy fit",
        description=_DESCRIPTION,
        epilog=_EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_flags(parser)
    values, given = read_flags(arguments, environment, parser, hidden=_hidden_settings())
    _check_count(parser, "--limit", given.limit, None)
    _check_count(parser, "--concurrency", given.concurrency, _MAX_CONCURRENCY)
    settings = build_settings(values, environment)
    questions = mixed(read_questions(Path(given.questions) if given.questions else SHIPPED), given.limit)
    wanted = _Output(given.json, Path(given.answers) if given.answers else None)
    flags = tuple(_backend_flags(given))
    return settings, FitOptions(questions, given.concurrency, given.baseline, backend_flags=flags), wanted


def _backend_flags(given: argparse.Namespace) -> Iterator[str]:
    """Yield the flags of the backends that the user gave, and their values."""
    for setting in fields(BackendSettings):
        value = getattr(given, setting.name)
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                yield from (flag(setting.name), str(one))


def _add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command. `read_flags` adds the flags of the settings."""
    parser.add_argument(
        "--baseline",
        default=BASELINE_NAMES[0],
        metavar="ARM",
        help="what bundles are compared with: raw, raw-matched, `default` or another bundle [raw]",
    )
    parser.add_argument(
        "--questions", default="", metavar="FILE", help="file of your own questions (docs/fit.md) [drpo's]"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="ask only N questions; each kind keeps its share [all]")
    parser.add_argument(
        "--concurrency", type=int, default=_DEFAULT_CONCURRENCY, metavar="N", help="questions asked at once [4]"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--answers", default="", metavar="FILE", help="write all answers to this file, as JSON lines")


def _check_count(parser: argparse.ArgumentParser, name: str, value: int | None, most: int | None) -> None:
    if value is not None and (value < 1 or (most is not None and value > most)):
        parser.error(f"{name} {value}: give a number from 1" + (f" to {most}" if most else ""))


def _hidden_settings() -> frozenset[str]:
    """Return the names of the settings that matter only to a server.

    Their flags are accepted, so that the command line of a server works here too.
    """
    groups = [group for name, group in setting_groups().items() if name not in _SHOWN_GROUPS]
    return frozenset(one.name for group in groups for one in fields(group))


def _write_answers(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write the lines as JSON. A call before the run, without lines, finds a wrong path early."""
    try:
        with path.open("wb") as file:
            for line in lines:
                file.write(orjson.dumps(line) + b"\n")
    except OSError as error:
        raise StartupError(f"--answers {path}: {error.strerror or 'cannot be written'}.") from error


def _answer_lines(outcomes: Outcomes) -> Iterator[Mapping[str, Any]]:
    """Yield one object for each answer: its arm, its question, the kind of the question, its text, and how it ended."""
    for question in outcomes.questions:
        for arm in outcomes.arms:
            answer = outcomes.by_arm[arm.name].get(question.id)
            if isinstance(answer, Answer):
                yield {
                    "arm": arm.name,
                    "question": question.id,
                    "kind": question.kind,
                    "text": answer.text,
                    "finish_reason": answer.finish_reason,
                }
