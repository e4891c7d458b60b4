"""Asks a model short questions, as chat and as a text completion, to find out which kind it is.

The right answers are one word or a few words, so that even a chat model that explains a lot ends soon. The requests ask
for greedy decoding. The module does not depend on connections: the caller passes a function that sends requests.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from index.layouts import LAYOUTS, stop_strings
from index.rendering import text_prompt
from index.types import Example, Message
from proxy.backends.dialects.base import Dialect, Fetch
from proxy.backends.kinds.answers import Answer, read_chat, read_completion
from proxy.backends.kinds.decision import Decision, Findings, decide
from proxy.core.errors import BackendUnavailableError
from proxy.core.settings import Kind

QUESTIONS: Final = (
    "What is the capital of France? Answer with one word.",
    "What is 2 + 3? Answer with the number only.",
    "Is fire hot or cold? Answer with one word.",
)
_MAX_SHORT: Final = 48  # tokens of a short answer
_MAX_LONG: Final = 512  # tokens of a long answer; even a model that thinks aloud needs fewer
_LAYOUT: Final = LAYOUTS["query-answer"]
_PROMPT: Final = "Answer each query briefly."
_EXAMPLES: Final = (
    Example("1", "Name a yellow fruit.", "Banana."),
    Example("2", "How many days has a week?", "Seven."),
)
# These statuses tell nothing about the model: the same request may succeed later, or with another key.
_TEMPORARY: Final = frozenset({401, 403, 408, 409, 425, 429, *range(500, 600)}) - {501}
_KEY_NEEDED: Final = frozenset({401, 403})
_NOT_UNDERSTOOD: Final = frozenset({400, 422})


class KeyNeededError(BackendUnavailableError):
    """The server needs a key that the proxy does not have. The client's key may be sufficient."""


async def probe(model_id: str, dialect: Dialect, fetch: Fetch, reported: Kind | None) -> Decision:
    """Ask a model questions, and decide which kind it is.

    Args:
        model_id: The id of the model.
        dialect: The dialect of its server.
        fetch: A function that sends a request to the server and waits as long as an answer may take.
        reported: The kind that the server reports; None if it reports none.

    Raises:
        ProxyError: The server does not answer, or cannot serve the model now.
    """
    findings = await _ask_chat(model_id, fetch)
    if findings.is_clearly_chat:
        return decide(findings, reported)
    findings = await _ask_completion(findings, model_id, dialect, fetch)
    if findings.needs_long_answer:
        answer, _ = await _chat_answer(model_id, QUESTIONS[0], _MAX_LONG, fetch)
        findings = replace(findings, long=answer)
    return decide(findings, reported)


async def _ask_chat(model_id: str, fetch: Fetch) -> Findings:
    replies = await asyncio.gather(*(_chat_answer(model_id, one, _MAX_SHORT, fetch) for one in QUESTIONS))
    refusals = [refusal for answer, refusal in replies if answer is None]
    return Findings([answer for answer, _ in replies if answer], refusals[0] if refusals else "")


async def _chat_answer(model_id: str, question: str, limit: int, fetch: Fetch) -> tuple[Answer | None, str]:
    """Return the answer to a question, or None and why the server refused it."""
    base = {"model": model_id, "messages": [{"role": "user", "content": question}]}
    status, reply = await _post("/v1/chat/completions", base, limit, fetch)
    answer = read_chat(reply) if status == 200 else None
    return answer, "" if answer else _refusal(status, reply)


async def _ask_completion(findings: Findings, model_id: str, dialect: Dialect, fetch: Fetch) -> Findings:
    text = text_prompt(_LAYOUT, _PROMPT, _EXAMPLES, [Message("user", QUESTIONS[0])]).text
    base = dialect.completion_request({"model": model_id, "prompt": text, "stop": list(stop_strings(_LAYOUT))})
    status, reply = await _post("/v1/completions", base, _MAX_SHORT, fetch)
    answer = read_completion(reply) if status == 200 else None
    return replace(findings, completion=answer, completion_refusal="" if answer else _refusal(status, reply))


async def _post(path: str, base: Mapping[str, Any], limit: int, fetch: Fetch) -> tuple[int, Any]:
    """Send a request in the first form that the server understands, and return the status and the reply.

    Raises:
        ProxyError: The server does not answer, or answers with a status in _TEMPORARY.
    """
    status, reply = 0, None
    for options in _forms(limit):
        status, reply = await fetch(path, {**base, **options})
        if status not in _NOT_UNDERSTOOD or _lacks_template(reply):
            break
    if status in _TEMPORARY and not _lacks_template(reply):
        error = KeyNeededError if status in _KEY_NEEDED else BackendUnavailableError
        raise error(f"{path} answered {_refusal(status, reply)}")
    return status, reply


def _forms(limit: int) -> Sequence[Mapping[str, Any]]:
    """Return the options of a request in several forms, because servers differ in the fields that they accept.

    By default, vLLM removes template tokens from answers. The first form asks vLLM to keep these tokens, because they
    show that a model is a base model.
    """
    greedy = {"temperature": 0, "max_tokens": limit}
    return {**greedy, "skip_special_tokens": False}, greedy, {"max_tokens": limit}, {"max_completion_tokens": limit}


def _lacks_template(reply: Any) -> bool:
    return "template" in str(reply)[:4_000].lower()


def _refusal(status: int, reply: Any) -> str:
    if _lacks_template(reply):
        return f"{status}, no chat template"
    return f"{status}" if status != 200 else "200 without an answer"
