"""Builds the requests to a judge's model, and parses the replies. All functions are pure: they call no model."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from optimizer.core.errors import UnparsableReplyError
from optimizer.models.cached_calls import Json, Request, reply_reader
from optimizer.templates import criteria_table, template

ROLE: Final = "judge"
MIN_SCORE, MAX_SCORE = 1, 5
MIN_CRITERIA, MAX_CRITERIA = 2, 5
_DIGITS: Final = frozenset("12345")
_TOP_LOGPROBS = 20
_MAX_TOKENS = 1024
_PREFERENCE = re.compile(r"\b(?:output|answer)\s*\(?([ab])\)?\s+is\s+better", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Criterion:
    """One aspect by which a judge scores an answer.

    Attributes:
        name: The name in lower case.
        question: The question about an answer that the judge has to consider.
        anchors: For some of the scores from 1 to 5: the description of an answer that deserves this score.
    """

    name: str
    question: str
    anchors: Mapping[int, str]

    @property
    def rubric(self) -> str:
        """The text that describes the criterion to the judge."""
        anchors = "\n".join(f"    {score}: {text}" for score, text in sorted(self.anchors.items()))
        return f"- {self.name}: {self.question}\n{anchors}"


def template_criteria() -> dict[str, Criterion]:
    """Return the criteria of templates/criteria.toml, by name."""
    return {
        name: Criterion(name, entry["asks"], {int(score): entry[score] for score in ("1", "3", "5")})
        for name, entry in criteria_table().items()
    }


def new_criterion(definition: Mapping[str, str]) -> Criterion:
    """Return a criterion that the judge defined in a reply."""
    anchors = {MIN_SCORE: definition["one"], MAX_SCORE: definition["five"]}
    return Criterion(definition["name"], definition["asks"], anchors)


def choice_request(query: str) -> Request:
    """Return the request that asks the judge which criteria decide whether an answer to the query is good."""
    listed = "\n".join(f"- {criterion.name}: {criterion.question}" for criterion in template_criteria().values())
    return _request(template("choose").format(criteria=listed, query=query))


@reply_reader("optimizer.judge.read_choice")
def read_choice(reply: Any) -> Json:
    """Parse the criteria that the judge chose.

    Criteria that the judge defines in the reply count as chosen. A chosen name is left out if neither
    templates/criteria.toml nor the reply defines a criterion with this name.

    Returns:
        A mapping with two keys. `criteria` is the list of the chosen names, at most five. `new` is the list of the
        definitions that the judge wrote for these criteria.

    Raises:
        UnparsableReplyError: The reply holds no JSON object, or fewer than two defined criteria are left.
    """
    choice = parse_json_object(_content(reply))
    new = [_parse_definition(definition) for definition in choice.get("new") or []]
    names = list(dict.fromkeys(str(name).strip().lower() for name in choice["criteria"]))
    names += [definition["name"] for definition in new if definition["name"] not in names]
    defined = {*criteria_table(), *(definition["name"] for definition in new)}
    chosen = [name for name in names if name in defined][:MAX_CRITERIA]
    if len(chosen) < MIN_CRITERIA:
        raise UnparsableReplyError(f"fewer than {MIN_CRITERIA} criteria are known ones")
    return {"criteria": chosen, "new": [definition for definition in new if definition["name"] in chosen]}


def rating_request(query: str, answer: str, criteria: Sequence[Criterion]) -> Request:
    """Return the request that asks for a score from 1 to 5 and a rationale for each criterion."""
    shape = orjson.dumps({one.name: {"rationale": "...", "score": "1 to 5"} for one in criteria}).decode()
    rubrics = "\n".join(criterion.rubric for criterion in criteria)
    prompt = template("evaluate").format(query=query, answer=answer, criteria=rubrics, shape=shape)
    return _request(prompt, _rating_schema(criteria), logprobs=True, top_logprobs=_TOP_LOGPROBS)


@reply_reader("optimizer.judge.read_verdict")
def read_rating(reply: Any) -> Json:
    """Parse the judge's score and rationale for each criterion.

    If the reply holds log-probabilities for the token that contains a score, the parsed score is the mean of the
    possible scores from 1 to 5, weighted by their probabilities. Otherwise it is the score that the judge wrote.

    Returns:
        A mapping with two keys. `scores` maps the name of each criterion to a score from 1 to 5. `rationales` maps the
        name of each criterion to a text.
    """
    content = _content(reply)
    rating = parse_json_object(content)
    tokens = ((reply["choices"][0].get("logprobs") or {}).get("content")) or []
    offsets = list(_score_offsets(content))
    scores, rationales = {}, {}
    for number, (name, entry) in enumerate(rating.items()):
        score = int(entry["score"])
        if not MIN_SCORE <= score <= MAX_SCORE:
            raise UnparsableReplyError(f"a score of {score}")
        has_offset = len(offsets) == len(rating)
        expected = _expected_score(tokens, offsets[number], score) if has_offset else None
        scores[str(name)] = float(score) if expected is None else expected
        rationales[str(name)] = str(entry.get("rationale", ""))
    return {"scores": scores, "rationales": rationales}


def preference_request(query: str, first: str, second: str) -> Request:
    """Return the request that asks which of two answers is better. The judge reads `first` as A and `second` as B."""
    return _request(template("compare").format(query=query, first=first, second=second))


@reply_reader("optimizer.judge.read_preference")
def read_preference(reply: Any) -> Json:
    """Parse which answer the judge prefers, from JSON or from a sentence such as "Output (a) is better".

    Returns:
        A mapping with the key `better`, whose value is A or B.

    Raises:
        UnparsableReplyError: The reply names neither A nor B.
    """
    content = _content(reply)
    in_words = _PREFERENCE.findall(content)
    if "{" not in content and in_words:
        return {"better": in_words[-1].upper()}
    better = str(parse_json_object(content)["better"]).strip().upper()
    if better not in ("A", "B"):
        raise UnparsableReplyError("neither A nor B")
    return {"better": better}


def parse_json_object(content: str) -> dict[str, Any]:
    """Parse the JSON object in a reply, with or without a code fence around it. Raises UnparsableReplyError."""
    begin, end = content.find("{"), content.rfind("}")
    try:
        parsed = orjson.loads(content[begin : end + 1])
    except orjson.JSONDecodeError:
        raise UnparsableReplyError("no JSON object") from None
    if not isinstance(parsed, dict):
        raise UnparsableReplyError("no JSON object")
    return parsed


def _content(reply: Any) -> str:
    return str(reply["choices"][0]["message"]["content"])


def _request(prompt: str, schema: Json | None = None, **parameters: Any) -> Request:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0.0,
        "max_tokens": _MAX_TOKENS,
    }
    response_format = {"type": "json_object"} if schema is None else {"type": "json_schema", "json_schema": schema}
    return Request(ROLE, "chat/completions", {**body, "response_format": response_format, **parameters})


def _rating_schema(criteria: Sequence[Criterion]) -> Json:
    entry = {
        "type": "object",
        "properties": {"rationale": {"type": "string"}, "score": {"type": "integer", "minimum": 1, "maximum": 5}},
        "required": ["rationale", "score"],
        "additionalProperties": False,
    }
    names = [criterion.name for criterion in criteria]
    schema = {"type": "object", "properties": dict.fromkeys(names, entry), "required": names}
    return {"name": "verdict", "strict": True, "schema": {**schema, "additionalProperties": False}}


def _parse_definition(definition: Mapping[str, Any]) -> dict[str, str]:
    fields = {key: str(definition[key]) for key in ("asks", "one", "five")}
    return {"name": str(definition["name"]).strip().lower(), **fields}


def _score_offsets(content: str) -> Iterator[int]:
    """Yield the position of the digit of each score, as a number of characters from the beginning of the reply."""
    return (found.end() - 1 for found in re.finditer(r'"score"\s*:\s*"?[1-5]', content))


def _expected_score(tokens: Sequence[Mapping[str, Any]], offset: int, score: int) -> float | None:
    """Return the mean of the scores that the token at a position could stand for, weighted by their probabilities.

    Return None if the token has no log-probabilities, or if it contains other text than the score, except white space
    and quotation marks.

    Args:
        tokens: The tokens of the reply, with the log-probabilities of the alternatives to each token.
        offset: The position of a score's digit in the reply, in characters.
        score: The score that the judge wrote there.
    """
    start = 0
    for token in tokens:
        text = str(token["token"])
        if start <= offset < start + len(text):
            if _digit_text(text) != str(score):
                return None  # the token holds more than the digit
            weights = _digit_weights(token.get("top_logprobs") or [])
            total = sum(weights.values())
            return sum(digit * weight for digit, weight in weights.items()) / total if total else None
        start += len(text)
    return None


def _digit_weights(alternatives: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return the probability of each digit from 1 to 5 among the alternatives of a token."""
    weights: dict[int, float] = {}
    for alternative in alternatives:
        text = _digit_text(str(alternative["token"]))
        if text in _DIGITS:
            weights[int(text)] = weights.get(int(text), 0.0) + math.exp(float(alternative["logprob"]))
    return weights


def _digit_text(token: str) -> str:
    return token.strip().strip('"')
