"""Builds the body of a request in the form that a server accepts, and simplifies a form that a server refused.

The optimizer's other modules build requests in the form of OpenAI's API. The functions are pure.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from optimizer.core.request_form import JSON, JSON_OBJECT, JSON_SCHEMA, LETTER, MAX_TOKENS_FIELDS, TEXT, RequestForm
from optimizer.models.request import Json

_NEEDED: Final = frozenset(("model", "messages", "prompt", "echo", "n"))
"""Fields that are never left out, even if an error message names them. Without them, a request would have another
meaning."""
MAX_SHORT_REPLY: Final = 8
"""Requests with at most this many tokens ask for one letter or for no text. Their number of tokens is never raised."""
_FEWER_LOGPROBS: Final = 5
_FEWER_STOP_STRINGS: Final = 4
_FEWEST_TOKENS: Final = 128
"""A reply of the judge or the writer model with fewer tokens is of no use."""


def request_body(form: RequestForm, body: Json, min_tokens: int = 0) -> dict[str, Any]:
    """Return the body of a request in the form that the server accepts.

    Args:
        form: The form.
        body: The body in the usual form.
        min_tokens: The lowest value for the maximum number of tokens, because an earlier reply was cut.
    """
    sent = dict(body)
    if "messages" in sent:
        sent["messages"] = _messages(form.system_role, sent["messages"])
    if "n" in sent:
        _limit_choices(form, sent)
    _limit_stop_strings(form, sent)
    _limit_log_probabilities(form, sent)
    _set_response_format(form, sent)
    _set_max_tokens(form, sent, min_tokens)
    sent.update(form.extra)
    return {name: value for name, value in sent.items() if name not in form.omit}


def body_shape(path: str, sent: Json) -> tuple[object, ...]:
    """Return the properties of a body that a server can accept or refuse, apart from the texts in it.

    If a server accepted a body, and then refuses a body of the same shape, the reason is not the form.
    """
    roles = frozenset(str(message.get("role")) for message in sent.get("messages") or ())
    kind = (sent.get("response_format") or {}).get("type")
    sizes = sent.get("n"), sent.get("top_logprobs"), len(sent.get("stop") or ())
    return (path, frozenset(sent), roles, kind, sizes)


def max_reply_tokens(sent: Json, default: int) -> int:
    """Return the maximum number of completion tokens that a reply to this body can have in all its choices."""
    limits = [sent[name] for name in MAX_TOKENS_FIELDS if isinstance(sent.get(name), int)]
    return int(max(limits, default=default) * (sent.get("n") or 1))


@dataclass(frozen=True, slots=True)
class _Step:
    """One way to simplify a form.

    Attributes:
        named: The pattern that finds, in a server's error message, the name of what the step simplifies.
        simplify: Returns a simpler form; None if this body has nothing to simplify.
    """

    named: re.Pattern[str]
    simplify: Callable[[RequestForm, Json], RequestForm | None]


def simpler_forms(form: RequestForm, body: Json, message: str, *, is_unsure: bool = False) -> list[RequestForm]:
    """Return the simpler forms to try after a server refused a body, the most promising one first.

    If the message names fields of the body, only these fields are simplified. First each of them is simplified alone.
    Then all of them are simplified together, one step after the other.

    Args:
        form: The form that was refused.
        body: The body in the usual form.
        message: The server's error message.
        is_unsure: Whether the other fields are simplified too, after those that the message names. A message may hold a
            name by chance: "JSON" does not always mean the format of the reply.
    """
    sent = request_body(form, body)
    forms = list(_shorter_replies(form, body)) if limits_reply(message) else []
    if named := _named_steps(sent, message):
        forms += _simplified(named, form, body)
    if not named or is_unsure:
        forms += _simplified((*_STEPS, *map(_omitting, _other_fields(sent))), form, body)
    return [one for number, one in enumerate(forms) if one != form and one not in forms[:number]]


def _simplified(steps: Sequence[_Step], form: RequestForm, body: Json) -> list[RequestForm]:
    """Return the forms after each of these steps alone, and then after all of them together, again and again."""
    sent = request_body(form, body)
    forms = [found for step in steps if (found := step.simplify(form, sent)) is not None]
    combined = form
    while (simpler := _all_steps(steps, combined, body)) != combined:
        combined = simpler
        forms.append(combined)
    return forms


def _shorter_replies(form: RequestForm, body: Json) -> Iterator[RequestForm]:
    while (shorter := _fewer_tokens(form, request_body(form, body))) is not None:
        form = shorter
        yield form


def _all_steps(steps: Sequence[_Step], form: RequestForm, body: Json) -> RequestForm:
    sent = request_body(form, body)
    for step in steps:
        form = step.simplify(form, sent) or form
    return form


def names_field(sent: Json, message: str) -> bool:
    """Return whether a server's error message names a part of the body that can be simplified."""
    return bool(_named_steps(sent, message))


