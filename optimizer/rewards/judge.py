"""A language model as judge: it chooses the criteria for a query, scores an answer by each, and compares two answers.

Knows the judge's requests and replies; knows neither the model under test nor the search. After DRPO (arXiv 2411.08733,
section 3.2), with three differences: a criterion that the judge adds is defined once and frozen for the run (its reply
is in the journal); a score is the expectation over the score token's distribution where the server tells
log-probabilities; a reply that cannot be read is asked for again and never scored.
"""

import asyncio
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from optimizer.core.errors import UnparsableReplyError
from optimizer.data.dataset import Row
from optimizer.models.cached_calls import Calls, Json, Request
from optimizer.rewards.rewards import Case, Part
from optimizer.templates import criteria_table, template

ROLE: Final = "judge"
LOWEST, HIGHEST = 1, 5
FEWEST, MOST = 2, 5
_TOP_LOGPROBS = 20
_PREFERENCE = re.compile(r"\b(?:output|answer)\s*\(?([ab])\)?\s+is\s+better", re.IGNORECASE)
_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Criterion:
    """What is asked of an answer, and what scores look like: anchors by score, from 1 to 5."""

    name: str
    asks: str
    anchors: Mapping[int, str]

    @property
    def rubric(self) -> str:
        """As the judge reads it."""
        anchors = "\n".join(f"    {score}: {text}" for score, text in sorted(self.anchors.items()))
        return f"- {self.name}: {self.asks}\n{anchors}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judge's scores of one answer by criterion, from 1 to 5, and its reasons."""

    scores: Mapping[str, float]
    rationales: Mapping[str, str]

    @property
    def mean(self) -> float:
        """DRPO's reward: the mean over the criteria."""
        return sum(self.scores.values()) / len(self.scores)


class Judge:
    """Asks the judge's model. safety: an answer that the criterion safety scores below it breaks a constraint."""

    def __init__(self, calls: Calls, safety: float = 3.0) -> None:
        self._calls = calls
        self._safety = safety

    async def criteria(self, query: str) -> tuple[Criterion, ...]:
        """The 2 to 5 criteria for a query; the same ones for the whole run. Raises ModelError, BudgetSpentError."""
        known = known_criteria()
        listed = "\n".join(f"- {one.name}: {one.asks}" for one in known.values())
        prompt = template("choose").format(criteria=listed, query=query)
        chosen = await self._calls.ask(_request(prompt), read_choice)
        added = {new["name"]: _added(new) for new in chosen["new"]}
        return tuple({**known, **added}[name] for name in chosen["criteria"])

    async def prepare(self, row: Row) -> None:
        """Choose the criteria for a row before there is an answer to it, as DRPO does."""
        await self.criteria(_asked(row))

    async def verdict(self, query: str, answer: str) -> Verdict:
        """An answer, scored by the query's criteria. Raises ModelError, BudgetSpentError."""
        criteria = await self.criteria(query)
        return await self.evaluate(query, answer, criteria)

    async def evaluate(self, query: str, answer: str, criteria: Sequence[Criterion]) -> Verdict:
        """An answer, scored by these criteria. Raises ModelError, BudgetSpentError."""
        shape = orjson.dumps({one.name: {"rationale": "...", "score": "1 to 5"} for one in criteria}).decode()
        rubrics = "\n".join(one.rubric for one in criteria)
        prompt = template("evaluate").format(query=query, answer=answer, criteria=rubrics, shape=shape)
        request = _request(prompt, _schema(criteria), logprobs=True, top_logprobs=_TOP_LOGPROBS)
        kept = await self._calls.ask(request, read_verdict)
        missing = [one.name for one in criteria if one.name not in kept["scores"]]
        if missing:
            raise UnparsableReplyError(f"judge: no score for {', '.join(missing)}")
        return Verdict({one.name: kept["scores"][one.name] for one in criteria}, kept["rationales"])

    async def better(self, query: str, first: str, second: str) -> float:
        """1 if `first` is the better answer in both orders, 0 if `second` is, 0.5 if the order decides."""
        orders = await asyncio.gather(self.prefers(query, first, second), self.prefers(query, second, first))
        return (float(orders[0]) + 1.0 - float(orders[1])) / 2

    async def prefers(self, query: str, first: str, second: str) -> bool:
        """Whether the judge, asked in this order, prefers the first. Raises ModelError, BudgetSpentError."""
        kept = await self._calls.ask(preference_request(query, first, second), read_preference)
        return bool(kept["better"] == "A")

    async def score(self, case: Case) -> Part:
        """As a reward: the mean score from 0 to 1. An unsafe answer breaks the constraint `safety`."""
        verdict = await self.verdict(_asked(case.row), case.reply.text)
        unsafe = verdict.scores.get("safety", float(HIGHEST)) < self._safety
        value = (verdict.mean - LOWEST) / (HIGHEST - LOWEST)
        details = {name: {"score": score, "why": verdict.rationales[name]} for name, score in verdict.scores.items()}
        return Part(value, details, ("safety",) if unsafe else ())


def known_criteria() -> dict[str, Criterion]:
    """The criteria of the template file by name."""
    return {
        name: Criterion(name, told["asks"], {int(key): told[key] for key in ("1", "3", "5")})
        for name, told in criteria_table().items()
    }


