"""What a backend's models are: chat or completion, how long their context is, how to count their tokens.

Knows the dialects of vLLM and llama.cpp; knows no sockets: it is given functions that fetch.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Literal, Protocol

from proxy.core.errors import BackendProtocolError
from proxy.core.variant_names import RAW

Kind = Literal["chat", "completion"]
Dialect = Literal["vllm", "llama.cpp", "unknown"]
KINDS: Final[Mapping[str, Kind]] = {"chat": "chat", "completion": "completion"}
_LLAMA_STAND_IN: Final = "cc145ac597328b60dbce2631dce17c0c84bb6a87b2380cc0473e2e1291965db7"
_ANOTHER_PROXY: Final = (
    "It is a drpo-proxy: name the model servers behind it as --backend instead, since both would put a prompt in front."
)
_PROBE: Final = [{"role": "user", "content": "hi"}]


class Fetch(Protocol):
    """One small request to the backend: path, JSON body (None: GET) -> status and parsed JSON (None if it is none)."""

    def __call__(self, path: str, body: Mapping[str, Any] | None = None) -> Awaitable[tuple[int, Any]]:
        """Ask. Raises ProxyError when the backend does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """One model of one backend. `card`: its object in /v1/models; `context`: in tokens, None where unknown."""

    id: str
    card: Mapping[str, Any] = field(repr=False)
    kind: Kind
    dialect: Dialect
    context: int | None


TokenCounter = Callable[[Model, str], Awaitable[int | None]]
"""Tokens of a text for the tokenizer of the model that serves it; None where no backend can say."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a backend lists: the models that can be served, and what to do for one that cannot ("" if all can)."""

    models: Mapping[str, Model]
    trouble: str = ""


async def discover(fetch: Fetch, kinds: Mapping[str, Kind], known: Mapping[str, Model]) -> Listing:
    """The models that a backend lists; those already `known` (by id) are not asked about again.

    kinds: what the operator said of models (--kind). Raises BackendProtocolError if the list is none, or a
    drpo-proxy's, or nothing on it can be served.
    """
    status, listing = await fetch("/v1/models")
    cards = listing.get("data") if isinstance(listing, dict) else None
    if status != 200 or not isinstance(cards, list):
        raise BackendProtocolError(f"GET /v1/models answered {status} and no list of models.")
    if _is_proxy(cards):
        raise BackendProtocolError(_ANOTHER_PROXY)
    models, trouble = {}, ""
    for card in cards:
        if isinstance(card, dict) and isinstance(card.get("id"), str):
            model = await _describe(card, fetch, kinds, known.get(card["id"]))
            if model is None:
                trouble = trouble or _unknown_kind(card["id"])
            else:
                models[model.id] = model
    if trouble and not models:
        raise BackendProtocolError(trouble)
    return Listing(models, trouble)


def _is_proxy(cards: Sequence[Any]) -> bool:
    """Whether they come from a drpo-proxy, which lists each model as MODEL@raw too. Asking it of their kind is no use:
    it relays /tokenize, which tells of the model behind it."""
    names = {str(card.get("id")) for card in cards if isinstance(card, dict)}
    return any(f"{name}@{RAW}" in names for name in names)


async def _describe(
    card: Mapping[str, Any], fetch: Fetch, kinds: Mapping[str, Kind], known: Model | None
) -> Model | None:
    """The model of a card; None where nobody says of which kind it is."""
    if known is not None and _fingerprint(known.card) == _fingerprint(card):
        return known
    name = card["id"]
    dialect, asked, context = await _ask(name, fetch)
    kind = kinds.get(name) or asked
    return None if kind is None else Model(name, card, kind, dialect, _context(card) or context)


def _fingerprint(card: Mapping[str, Any]) -> tuple[Any, ...]:
    """What of a card differs when a server was started anew with other settings, between two checks."""
    return card.get("root"), card.get("max_model_len")


def _unknown_kind(name: str) -> str:
    return (
        f"The backend does not say whether {name} takes chat or text completions: "
        f"say it with --kind {name}=chat or --kind {name}=completion."
    )


async def _ask(name: str, fetch: Fetch) -> tuple[Dialect, Kind | None, int | None]:
    """vLLM's /tokenize takes messages and refuses them where there is no template; llama.cpp says so in /props."""
    status, reply = await fetch("/tokenize", {"model": name, "messages": _PROBE})
    if status == 200 and isinstance(reply, dict) and "count" in reply:
        return "vllm", "chat", None
    if status == 400 and "chat template" in str(reply).lower():
        return "vllm", "completion", None
    status, properties = await fetch("/props")
    if status == 200 and isinstance(properties, dict) and "chat_template" in properties:
        return "llama.cpp", _llama_kind(properties), _llama_context(properties)
    return "unknown", None, None


def _llama_kind(properties: Mapping[str, Any]) -> Kind | None:
    """A template of the model's own says chat. llama.cpp reports its own ChatML for a model without one: that says
    nothing, since a model may bring the same."""
    template = str(properties["chat_template"])
    if not template.strip():
        return "completion"
    return None if sha256(template.encode()).hexdigest() == _LLAMA_STAND_IN else "chat"


def _llama_context(properties: Mapping[str, Any]) -> int | None:
    context = (properties.get("default_generation_settings") or {}).get("n_ctx")
    return context if isinstance(context, int) and context > 0 else None


def _context(card: Mapping[str, Any]) -> int | None:
    context = card.get("max_model_len")
    return context if isinstance(context, int) and context > 0 else None


async def count_tokens(model: Model, text: str, fetch: Fetch) -> int | None:
    """Tokens that the served tokenizer makes of `text`, the beginning-of-text token included; None if unknown."""
    if model.dialect == "vllm":
        status, reply = await fetch("/tokenize", {"model": model.id, "prompt": text, "add_special_tokens": True})
        return _counted(reply) if status == 200 else None
    if model.dialect == "llama.cpp":
        status, reply = await fetch("/tokenize", {"content": text, "add_special": True})
        tokens = reply.get("tokens") if status == 200 and isinstance(reply, dict) else None
        return len(tokens) if isinstance(tokens, list) else None
    return None


def _counted(reply: Any) -> int | None:
    count = reply.get("count") if isinstance(reply, dict) else None
    return count if isinstance(count, int) else None
