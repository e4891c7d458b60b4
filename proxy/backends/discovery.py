"""Asks a backend which models it serves: their ids, kinds and context lengths, and the dialect of the backend.

The module does not depend on connections: the caller passes a function that sends requests, and a function that decides
the kinds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.backends.dialects.base import Dialect, Fetch, ModelFacts
from proxy.backends.dialects.registry import DIALECTS, detect_dialect
from proxy.backends.kinds.decision import Decision
from proxy.core.errors import BackendProtocolError
from proxy.core.json_types import Json
from proxy.core.settings import Kind
from proxy.core.variant_names import RAW

_ANOTHER_PROXY: Final = (
    "It is a drpo-proxy, and both proxies would add a prompt. Give the URLs of its model servers to --backend instead."
)
_ADVICE: Final[Mapping[int, str]] = {
    **dict.fromkeys((401, 403), " The server needs a key. Put it into a file, and give --backend-api-key-file FILE."),
    404: " The URL of --backend must be the base URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.",
}
"""What an operator can do, by the status of the reply."""
_NO_MODEL: Final = "The backend lists no model. Load a model into it, or wait until it has loaded one."
_MAX_AT_ONCE: Final = 8  # models about which a backend is asked at the same time


@dataclass(frozen=True, slots=True)
class Model:
    """One model of one backend.

    Attributes:
        id: The id of the model in the backend's list.
        card: The JSON object of the model in the reply to GET /v1/models.
        kind: Whether the model takes chat messages or text to complete.
        dialect: The dialect of the backend.
        context: The context length of the model in tokens; None if unknown.
        decision: Why the model has this kind.
    """

    id: str
    card: Mapping[str, Any] = field(repr=False)
    kind: Kind
    dialect: Dialect = field(repr=False)
    context: int | None
    decision: Decision = field(default=Decision(None, ""), repr=False)


def kind_warning(model: Model) -> str:
    """Return a warning for the operator if the kind of a model is doubtful; empty if it is not."""
    if not model.decision.doubt:
        return ""
    other = "completion" if model.kind == "chat" else "chat"
    return (
        f"{model.id} is served as a {model.kind} model, but {model.decision.doubt}. "
        f"If the kind is wrong, say --kind {model.id}={other}; if it is right, say --kind {model.id}={model.kind}."
    )


TokenCounter = Callable[[Model, str], Awaitable[int | None]]
"""A function that returns how many tokens a text has for a model; None if no backend can count them."""

ChatTokenCounter = Callable[[Model, Json], Awaitable[int | None]]
"""A function that returns how many tokens the prompt of a chat request has; None if no backend can count them."""


KindDecider = Callable[[Mapping[str, Any], Dialect, ModelFacts], Awaitable[Decision]]
"""A function that decides the kind of a model, from its card, the dialect of its server and what the server reports."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The models that a backend reported.

    Attributes:
        models: The models that the proxy can serve, by id.
        problem: What the operator can do if the backend lists no model, or if the kind of a model is unknown. If the
            kinds of several models are unknown, the text is about the first of them. Empty if nothing is wrong.
        undecided: The ids of the models whose kinds are unknown.
    """

    models: Mapping[str, Model]
    problem: str = ""
    undecided: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Undecided:
    """A model whose kind is unknown.

    Attributes:
        id: The id of the model.
        problem: What the operator can do about it.
    """

    id: str
    problem: str


async def discover(
    fetch: Fetch, decide: KindDecider, known: Mapping[str, Model], dialects: Sequence[Dialect] = DIALECTS
) -> Listing:
    """Ask a backend for its models.

    Args:
        fetch: The function that sends a request to the backend.
        decide: The function that decides the kind of each new model.
        known: The models of the last check, by id. If a model's entry in the list has not changed, and its kind is
            settled, its Model is used again.
        dialects: The dialects to try, in this order.

    Raises:
        BackendProtocolError: The reply is not a list of models, or the backend is a drpo-proxy.
        ProxyError: The backend does not answer, or its reply is not valid HTTP.
    """
    status, listing = await fetch("/v1/models")
    cards = listed_cards(listing)
    if status != 200 or cards is None:
        advice = _ADVICE.get(status, "")
        raise BackendProtocolError(f"GET /v1/models answered {status} without a list of models.{advice}")
    if _is_proxy(cards):
        raise BackendProtocolError(_ANOTHER_PROXY)
    found = await _describe_all(cards, fetch, decide, known, dialects)
    models = {model.id: model for model in found if isinstance(model, Model)}
    undecided = [model for model in found if isinstance(model, _Undecided)]
    if not found:
        return Listing(models, _NO_MODEL)
    return Listing(models, undecided[0].problem if undecided else "", [model.id for model in undecided])


def listed_cards(listing: Any) -> Sequence[Mapping[str, Any]] | None:
    """Return the entries of a reply to GET /v1/models that have an id; None if the reply is not a list of models."""
    cards = listing.get("data") if isinstance(listing, dict) else None
    if not isinstance(cards, list):
        return None
    return [card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)]


async def _describe_all(
    cards: Sequence[Mapping[str, Any]],
    fetch: Fetch,
    decide: KindDecider,
    known: Mapping[str, Model],
    dialects: Sequence[Dialect],
) -> Sequence[Model | _Undecided]:
    limit = asyncio.Semaphore(_MAX_AT_ONCE)

    async def describe(card: Mapping[str, Any]) -> Model | _Undecided:
        old = known.get(card["id"])
        if old is not None and _is_unchanged(old, card):
            return old
        async with limit:
            return await _describe(card, fetch, decide, dialects)

    found = await asyncio.gather(*map(describe, cards), return_exceptions=True)
    if error := next((one for one in found if isinstance(one, BaseException)), None):
        raise error
    return [one for one in found if not isinstance(one, BaseException)]


def _is_proxy(cards: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the cards come from a drpo-proxy, which also lists each model as MODEL@raw.

    A dialect cannot detect a drpo-proxy, because a drpo-proxy relays the dialect's test requests to its own model
    server. The dialect would then recognize this model server.
    """
    names = {card["id"] for card in cards}
    return any(f"{name}@{RAW}" in names for name in names)


def _is_unchanged(known: Model, card: Mapping[str, Any]) -> bool:
    return known.decision.settled and fingerprint(known.card) == fingerprint(card)


def fingerprint(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields of a card that change if the server restarts with another model file or context length."""
    return tuple(str(card.get(name)) for name in ("root", "parent", "max_model_len", "meta"))


async def _describe(
    card: Mapping[str, Any], fetch: Fetch, decide: KindDecider, dialects: Sequence[Dialect]
) -> Model | _Undecided:
    name = card["id"]
    dialect, facts = await detect_dialect(name, fetch, dialects)
    decision = await decide(card, dialect, facts)
    if decision.kind is None:
        return _Undecided(name, _unknown_kind(name, decision.doubt))
    return Model(name, card, decision.kind, dialect, _context(card) or facts.context, decision)


def _unknown_kind(name: str, why: str) -> str:
    return (
        f"It is not known yet whether {name} takes chat or text completions ({why}). The proxy asks again. "
        f"You can also give --kind {name}=chat or --kind {name}=completion."
    )


def _context(card: Mapping[str, Any]) -> int | None:
    context = card.get("max_model_len")
    return context if isinstance(context, int) and context > 0 else None