def read_choice(reply: Any) -> Json:
    """The criteria that the judge chose: `criteria` by name, `new` ones defined. What nobody defines is left out."""
    said = json_reply(_content(reply))
    new = [_new_criterion(one) for one in said.get("new") or []]
    names = list(dict.fromkeys(str(name).strip().lower() for name in said["criteria"]))
    names += [one["name"] for one in new if one["name"] not in names]
    defined = {*criteria_table(), *(one["name"] for one in new)}
    chosen = [name for name in names if name in defined][:MOST]
    if len(chosen) < FEWEST:
        raise UnparsableReplyError(f"fewer than {FEWEST} criteria are known ones")
    return {"criteria": chosen, "new": [one for one in new if one["name"] in chosen]}


def read_verdict(reply: Any) -> Json:
    """Scores from 1 to 5 and rationales by criterion; a score is an expectation where log-probabilities are told."""
    content = _content(reply)
    said = json_reply(content)
    tokens = ((reply["choices"][0].get("logprobs") or {}).get("content")) or []
    places = list(_score_places(content))
    scores, rationales = {}, {}
    for number, (name, told) in enumerate(said.items()):
        score = int(told["score"])
        if not LOWEST <= score <= HIGHEST:
            raise UnparsableReplyError(f"a score of {score}")
        exact = len(places) == len(said)
        expected = _expectation(tokens, places[number], score) if exact else None
        scores[str(name)] = float(score) if expected is None else expected
        rationales[str(name)] = str(told.get("rationale", ""))
    return {"scores": scores, "rationales": rationales}


def preference_request(query: str, first: str, second: str) -> Request:
    """Which of two answers is better, asked in this order."""
    return _request(template("compare").format(query=query, first=first, second=second))


def read_preference(reply: Any) -> Json:
    """`better`: A or B; said as JSON, or in words by a judge that does not keep to it ("Output (a) is better")."""
    content = _content(reply)
    in_words = _PREFERENCE.findall(content)
    if "{" not in content and in_words:
        return {"better": in_words[-1].upper()}
    better = str(json_reply(content)["better"]).strip().upper()
    if better not in ("A", "B"):
        raise UnparsableReplyError("neither A nor B")
    return {"better": better}


def json_reply(content: str) -> dict[str, Any]:
    """The JSON object in a reply, with or without a fence around it. Raises UnparsableReplyError."""
    begin, end = content.find("{"), content.rfind("}")
    try:
        said = orjson.loads(content[begin : end + 1])
    except orjson.JSONDecodeError:
        raise UnparsableReplyError("no JSON object") from None
    if not isinstance(said, dict):
        raise UnparsableReplyError("no JSON object")
    return said


def _content(reply: Any) -> str:
    return str(reply["choices"][0]["message"]["content"])


def _request(prompt: str, schema: Json | None = None, **more: Any) -> Request:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0.0,
        "max_tokens": _TOKENS,
    }
    wanted = {"type": "json_object"} if schema is None else {"type": "json_schema", "json_schema": schema}
    return Request(ROLE, "chat/completions", {**body, "response_format": wanted, **more})


def _schema(criteria: Sequence[Criterion]) -> Json:
    one = {
        "type": "object",
        "properties": {"rationale": {"type": "string"}, "score": {"type": "integer", "minimum": 1, "maximum": 5}},
        "required": ["rationale", "score"],
        "additionalProperties": False,
    }
    names = [criterion.name for criterion in criteria]
    whole = {"type": "object", "properties": dict.fromkeys(names, one), "required": names}
    return {"name": "verdict", "strict": True, "schema": {**whole, "additionalProperties": False}}


def _new_criterion(told: Mapping[str, Any]) -> dict[str, str]:
    defined = {key: str(told[key]) for key in ("asks", "one", "five")}
    return {"name": str(told["name"]).strip().lower(), **defined}


def _added(new: Mapping[str, str]) -> Criterion:
    return Criterion(new["name"], new["asks"], {LOWEST: new["one"], HIGHEST: new["five"]})


def _score_places(content: str) -> Iterator[int]:
    """Where each score's digit stands."""
    return (found.end() - 1 for found in re.finditer(r'"score"\s*:\s*"?[1-5]', content))


def _expectation(tokens: Sequence[Mapping[str, Any]], place: int, score: int) -> float | None:
    """The mean of 1 to 5 under the distribution of the token at character `place`; None where it is not told."""
    start = 0
    for token in tokens:
        text = str(token["token"])
        if start <= place < start + len(text):
            if text.strip().strip('"') != str(score):
                return None  # the digit shares its token with something else
            weights = _digit_weights(token.get("top_logprobs") or [])
            total = sum(weights.values())
            return sum(digit * weight for digit, weight in weights.items()) / total if total else None
        start += len(text)
    return None


def _digit_weights(alternatives: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    weights: dict[int, float] = {}
    for one in alternatives:
        text = str(one["token"]).strip().strip('"')
        if text in {"1", "2", "3", "4", "5"}:
            weights[int(text)] = weights.get(int(text), 0.0) + math.exp(float(one["logprob"]))
    return weights


def _asked(row: Row) -> str:
    """What the judge is shown of a row: its query, after the turns before it."""
    if not row.history:
        return row.query
    turns = "\n".join(f"[{message.role}] {message.text}" for message in row.messages)
    return f"(a conversation; judge the answer to its last turn)\n{turns}"
