"""The checks of the models of a run: each model gets the requests that the run will send to it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from index.counted import counted
from index.errors import DrpoError
from index.model_names import is_served, plain_names, split_model_name
from optimizer.core.candidate import Candidate
from optimizer.core.errors import OptimizeError, RefusedRequestError, UnparsableReplyError, UnreachableError
from optimizer.core.journal import ESTIMATED
from optimizer.core.model_tables import ModelTable
from optimizer.core.request_form import JSON_SCHEMA, RequestForm
from optimizer.data.dataset import Row
from optimizer.models.negotiation import is_too_long
from optimizer.models.task_model import ROLE as TASK
from optimizer.models.task_model import Raw
from optimizer.models.token_count import NO_USAGE
from optimizer.rewards.criteria import default_criteria
from optimizer.rewards.judge import judged_text
from optimizer.rewards.judge_protocol import ROLE as JUDGE
from optimizer.rewards.judge_trust import Trust
from optimizer.search.space import Outcome, Step
from optimizer.stages.bank_choice import JudgedAnswer
from optimizer.stages.checks.judge_trial import try_judge
from optimizer.stages.run_context import RunContext, served_models
from optimizer.stages.writer_protocol import ROLE as WRITER
from optimizer.stages.writer_protocol import read_answers, read_prompts, rewrite_answer_request, rewrite_request

_NO_LIST: Final = frozenset((404, 405, 501))
_KEY_REFUSED: Final = frozenset((401, 403))
_MAX_NAMED_MODELS: Final = 5
_NO_ANSWER: Final = "I cannot say."


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        subject: What was checked.
        ok: True if the check passed, False if it failed, None if there was nothing to check.
        message: The result in words.
        advice: What to do; empty if there is nothing to do. It may have several lines.
        is_warning: Whether the run would work, but its result could not be trusted.
    """

    subject: str
    ok: bool | None
    message: str
    advice: str = ""
    is_warning: bool = False


def failed(subject: str, error: DrpoError, role: str = "ROLE") -> Finding:
    """Return the finding for a check that ended with an error, with advice on what to do."""
    message = error.without_run if isinstance(error, OptimizeError) else str(error)
    return Finding(subject, False, message, _advice(error, role))


async def check_model_list(role: str, table: ModelTable) -> Finding:
    """Check that the endpoint serves the model under its name in run.toml."""
    subject = f"models.{role}"
    try:
        names = await served_models(table)
    except RefusedRequestError as error:
        if error.status in _NO_LIST:
            return Finding(subject, None, f"{table.base_url} has no list of models, so {table.model} is not checked")
        return failed(subject, error, role)
    except DrpoError as error:
        return failed(subject, error, role)
    if not names:
        return Finding(subject, None, f"{table.base_url} lists no model, so {table.model} is not checked")
    if not is_served(table.model, names):
        listed = ", ".join(plain_names(names)[:_MAX_NAMED_MODELS])
        message = f"{table.base_url} does not list {table.model}. It lists {listed}"
        return Finding(subject, False, message, f"Set model in [models.{role}] to one of the listed names.")
    _, variant = split_model_name(table.model, plain_names(names))
    served = f" (variant {variant})" if variant else ""
    return Finding(subject, True, f"{table.model} at {table.base_url}{served}")


async def check_task(context: RunContext, candidate: Candidate, row: Row) -> tuple[Finding, Sequence[str]]:
    """Let the task model answer a row with the starting bundle, and another row without the bundle.

    Returns:
        The finding and one answer to each row. After an error, two other texts replace the answers, so that the judge
        can still be checked.
    """
    subject = f"models.{TASK} answers"
    try:
        reply = await context.task.answer(candidate, row)
        other = (context.data.sealed or context.data.train)[0]
        raw = [await context.task.answer(Raw(one), other) for one in (candidate.sampling, {})]
    except DrpoError as error:
        return failed(subject, error, TASK), (row.reference or _NO_ANSWER, _NO_ANSWER)
    tokens = counted(reply.completion_tokens, "token")
    message = f"the answer to the longest row has {tokens}, and ends with {reply.finish_reason}"
    return Finding(subject, True, message), (reply.text, raw[0].text)


async def check_judge(context: RunContext, row: Row, answers: Sequence[str]) -> Finding:
    """Let the judge choose criteria for a row, score an answer and compare two answers, as the run will do."""
    subject, judge, query = f"models.{JUDGE} judges", context.judge, judged_text(row)
    try:
        criteria = await judge.criteria(query)
        rating = await judge.rate_by(query, answers[0], criteria)
        compared = ""
        if context.config.reward.confirm:
            preferred = await judge.better(query, answers[0], answers[-1])
            compared = f"; it also compares answers in both orders ({preferred:g})"
    except DrpoError as error:
        return failed(subject, error, JUDGE)
    scores = ", ".join(f"{name} {score:.1f}" for name, score in rating.scores.items())
    reply_format = context.calls.form(JUDGE).reply_format or JSON_SCHEMA
    is_fixed = criteria == default_criteria(context.config.reward.judge.criteria)
    fixed = " (by fixed criteria, because its own choice of criteria could not be read)" if is_fixed else ""
    return Finding(
        subject, True, f"scores an answer to the longest row, in the format {reply_format}: {scores}{fixed}{compared}"
    )


