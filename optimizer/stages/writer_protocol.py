"""Builds the requests to the writer model, and reads its replies. All functions are pure: they call no model.

The tables [search.writer] and [examples.writer] decide which instructions a request contains, and how the writer model
samples its reply.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from optimizer.core.candidate import Candidate
from optimizer.core.config_tables import ExamplesTable, SearchTable
from optimizer.core.errors import UnparsableReplyError
from optimizer.core.model_tables import PUBLISHED_RULES, WriterTable
from optimizer.models.reply_text import answer_text, find_object, text_field
from optimizer.models.request import Json, Request, reply_reader
from optimizer.rewards.scorer import ScoredReply
from optimizer.search.space import Outcome, Path
from optimizer.stages.bank_choice import JudgedAnswer
from optimizer.stages.proposers.failures import Failure, evidence
from optimizer.templates import template

ROLE: Final = "optimizer"
_MAX_EARLIER_VERSIONS: Final = 4
_MAX_PUBLISHED_VERSIONS: Final = 5
_MAX_CASES: Final = 3
_MAX_FAILURES: Final = 4
_MAX_CASES_PER_FAILURE: Final = 2
_MAX_PROMPT_TOKENS: Final = 2048
_MAX_ANSWER_TOKENS: Final = 1024
_MAX_PUBLISHED_ANSWER_TOKENS: Final = 2048
_MAX_CASE_CHARACTERS: Final = 1500
_NONE_YET: Final = "(none yet)"
_PREFERENCES: Final = "What people prefer here. The answers under the new prompt must be like this:\n{}\n\n"
_PROMPT_KEYS: Final = ("new_system_prompt", "new_prompt", "system_prompt", "prompt")
_MISSING: Final = frozenset(("null", "none", "nil", "n/a", "undefined"))


def rewrite_request(
    path: Path[Candidate],
    table: SearchTable,
    count: int | None = None,
    failures: Sequence[Failure] = (),
    preferences: str = "",
) -> Request:
    """Return the request that asks the writer model for rewrites of the path's last prompt.

    With the instructions `short`, the request says what failed: for each group of failures, how many answers failed,
    and the worst ones with their scores and the details of the rewards. There are at most four groups. If there are no
    failures, the request contains the three answers with the lowest scores. It also contains at most four earlier
    prompts of the path. With the instructions `published`, it contains the answer to the last query with its
    evaluation, and the last five prompts of the path. An answer whose evaluation could not be read is not shown.

    Args:
        path: The steps from the first candidate of the search to the candidate to rewrite.
        table: The table [search].
        count: The number of rewrites. None means the setting `actions`.
        failures: What failed. The failures that cost most reward come first.
        preferences: What people prefer, as a list. Empty if it is unknown. The instructions `published` have no place
            for it.
    """
    is_published = table.writer.instructions == PUBLISHED_RULES
    prompt = _published_prompt(path, table) if is_published else _short_prompt(path, table, failures, preferences)
    return _request(prompt, table.writer, table.actions if count is None else count, _MAX_PROMPT_TOKENS)


def rewrite_answer_request(answer: JudgedAnswer, table: ExamplesTable) -> Request:
    """Return the request that asks the writer model for better answers, with the judge's reasons."""
    judgement = answer.judgement
    reasons = "\n".join(
        f"- {name}: {score:.1f}: {judgement.rationales[name]}" for name, score in judgement.scores.items()
    )
    is_published = table.writer.instructions == PUBLISHED_RULES
    limit = _limit(", stay under {} words", table.words)
    prompt = template("rewrite_answer_published" if is_published else "rewrite_answer").format(
        query=answer.row.query, answer=answer.text, judgement=reasons, limit=limit
    )
    max_tokens = _MAX_PUBLISHED_ANSWER_TOKENS if is_published else _MAX_ANSWER_TOKENS
    return _request(prompt, table.writer, table.actions, max_tokens)


def reasons_text(scored: ScoredReply) -> str:
    """Return what each reward says about an answer, one reward on each line."""
    return "\n".join(f"  {name}: {_details_text(part.details)}" for name, part in scored.parts.items())


@reply_reader("optimizer.prompt.read_prompts")
def read_prompts(reply: Any) -> Json:
    """Read the rewritten prompt of each choice, and the reason for each choice that holds no prompt.

    Raises:
        UnparsableReplyError: No choice holds a prompt.
    """
    prompts, dropped = _read_choices(reply, "prompt", _PROMPT_KEYS)
    return {"prompts": prompts, "dropped": dropped}


@reply_reader("optimizer.examples.read_answers")
def read_answers(reply: Any) -> Json:
    """Read the rewritten answer of each choice, and the reason for each choice that holds no answer.

    Raises:
        UnparsableReplyError: No choice holds an answer.
    """
    answers, dropped = _read_choices(reply, "answer", ("answer",))
    return {"answers": answers, "dropped": dropped}


def _request(prompt: str, writer: WriterTable, count: int, max_tokens: int) -> Request:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "n": count,
        "temperature": writer.temperature,
        "max_tokens": max_tokens,
    }
    if writer.top_p:
        body["top_p"] = writer.top_p
    return Request(ROLE, "chat/completions", body)