def _named_steps(sent: Json, message: str) -> Sequence[_Step]:
    known = [step for step in _STEPS if step.named.search(message)]
    named = [name for name in _other_fields(sent) if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", message)]
    return [*known, *(_omitting(name) for name in named)]


def limits_reply(message: str) -> bool:
    """Return whether a server's error message says that the maximum number of tokens of a reply is too large."""
    return _TOO_MANY_TOKENS.search(message) is not None


def _other_fields(sent: Json) -> list[str]:
    """Return the fields of a body that no step simplifies, and that may be left out, such as `top_p`."""
    return [name for name in sent if name not in _NEEDED and not any(step.named.search(name) for step in _STEPS)]


def _omitting(name: str) -> _Step:
    return _Step(re.compile(re.escape(name)), lambda form, sent: _omit(form, sent, name))


def _omit(form: RequestForm, sent: Json, name: str) -> RequestForm | None:
    return form.without(name) if name in sent and name not in form.omit else None


def _messages(system_role: str, messages: Sequence[Json]) -> list[Json]:
    if system_role == "user":
        return _merge_system_messages(messages)
    return [{**one, "role": system_role} if one["role"] == "system" else one for one in messages]


def _merge_system_messages(messages: Sequence[Json]) -> list[Json]:
    """Put the text of all system messages before the first user message, and join messages with the same role."""
    system = "\n\n".join(str(message["content"]) for message in messages if message["role"] == "system")
    merged: list[Json] = [{"role": "user", "content": system}] if system else []
    for message in messages:
        if message["role"] == "system":
            continue
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**message, "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        else:
            merged.append(message)
    return merged


def _limit_choices(form: RequestForm, sent: dict[str, Any]) -> None:
    count = min(sent["n"], form.max_choices) if form.max_choices else sent["n"]
    if count > 1:
        sent["n"] = count
    else:
        del sent["n"]  # the default; some servers refuse the field


def _limit_stop_strings(form: RequestForm, sent: dict[str, Any]) -> None:
    if "stop" in sent and form.max_stop_strings >= 0:
        sent["stop"] = sent["stop"][: form.max_stop_strings]
        if not sent["stop"]:
            del sent["stop"]


def _limit_log_probabilities(form: RequestForm, sent: dict[str, Any]) -> None:
    if "top_logprobs" not in sent:
        return
    sent["top_logprobs"] = min(sent["top_logprobs"], form.max_top_logprobs)
    if not sent["top_logprobs"]:
        del sent["top_logprobs"], sent["logprobs"]


def _set_response_format(form: RequestForm, sent: dict[str, Any]) -> None:
    if "response_format" not in sent:
        return
    if form.reply_format in (JSON, LETTER, TEXT):
        del sent["response_format"]
    elif form.reply_format == JSON_OBJECT:
        sent["response_format"] = {"type": JSON_OBJECT}


def _set_max_tokens(form: RequestForm, sent: dict[str, Any], min_tokens: int) -> None:
    if (limit := sent.pop(MAX_TOKENS_FIELDS[0], None)) is not None:
        longer = max(form.max_tokens or limit, min_tokens)
        sent[form.max_tokens_field] = limit if limit <= MAX_SHORT_REPLY else longer


def _other_max_tokens(form: RequestForm, sent: Json) -> RequestForm | None:
    if form.max_tokens_field not in sent:
        return None
    if form.max_tokens_field == MAX_TOKENS_FIELDS[0]:
        return replace(form, max_tokens_field=MAX_TOKENS_FIELDS[1])
    return form.without(MAX_TOKENS_FIELDS[1])


def _fewer_tokens(form: RequestForm, sent: Json) -> RequestForm | None:
    limit = sent.get(form.max_tokens_field, 0)
    return replace(form, max_tokens=limit // 2) if limit >= 2 * _FEWEST_TOKENS else None


def _fewer_choices(form: RequestForm, sent: Json) -> RequestForm | None:
    return replace(form, max_choices=int(sent["n"]) // 2) if sent.get("n", 1) > 1 else None


def _simpler_response_format(form: RequestForm, sent: Json) -> RequestForm | None:
    kind = (sent.get("response_format") or {}).get("type")
    lower = {JSON_SCHEMA: JSON_OBJECT, JSON_OBJECT: JSON}.get(kind or "")
    return replace(form, reply_format=lower) if lower else None


def _fewer_log_probabilities(form: RequestForm, sent: Json) -> RequestForm | None:
    if "top_logprobs" not in sent:
        return None
    return replace(form, max_top_logprobs=_FEWER_LOGPROBS if sent["top_logprobs"] > _FEWER_LOGPROBS else 0)


def _fewer_stop_strings(form: RequestForm, sent: Json) -> RequestForm | None:
    if not sent.get("stop"):
        return None
    return replace(form, max_stop_strings=_FEWER_STOP_STRINGS if len(sent["stop"]) > _FEWER_STOP_STRINGS else 0)


def _other_system_role(form: RequestForm, sent: Json) -> RequestForm | None:
    roles = {message.get("role") for message in sent.get("messages") or ()}
    return replace(form, system_role="user") if roles & {"system", "developer"} else None


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE | re.DOTALL)


_CHOICES: Final = (
    r"""['"`]n['"`]|n_cmpl|\bn\b\s*(?:[=><:]|must|should|can(?:not)?\b|is\b)|best_of"""
    r"|(?:param\w*|body)\W{1,3}n\b|supports? n\b"
    r"|(?:number of|multiple|several|more than one|only one|one|single) (?:choices?|completions?)"
)
_TOO_MANY_TOKENS: Final = _pattern(
    r"max_(?:completion_|output_)?tokens.{0,80}?(?:too (?:large|big|high)|at most|less than|maximum|exceed|> ?\d)"
)
_STEPS: Final = (
    _Step(_pattern(_CHOICES), _fewer_choices),
    _Step(_pattern(r"temperature"), lambda form, sent: _omit(form, sent, "temperature")),
    _Step(_pattern(r"\bstop(?:\b|_)"), _fewer_stop_strings),
    _Step(_pattern(r"\bsystem\b|developer|\broles?\b"), _other_system_role),
    _Step(_pattern(r"log[_ -]?prob"), _fewer_log_probabilities),
    _Step(_pattern(r"response_?format|json|schema|structured|grammar|guided|constrained"), _simpler_response_format),
    _Step(_TOO_MANY_TOKENS, _fewer_tokens),
    _Step(_pattern(r"max_(?:completion_)?tokens"), _other_max_tokens),
)
"""The steps that lose least come first. The step that can omit the maximum number of tokens is the last one, because a
reply without a maximum can become expensive."""