async def check_trust(context: RunContext, candidate: Candidate) -> Sequence[Finding]:
    """Find out whether the judge can be trusted, in each way in which the run uses it."""
    subject = f"models.{JUDGE} can be trusted"
    try:
        found = await try_judge(context, candidate)
    except DrpoError as error:
        return [failed(subject, error, JUDGE)]
    return [_trust_finding(subject, trust) for trust in found]


def _trust_finding(subject: str, trust: Trust) -> Finding:
    if not trust.caution:
        return Finding(subject, True, trust.text)
    return Finding(subject, None, f"{trust.text}. {trust.caution}", trust.advice, is_warning=True)


async def check_writer(context: RunContext, candidate: Candidate, rows: Sequence[Row]) -> Finding:
    """Score the starting prompt on a few rows, and let the writer model rewrite it, as the search will do."""
    subject, search = f"models.{WRITER} rewrites", context.config.search
    try:
        outcomes = [await _outcome(context, candidate, number, row) for number, row in enumerate(rows)]
        path = (Step(candidate, tuple(outcomes)),)
        kept = await context.calls.ask(rewrite_request(path, search), read_prompts)
    except DrpoError as error:
        return failed(subject, error, WRITER)
    return _count_rewrites(subject, "the prompt", len(kept["prompts"]), search.actions)


async def check_example_writer(context: RunContext, row: Row, answer: str) -> Finding:
    """Let the writer model rewrite an answer to a row after it was judged, as the search for examples will do."""
    subject, table = f"models.{WRITER} rewrites answers", context.config.examples
    try:
        judged = JudgedAnswer(row, answer, await context.example_judge.rate(row.query, answer))
        kept = await context.calls.ask(rewrite_answer_request(judged, table), read_answers)
    except DrpoError as error:
        return failed(subject, error, WRITER)
    return _count_rewrites(subject, "an answer", len(kept["answers"]), table.actions)


def describe_form(context: RunContext, role: str) -> Finding | None:
    """Return the finding with lines for run.toml that set the form of requests; None if run.toml has this form."""
    form = context.calls.form(role)
    if form == context.config.models[role].request:
        return None
    message = "the server accepts another form of requests. A run finds this form by itself. Or add it to run.toml:"
    advice = "\n".join((f"[models.{role}.request]", *_toml_lines(form)))
    if role == TASK:
        advice += "\n# drpo-proxy sends the bundle's sampling and the system role as they are: see docs/run-toml.md"
    return Finding(f"models.{role}.request", True, message, advice)


def describe_usage(context: RunContext, role: str) -> Finding | None:
    """Return a warning if the server of a model reports no token counts; None if it does."""
    if not any(event.get("note") == ESTIMATED and event["role"] == role for event in context.journal.events):
        return None
    advice = "Set [budget] calls too, if the budget must be exact."
    return Finding(f"models.{role} usage", None, NO_USAGE, advice)


def _count_rewrites(subject: str, what: str, count: int, asked: int) -> Finding:
    advice = "" if count == asked else "The run works with fewer rewrites, but it learns less from each request."
    return Finding(subject, True, f"{count} of {counted(asked, 'rewrite')} of {what} can be read", advice)


async def _outcome(context: RunContext, candidate: Candidate, number: int, row: Row) -> Outcome:
    scored = await context.screen.score(candidate, row)
    return Outcome(number, scored.score, evidence=(row, scored))


def _advice(error: DrpoError, role: str) -> str:
    table = f"[models.{role}]"
    if isinstance(error, UnreachableError):
        return f"Start the server, or correct base_url in {table}."
    if isinstance(error, UnparsableReplyError):
        return (
            f"Set reply_format or max_tokens in [models.{role}.request], or use a more capable model "
            "(docs/run-toml.md, Servers that accept less)."
        )
    if not isinstance(error, RefusedRequestError):
        return ""
    if is_too_long(error):
        return "Serve the model with a longer context, or shorten the row. A run leaves out a few such rows."
    if error.status in _KEY_REFUSED:
        return f"Check the key in the environment variable that api_key_env of {table} names."
    return f"Check base_url and model in {table}. [models.{role}.request] changes what is sent (docs/run-toml.md)."


def _toml_lines(form: RequestForm) -> list[str]:
    return [f"{name} = {_toml_value(value)}" for name, value in form.differences.items()]


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_toml_value(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value, ensure_ascii=False)