def _short_prompt(path: Path[Candidate], table: SearchTable, failures: Sequence[Failure], preferences: str) -> str:
    last = path[-1]
    readable = [outcome for outcome in last.outcomes if outcome.readable]
    worst = sorted(readable, key=lambda outcome: outcome.score)[:_MAX_CASES]
    cases = _failures_text(failures) or "\n\n".join(map(_case_text, worst)) or _NONE_YET
    earlier = "\n\n".join(
        f"--- version {number}{_mean_text(step.outcomes)} ---\n{step.candidate.prompt}"
        for number, step in enumerate(path[-_MAX_EARLIER_VERSIONS - 1 : -1], start=1)
    )
    limit = _limit(" At most {} words.", table.words)
    return template("rewrite_prompt").format(
        prompt=last.candidate.prompt,
        cases=cases,
        earlier=earlier or "(none)",
        preferences=_PREFERENCES.format(preferences) if preferences else "",
        limit=limit,
    )


def _published_prompt(path: Path[Candidate], table: SearchTable) -> str:
    last = path[-1]
    earlier = "\n\n".join(
        f"{number}. {step.candidate.prompt}" for number, step in enumerate(path[-_MAX_PUBLISHED_VERSIONS:], start=1)
    )
    return template("rewrite_prompt_published").format(
        **_last_case(last.outcomes),
        prompt=last.candidate.prompt,
        earlier=earlier,
        limit=_limit("\n12. The whole prompt has at most {} words.", table.words),
    )


def _last_case(outcomes: Sequence[Outcome]) -> Mapping[str, str]:
    """Return the last answer with a readable evaluation, as the texts of the template for published rewrites."""
    last = next((outcome for outcome in reversed(outcomes) if outcome.readable), None)
    if last is None:
        return dict.fromkeys(("query", "answer", "evaluation"), _NONE_YET)
    row, scored = evidence(last)
    evaluation = "\n".join(line for part in scored.parts.values() for line in _evaluation_lines(part.details))
    return {"query": row.query, "answer": scored.reply.text.strip(), "evaluation": evaluation}


def _limit(text: str, words: int) -> str:
    """Return the sentence about the maximum number of words; empty if there is no maximum."""
    return text.format(words) if words else ""


def _evaluation_lines(details: Mapping[str, Any]) -> Sequence[str]:
    return [
        f"- {name}: {value['score']:g}: {value['why']}" if isinstance(value, dict) else f"- {name}: {value:.2f}"
        for name, value in details.items()
    ]


def _failures_text(failures: Sequence[Failure]) -> str:
    """Return the groups of failures, each with its counts and its worst answers. No answer is shown twice."""
    shown: set[int] = set()
    groups = []
    for failure in failures[:_MAX_FAILURES]:
        cases = [outcome for outcome in failure.outcomes if outcome.query not in shown][:_MAX_CASES_PER_FAILURE]
        shown |= {outcome.query for outcome in cases}
        groups.append("\n\n".join([f"--- {failure.text} ---", *map(_case_text, cases)]))
    return "\n\n".join(groups)


def _case_text(outcome: Outcome) -> str:
    row, scored = evidence(outcome)
    query, answer = row.query[:_MAX_CASE_CHARACTERS], scored.reply.text[:_MAX_CASE_CHARACTERS]
    return f"Query: {query}\nAnswer: {answer}\nScore: {scored.score:.2f}\n{reasons_text(scored)}"


def _details_text(details: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} {value['score']:.1f} ({value['why']})" if isinstance(value, dict) else f"{name} {value:.2f}"
        for name, value in details.items()
    )


def _mean_text(outcomes: Sequence[Outcome]) -> str:
    scores = [outcome.score for outcome in outcomes if outcome.readable]
    return f" (mean score {sum(scores) / len(scores):.2f})" if scores else ""


def _read_choices(reply: Any, name: str, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Read a text from the JSON object in each choice of the writer model.

    Args:
        reply: The reply.
        name: What the text is, for the reasons.
        keys: The keys under which the text may be in the object. The first one that the object has counts.

    Returns:
        The texts, and the reason for each choice without a text.

    Raises:
        UnparsableReplyError: No choice holds a text.
    """
    texts, dropped = [], []
    for choice in reply["choices"]:
        try:
            text = _choice_text(choice, keys)
        except UnparsableReplyError as error:
            dropped.append(str(error))
            continue
        if _says_nothing(text):
            dropped.append(f"the {name} is empty")
        else:
            texts.append(text)
    if not texts:
        raise UnparsableReplyError(f"no choice holds a text under the key {name}: {', '.join(dict.fromkeys(dropped))}")
    return texts, dropped


def _choice_text(choice: Any, keys: Sequence[str]) -> str:
    found = find_object(answer_text(choice), lambda value: not value.keys().isdisjoint(keys))
    key = next((key for key in keys if found and key in found.value), keys[-1])
    return text_field(found and found.value, key).strip()


def _says_nothing(text: str) -> bool:
    """Whether a text has no letter or digit, such as the dots of a template, or is a word for a missing value."""
    return text.lower().strip(".") in _MISSING or not any(map(str.isalnum, text))
