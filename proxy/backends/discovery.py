"""Asks a backend which models it serves: their ids, kinds and context lengths, and the dialect of the backend.

The module does not depend on connections: the caller passes a function that sends requests.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.backends.dialects.base import Dialect, Fetch
from proxy.backends.dialects.registry import DIALECTS, detect_dialect
from proxy.core.errors import BackendProtocolError
from proxy.core.settings import Kind
from proxy.core.variant_names import RAW

_ANOTHER_PROXY: Final = (
    "It is a drpo-proxy: name the model servers behind it as --backend instead, since both would put a prompt in front."
)


@dataclass(frozen=True, slots=True)
class Model:
    """One model of one backend.

    Attributes:
        id: The id of the model in the backend's list.
        card: The JSON object of the model in the reply to GET /v1/models.
        kind: Whether the model takes chat messages or text to complete.
        dialect: The dialect of the backend.
        context: The context length of the model in tokens; None if unknown.
    """

    id: str
    card: Mapping[str, Any] = field(repr=False)
    kind: Kind
    dialect: Dialect = field(repr=False)
    context: int | None


TokenCounter = Callable[[Model, str], Awaitable[int | None]]
"""A function that returns how many tokens a text has for a model; None if no backend can count them."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The models that a backend reported.

    Attributes:
        models: The models that the proxy can serve, by id.
        problem: What the operator must do about a model that the proxy cannot serve, because its kind is unknown. If
            there are several such models, the text is about the first. Empty if the kinds of all models are known.
    """

    models: Mapping[str, Model]
    problem: str = ""


async def discover(
    fetch: Fetch, kinds: Mapping[str, Kind], known: Mapping[str, Model], dialects: Sequence[Dialect] = DIALECTS
) -> Listing:
    """Ask a backend for its models.

    Args:
        fetch: The function that sends a request to the backend.
        kinds: The kinds that the operator set, by model id (--kind).
        known: The models of the last check, by id. If the entry of a model in the list has not changed, its known Model
            is used again.
        dialects: The dialects to try, in this order.

    Raises:
        BackendProtocolError: The reply is not a list of models, the backend is a drpo-proxy, or none of its models
            can be served.
        ProxyError: The backend does not answer, or its reply is not valid HTTP.
    """
    status, listing = await fetch("/v1/models")
    cards = listing.get("data") if isinstance(listing, dict) else None
    if status != 200 or not isinstance(cards, list):
        raise BackendProtocolError(f"GET /v1/models answered {status} and no list of models.")
    if _is_proxy(cards):
        raise BackendProtocolError(_ANOTHER_PROXY)
    models, problem = {}, ""
    for card in cards:
        if isinstance(card, dict) and isinstance(card.get("id"), str):
            old = known.get(card["id"])
            model = old if _is_unchanged(old, card) else await _describe(card, fetch, kinds, dialects)
            if model is None:
                problem = problem or _unknown_kind(card["id"])
            else:
                models[model.id] = model
    if problem and not models:
        raise BackendProtocolError(problem)
    return Listing(models, problem)


def _is_proxy(cards: Sequence[Any]) -> bool:
    """Return whether the cards come from a drpo-proxy, which also lists each model as MODEL@raw.

    A dialect cannot detect a drpo-proxy, because a drpo-proxy relays the requests of the dialect to its own model
    server. The dialect would then recognize this model server.
    """
    names = {str(card.get("id")) for card in cards if isinstance(card, dict)}
    return any(f"{name}@{RAW}" in names for name in names)


def _is_unchanged(known: Model | None, card: Mapping[str, Any]) -> bool:
    return known is not None and _fingerprint(known.card) == _fingerprint(card)


def _fingerprint(card: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the fields of a card that change if the server restarts with another model file or context length."""
    return card.get("root"), card.get("max_model_len")


async def _describe(
    card: Mapping[str, Any], fetch: Fetch, kinds: Mapping[str, Kind], dialects: Sequence[Dialect]
) -> Model | None:
    """Return the model of a card; None if neither the operator nor the backend tells its kind."""
    name = card["id"]
    dialect, facts = await detect_dialect(name, fetch, dialects)
    kind = kinds.get(name) or facts.kind
    return None if kind is None else Model(name, card, kind, dialect, _context(card) or facts.context)


def _unknown_kind(name: str) -> str:
    return (
        f"The backend does not say whether {name} takes chat or text completions: "
        f"say it with --kind {name}=chat or --kind {name}=completion."
    )


def _context(card: Mapping[str, Any]) -> int | None:
    context = card.get("max_model_len")
    return context if isinstance(context, int) and context > 0 else None
