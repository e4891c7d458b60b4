"""Builds the requests to a judge's model, and parses the replies. All functions are pure: they call no model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from optimizer.core.errors import UnparsableReplyError
from optimizer.core.model_tables import ANCHORED, EXPECTED, JudgeTable
from optimizer.core.request_form import JSON_SCHEMA, LETTER, TEXT
from optimizer.models.reply_text import answer_text, find_object, without_reasoning
from optimizer.models.request import Json, ReplyReader, Request, reply_reader
from optimizer.rewards.criteria import (
    Criterion,
    known_reasons,
    names_in,
    one_line,
    read_definitions,
    rubric,
    template_criteria,
)
from optimizer.rewards.judge_replies import MAX_SCORE, MIN_SCORE, read_letter, read_scores
from optimizer.rewards.log_probabilities import DIGITS, expected_score, letter_weights, log_probability_tokens
from optimizer.templates import template

ROLE: Final = "judge"
_TOP_LOGPROBS: Final = 20
_MAX_TOKENS: Final = 1024
_LETTER_TOKENS: Final = 4
"""The maximum number of tokens of a reply of one letter. Some models write white space before the letter."""
_JSON_REMINDER: Final = "Your last reply could not be read. Reply with one complete JSON object and no other text."
_PLAIN_REMINDER: Final = "Your last reply could not be read. Reply exactly in the form that is asked for above."
_QUESTIONS: Final = ("topic", "intent", "ambiguities", "response_format", "challenges")
"""What the judge says about a query before it chooses criteria for it."""
_STRING: Final = {"type": "string"}


def choice_request(query: str, table: JudgeTable, *, plain: bool = False) -> Request:
    """Return the request that asks the judge which criteria decide whether an answer to the query is good.

    Args:
        query: The query.
        table: How the judge works.
        plain: Whether the judge has to reply with the names alone, instead of JSON.
    """
    known = template_criteria(table.criteria).values()
    listed = "\n".join(f"- {criterion.name}: {criterion.question}" for criterion in known)
    texts = {"criteria": listed, "query": query, "fewest": table.fewest, "most": table.most}
    if plain:
        return _request(template("choose_plain").format(**texts), _PLAIN_REMINDER)
    new = f"\n{template('choose_new')}\n" if table.new_criteria else ""
    name = "choose_analysis" if table.analysis else "choose"
    prompt = template(name).format(**texts, new=new, shape=_choice_shape(table))
    return _request(prompt, _JSON_REMINDER, _choice_schema(table))


def choice_reader(table: JudgeTable) -> ReplyReader:
    """Return the reader of the criteria that the judge chose.

    Criteria that the judge defines in the reply count as chosen, if the judge may define criteria. A chosen name is
    left out if it is unknown. A name is known if it is one of the criteria to choose from, or if the reply contains a
    usable definition of the name. If the reply is plain text (it contains no `{`), every known name in it counts as
    chosen.

    The reader returns a mapping with three keys. `criteria` is the list of the chosen names, cut to `table.most` names.
    `new` is the list of the definitions that the judge wrote for these criteria. `reasons` has the reason for each
    name, which may be empty. The reader raises UnparsableReplyError if the reply contains a brace but no JSON object
    with the key `criteria`, or if fewer than `table.fewest` known names are left.
    """

    def read(reply: Any) -> Json:
        text = answer_text(reply["choices"][0])
        found = find_object(text, lambda value: isinstance(value.get("criteria"), list))
        known = template_criteria(table.criteria)
        if found is None:
            new, reasons = {}, dict.fromkeys(names_in(without_reasoning(text), known), "")
        else:
            defined = found.value.get("new") if table.new_criteria else None
            defined = defined if isinstance(defined, list) else []
            new = read_definitions(defined)
            reasons = known_reasons([*found.value["criteria"], *defined], [*new, *known])
            common = found.value.get("reason")
            if isinstance(common, str):
                reasons = {name: reason or one_line(common) for name, reason in reasons.items()}
        chosen = list(reasons)[: table.most]
        if len(chosen) < table.fewest:
            raise UnparsableReplyError(f"fewer than {table.fewest} criteria in the reply are known")
        return {
            "criteria": chosen,
            "new": [new[name] for name in chosen if name in new],
            "reasons": {name: reasons[name] for name in chosen},
        }

    return ReplyReader("optimizer.judge.read_choice", read)


def rating_request(
    query: str, answer: str, criteria: Sequence[Criterion], table: JudgeTable, *, plain: bool = False
) -> Request:
    """Return the request that asks for a score from 1 to 5 for each criterion.

    Args:
        query: The query.
        answer: The answer to score.
        criteria: The criteria.
        table: How the judge works.
        plain: Whether the judge has to write a line for each criterion, instead of JSON with rationales.
    """
    rubrics = "\n".join(rubric(criterion, table) for criterion in criteria)
    heading = "Criteria, and what their scores mean:" if table.manner == ANCHORED else "Criteria:"
    texts = {"query": query, "answer": answer, "criteria": rubrics, "heading": heading, "manner": _manner(table)}
    if plain:
        lines = "\n".join(f"{one.name}: (score)" for one in criteria)
        prompt = template("evaluate_plain").format(**texts, lines=lines)
        return _rated(_request(prompt, _PLAIN_REMINDER), table)
    shape = orjson.dumps({one.name: {"rationale": "...", "score": "1 to 5"} for one in criteria}).decode()
    prompt = template("evaluate").format(**texts, shape=shape)
    logprobs = {"logprobs": True, "top_logprobs": _TOP_LOGPROBS} if table.scores == EXPECTED else {}
    return _rated(_request(prompt, _JSON_REMINDER, _rating_schema(criteria), **logprobs), table)


def rating_reader(names: Sequence[str], table: JudgeTable) -> ReplyReader:
    """Return the reader of the judge's score and rationale for each of the named criteria.

    If the table asks for expected scores, and the reply holds log-probabilities for the token that contains a score,
    the score is the mean of the possible scores from 1 to 5, weighted by their probabilities. Otherwise it is the score
    that the judge wrote.

    The reader returns a mapping with two keys. `scores` maps the name of each criterion to a score from 1 to 5.
    `rationales` maps the name of each criterion to a text.
    """

    def read(reply: Any) -> Json:
        text = answer_text(reply["choices"][0])
        written = read_scores(text, names)
        tokens = log_probability_tokens(reply, text) if table.scores == EXPECTED else []
        scores = {name: expected_score(tokens, one.digit, one.value) for name, one in written.items()}
        return {"scores": scores, "rationales": {name: one.rationale for name, one in written.items()}}

    return ReplyReader("optimizer.judge.read_verdict", read)


def digit_request(query: str, answer: str, criterion: Criterion, table: JudgeTable) -> Request:
    """Return the request that asks for the score for one criterion as a single digit."""
    heading = "The criterion, and what its scores mean:" if table.manner == ANCHORED else "The criterion:"
    texts = {"query": query, "answer": answer, "criterion": rubric(criterion, table), "heading": heading}
    return _rated(_letter_request(template("evaluate_letter").format(**texts, manner=_manner(table))), table)


@reply_reader("optimizer.judge.read_digit")
def read_digit(reply: Any) -> Json:
    """Return a mapping with two keys, for a reply of one digit.

    `score` is the mean of the scores, weighted by the probabilities of their digits. `digit` is the most probable one.
    """
    weights = letter_weights(reply, DIGITS)
    expected = sum(int(digit) * weight for digit, weight in weights.items()) / sum(weights.values())
    return {"score": expected, "digit": int(max(weights, key=lambda digit: weights[digit]))}


def compare_wordings() -> tuple[str, ...]:
    """Return the other wordings of the question "Which of two answers is better?", without the usual wording."""
    return tuple(template("compare_wordings").split("\n\n"))


def preference_request(query: str, first: str, second: str, reply_format: str = "", wording: int = 0) -> Request:
    """Return the request that asks which of two answers is better. The judge reads `first` as A and `second` as B.

    Args:
        query: The query.
        first: The first answer.
        second: The second answer.
        reply_format: `letter` for one letter with its log-probabilities, `text` for a sentence, else JSON.
        wording: 0 for the usual wording of the question, or the number of another wording, counted from 1.
    """
    name = {LETTER: "compare_letter", TEXT: "compare_plain"}.get(reply_format, "compare")
    question, _, rest = template(name).partition("\n\n")
    question = compare_wordings()[wording - 1] if wording else question
    prompt = f"{question}\n\n{rest.format(query=query, first=first, second=second)}"
    if reply_format == LETTER:
        return _letter_request(prompt)
    if reply_format == TEXT:
        return _request(prompt, _PLAIN_REMINDER)
    return _request(prompt, _JSON_REMINDER, _preference_schema())


@reply_reader("optimizer.judge.read_preference")
def read_preference(reply: Any) -> Json:
    """Parse which answer the judge prefers, from JSON or from a sentence such as "Output (a) is better".

    Returns:
        A mapping with the key `better`, whose value is A or B.

    Raises:
        UnparsableReplyError: The reply does not name A or B.
    """
    return {"better": read_letter(answer_text(reply["choices"][0]))}


@reply_reader("optimizer.judge.read_preference_letter")
def read_preference_letter(reply: Any) -> Json:
    """Return a mapping with the key `better`: the letter with the higher probability."""
    weights = letter_weights(reply, ("A", "B"))
    if weights.get("A", 0.0) == weights.get("B", 0.0):
        raise UnparsableReplyError("A and B are equally probable")
    return {"better": max(weights, key=lambda letter: weights[letter])}


def _request(prompt: str, reminder: str, schema: Json | None = None, **parameters: Any) -> Request:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0.0,
        "max_tokens": _MAX_TOKENS,
        **parameters,
    }
    if schema is not None:
        body["response_format"] = {"type": JSON_SCHEMA, "json_schema": schema}
    return Request(ROLE, "chat/completions", body, reminder=reminder)


def _rated(request: Request, table: JudgeTable) -> Request:
    return replace(request, attempts=table.attempts)


def _letter_request(prompt: str) -> Request:
    return _request(prompt, "", max_tokens=_LETTER_TOKENS, logprobs=True, top_logprobs=_TOP_LOGPROBS)


def _manner(table: JudgeTable) -> str:
    """Return the instruction that tells the judge how to score.

    Only in the manner `anchored`, a text describes what each score means. In the other manners, a score says how far
    the judge agrees that the answer does well by the criterion.
    """
    manner = template(f"judge_{table.manner}")
    return manner if table.manner == ANCHORED else f"{manner}\n\n{template('judge_scale')}"


def _rating_schema(criteria: Sequence[Criterion]) -> Json:
    score = {"type": "integer", "minimum": MIN_SCORE, "maximum": MAX_SCORE}
    entry = _object_schema({"rationale": _STRING, "score": score})
    return _named_schema("verdict", {criterion.name: entry for criterion in criteria})


def _choice_shape(table: JudgeTable) -> str:
    """Return an example of the JSON object that the judge has to reply with. The request contains this example."""
    new = ', "new": [{"name": "...", "asks": "...", "one": "...", "five": "..."}]' if table.new_criteria else ""
    if not table.analysis:
        return f'{{"reason": "why these decide", "criteria": ["name", ...]{new}}}'
    analysis = ", ".join(f'"{question}": "..."' for question in _QUESTIONS)
    chosen = '[{"name": "...", "reason": "why this query calls for it"}, ...]'
    return f'{{"analysis": {{{analysis}}}, "criteria": {chosen}{new}}}'


def _choice_schema(table: JudgeTable) -> Json:
    definition = _object_schema({"name": _STRING, "asks": _STRING, "one": _STRING, "five": _STRING})
    # Without a limit in the schema, a weak judge chooses all criteria, and writes a reason for each.
    limits = {"minItems": 0 if table.new_criteria else table.fewest, "maxItems": table.most}
    new = {"new": {"type": "array", "items": definition, "maxItems": table.most}} if table.new_criteria else {}
    if not table.analysis:
        names = {"type": "array", "items": _STRING, **limits}
        return _named_schema("choice", {"reason": _STRING, "criteria": names, **new})
    chosen = {"type": "array", "items": _object_schema({"name": _STRING, "reason": _STRING}), **limits}
    analysis = _object_schema(dict.fromkeys(_QUESTIONS, _STRING))
    return _named_schema("choice", {"analysis": analysis, "criteria": chosen, **new})


def _preference_schema() -> Json:
    return _named_schema("preference", {"reason": _STRING, "better": {"type": "string", "enum": ["A", "B"]}})


def _named_schema(name: str, properties: Json) -> Json:
    return {"name": name, "strict": True, "schema": _object_schema(properties)}


def _object_schema(properties: Json) -> Json:
    shape = {"type": "object", "properties": properties, "required": list(properties)}
    return {**shape, "additionalProperties": False}
