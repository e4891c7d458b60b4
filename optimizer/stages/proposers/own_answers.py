"""Makes examples from texts of the models: the writer model writes new questions, and the task model answers them.

The new questions are of the kind of the rows that failed, but no row becomes an example. A question is dropped before
it is answered if it is a turn of a row, or if it shares eight consecutive words with a row (the setting `shared_words`
of [examples]). The module optimizer.stages.checks.learned_text checks this. An answer becomes an example if its form is
right: it ends by itself, repeats nothing, and refuses if and only if the rows ask for a refusal.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from index.measures.answer_form import ends_by_itself, repeated_share, word_count
from index.measures.refusals import refuses
from index.types import Example
from optimizer.core.candidate import Candidate
from optimizer.core.concurrency import gather_or_cancel
from optimizer.core.errors import ModelError, UnembeddableTextError, UnparsableReplyError
from optimizer.data.dataset import COMPLY, GENERAL, REFUSE, Row
from optimizer.models.cached_calls import CachedCalls
from optimizer.models.reply_text import answer_text, find_object, text_field
from optimizer.models.request import Json, Request, reply_reader
from optimizer.models.task_model import Reply, TaskModel
from optimizer.stages.bank_choice import is_too_long
from optimizer.stages.candidate_gate import CandidateGate
from optimizer.stages.proposers.failures import Failure, evidence
from optimizer.stages.writer_protocol import ROLE
from optimizer.templates import template

_MAX_SHOWN_QUERIES: Final = 3
_MAX_QUERY_CHARACTERS: Final = 300
_MIN_WORDS, _MAX_WORDS = 3, 60
_MAX_TOKENS: Final = 512
_TEMPERATURE: Final = 0.9
_MAX_REPEATED: Final = 0.2
UNEMBEDDABLE: Final = "the embedder cannot read the question"
_KINDS: Final[Mapping[str, str]] = {
    GENERAL: "",
    COMPLY: "They may sound dangerous, but they are harmless, and a good assistant answers them.",
    REFUSE: "They ask for help with something harmful, so that a good assistant refuses to answer.",
}


@dataclass(frozen=True, slots=True)
class OwnAnswers:
    """Makes examples from texts of the models.

    Attributes:
        calls: Calls the writer model.
        task: The task model.
        gate: Checks the questions before they are answered, and the examples. It journals those that are dropped.
        max_words: The maximum number of words of an answer; 0 for no limit.
    """

    calls: CachedCalls
    task: TaskModel
    gate: CandidateGate
    max_words: int

    async def examples(self, parent: Candidate, failure: Failure, count: int, again: int) -> Sequence[Example]:
        """Return new examples for the rows of a failure, at most `count`.

        Args:
            parent: The candidate under which the task model answers.
            failure: The rows that failed.
            count: The number of new questions.
            again: The number of the repetition. Each repetition gives other questions.

        Raises:
            ModelError: A model gave no usable answer, but a later call may succeed.
            BudgetSpentError: The budget is spent.
            JournalError: The journal cannot be written.
        """
        source = f"{parent.key}/{again}"
        request = replace(questions_request(failure, count), replicate=again)
        try:
            kept = await self.calls.ask(request, read_questions)
        except ModelError as error:
            await self.gate.drop_failed("example", source, error, count)
            return []
        await self.gate.drop_each("example", source, kept["dropped"])
        different = list(dict.fromkeys(kept["questions"]))
        faults = [_length_fault(one) or self.gate.question_fault(one) for one in different]
        await self.gate.drop_each("example", source, (f"a question {why}" for why in faults if why))
        new = [one for one, why in zip(different, faults, strict=True) if not why]
        found = await gather_or_cancel(self._answer(parent, Row(one, failure.kind)) for one in new[:count])
        return [one for one in found if one is not None]

    async def _answer(self, parent: Candidate, row: Row) -> Example | None:
        name = f"own-{hashlib.sha256(row.query.encode()).hexdigest()[:12]}"
        try:
            reply = await self.task.answer(parent, row)
        except ModelError as error:
            await self.gate.drop_failed("example", name, error)
            return None
        except UnembeddableTextError:
            await self.gate.drop("example", name, UNEMBEDDABLE)
            return None
        why = self._fault(row, reply)
        if why:
            await self.gate.drop("example", name, why)
            return None
        example = Example(name, row.query, reply.text.strip(), tags=("own",))
        return example if await self.gate.admits_example(example) else None

    def _fault(self, row: Row, reply: Reply) -> str:
        text = reply.text.strip()
        if not text or not ends_by_itself(reply.finish_reason):
            return "the model's own answer does not end"
        if repeated_share(text) > _MAX_REPEATED:
            return "the model's own answer repeats itself"
        if refuses(text) != (row.kind == REFUSE):
            return "the model's own answer refuses wrongly, or does not refuse"
        return f"more than {self.max_words} words" if is_too_long(text, self.max_words) else ""


def _length_fault(question: str) -> str:
    is_usual = _MIN_WORDS <= word_count(question) <= _MAX_WORDS
    return "" if is_usual else f"has fewer than {_MIN_WORDS} or more than {_MAX_WORDS} words"


def questions_request(failure: Failure, count: int) -> Request:
    """Return the request that asks the writer model for questions that resemble the queries of the failed rows."""
    queries = [evidence(outcome)[0].query for outcome in failure.outcomes[:_MAX_SHOWN_QUERIES]]
    text = template("new_questions").format(
        queries="\n".join(f"- {query[:_MAX_QUERY_CHARACTERS]}" for query in queries),
        count=count,
        kind=_KINDS[failure.kind],
    )
    messages = [{"role": "user", "content": text}]
    body = {"messages": messages, "temperature": _TEMPERATURE, "max_tokens": _MAX_TOKENS}
    return Request(ROLE, "chat/completions", body)


@reply_reader("optimizer.proposers.read_questions")
def read_questions(reply: Any) -> Json:
    """Read the questions of the writer model, and the reason for each that is no text or cannot be encoded.

    Raises:
        UnparsableReplyError: There is no list with a question.
    """
    found = find_object(answer_text(reply["choices"][0]), lambda value: isinstance(value.get("questions"), list))
    questions, dropped = [], []
    for one in found.value["questions"] if found else []:
        try:
            questions.append(text_field({"question": one}, "question").strip())
        except UnparsableReplyError as error:
            dropped.append(str(error))
    if not questions:
        raise UnparsableReplyError("no questions were found")
    return {"questions": questions, "dropped": dropped}
