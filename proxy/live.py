"""The bundles being served, and how many tokens each of their parts costs. Knows no request.

What a request needs is pinned in one frozen value at its start: a reload swaps the whole, never a part.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from index.bundle.bundle import default_bundle_directory, load_bundle, read_manifest
from index.embedders.base import Embedder
from index.embedders.minilm import OnnxEmbedder
from index.embedders.registry import DEFAULT_EMBEDDER, check_embedder_allowed, open_embedder
from index.embedders.student import NAME as FAST
from index.embedders.student import FastEmbedder
from index.rendering import LAYOUTS, TextLayout, render_example, render_prompt
from index.retrieval.retriever import Retriever, pinned
from index.types import Bundle, Example, Hit
from proxy.errors import StartupError
from proxy.keys import Keyring
from proxy.lookup import Source
from proxy.models import Model, TokenCounter
from proxy.recent import Recent
from proxy.settings import OWN

_COUNTED_AT_ONCE: Final = 8
_COSTS_KEPT: Final = 256  # bundles on models: those of bundles that were replaced make room
_COUNTED_AHEAD: Final = 5_000  # examples at most; those of a larger bank are counted when they are first shown
_COUNTED_KEPT: Final = 50_000
_COUNTED_AGAIN_AFTER: Final = 30.0  # seconds, where it could only be estimated


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """A bundle, ready to serve."""

    bundle: Bundle
    layout: TextLayout
    pinned: tuple[Example, ...]
    source: Source = field(repr=False)

    @property
    def id(self) -> str:
        """The bundle's id, as long as people need it."""
        return self.bundle.id[:12]


@dataclass(slots=True)
class Live:
    """What a reload replaces, each at once and whole: the bundles by model, and the keyring (None: anyone may ask)."""

    bundles: Mapping[str, ServedBundle]
    keyring: Keyring | None = None


@dataclass(frozen=True, slots=True)
class Costs:
    """Tokens, for one model's tokenizer: of the prompt, and of each example by id, as they are laid out. `counted`: by
    the tokenizer itself; else some were estimated, at the time `at` of the event loop's clock. Of a large bank only
    the pinned examples are there, and those that are asked for."""

    prompt: int
    examples: Mapping[str, int]
    counted: bool = True
    at: float = 0.0


def load_bundles(
    arguments: Sequence[str],
    allowed: Sequence[str],
    query_embedder: str = OWN,
    serving: Iterable[ServedBundle] = (),
) -> dict[str, ServedBundle]:
    """Bundles by model, from --bundle arguments; `allowed` are the embedders that --allow-embedder named;
    `query_embedder` is the one of --query-embedder.

    serving: bundles that are served already. Their embedder is used again if it is the one that comes with the package:
    it is the same, and a second one would cost its memory twice. Raises StartupError, BundleError, EmbedderError.
    """
    served: dict[str, ServedBundle] = {}
    embedders = _opened_before(serving)
    for argument in arguments:
        model, directory = _parse_argument(argument)
        bundle = _load(directory, embedders, allowed)
        name = model or bundle.manifest.model
        if name in served:
            raise StartupError(
                f"--bundle: two bundles for the model {name}; give one of them another model: MODEL=DIR."
            )
        served[name] = _serve(bundle, _of_queries(query_embedder, bundle, embedders))
    return served


def load_directories(
    directories: Sequence[str], allowed: Sequence[str], query_embedder: str, serving: Iterable[ServedBundle]
) -> dict[str, ServedBundle]:
    """Bundles by directory, for what is not one model's alone. One that is served already is not loaded a second time.

    Raises BundleError, EmbedderError.
    """
    serving = list(serving)
    embedders = _opened_before(serving)
    served: dict[str, ServedBundle] = {}
    for directory in directories:
        bundle = _load(default_bundle_directory() if directory == "default" else Path(directory), embedders, allowed)
        known = (old for old in (*serving, *served.values()) if old.bundle.id == bundle.id)
        served[directory] = next(known, None) or _serve(bundle, _of_queries(query_embedder, bundle, embedders))
    return served


def _opened_before(serving: Iterable[ServedBundle]) -> dict[str, Embedder]:
    """What comes with the package, by name, as far as it is open."""
    used = {old.source.embedder.spec.name: old.source.embedder for old in serving}
    opened = {name: embedder for name, embedder in used.items() if name in (DEFAULT_EMBEDDER, FAST)}
    student = opened.get(FAST)
    return opened | ({DEFAULT_EMBEDDER: student.teacher} if isinstance(student, FastEmbedder) else {})


def _of_queries(name: str, bundle: Bundle, embedders: dict[str, Embedder]) -> Embedder:
    """The bundle's own embedder, or the student that was asked for. StartupError if that is another's student."""
    own = embedders[bundle.manifest.embedder.name]
    if name != FAST:
        return own
    if not isinstance(own, OnnxEmbedder):
        raise StartupError(
            f"--query-embedder {FAST}: it follows {DEFAULT_EMBEDDER}, and the vectors of the bundle "
            f"{bundle.manifest.name} are from {own.spec.name}; leave the flag out, or build the bundle with "
            f"{DEFAULT_EMBEDDER}."
        )
    if FAST not in embedders:
        embedders[FAST] = FastEmbedder(own)
    return embedders[FAST]


def check_bundle_arguments(arguments: Sequence[str]) -> None:
    """Raise StartupError for a --bundle argument that names no directory."""
    for argument in arguments:
        _parse_argument(argument)


def _parse_argument(argument: str) -> tuple[str | None, Path]:
    model, equals, place = argument.rpartition("=")
    if equals and not (model and place):
        raise StartupError(f"--bundle {argument}: expected DIR, MODEL=DIR or MODEL=default.")
    directory = default_bundle_directory() if place == "default" else Path(place)
    if not directory.is_dir():
        raise StartupError(f"--bundle {argument}: there is no directory {place}.")
    return model or None, directory


def _load(directory: Path, embedders: dict[str, Embedder], allowed: Sequence[str]) -> Bundle:
    name = read_manifest(directory).embedder.name
    check_embedder_allowed(name, allowed, str(directory))
    if name not in embedders:
        embedders[name] = open_embedder(name)
    return load_bundle(directory, embedders[name])


def _serve(bundle: Bundle, embedder: Embedder) -> ServedBundle:
    source = Source(bundle.id, Retriever(bundle), embedder)
    return ServedBundle(bundle, LAYOUTS[bundle.manifest.layout], pinned(bundle), source)


class TokenCosts:
    """Counts the parts of a bundle once per served model, with the backend's own tokenizer."""

    def __init__(self, count: TokenCounter) -> None:
        self._count = count
        self._known: Recent[tuple[str, str], asyncio.Task[Costs]] = Recent(_COSTS_KEPT)
        self._shown: Recent[tuple[str, str, str], int] = Recent(_COUNTED_KEPT)

    async def of(self, served: ServedBundle, model: Model) -> Costs:
        """The costs of a bundle on a model; counted at the first call, estimated where the backend cannot count."""
        key = (served.bundle.id, model.id)
        known = self._known.get(key)
        if known is None or _is_outdated(known):
            known = asyncio.create_task(self._measure(served, model), name="token costs")
            self._known.put(key, known)
        return known.result() if known.done() else await asyncio.shield(known)

    async def including(self, served: ServedBundle, model: Model, hits: Sequence[Hit]) -> Costs:
        """The same, with the costs of `hits` whatever the size of the bank."""
        costs = await self.of(served, model)
        new = [hit.example for hit in hits if hit.example.id not in costs.examples]
        if not new:
            return costs
        shown = {example.id: await self._of_one(served, model, example) for example in new}
        return replace(costs, examples={**costs.examples, **shown})

    async def _of_one(self, served: ServedBundle, model: Model, example: Example) -> int:
        key = (served.bundle.id, model.id, example.id)
        known = self._shown.get(key)
        if known is None:
            text = render_example(served.layout, example)
            overhead, count = await self._count(model, ""), await self._count(model, text)
            if overhead is None or count is None:
                return estimated_tokens(text)
            known = count - overhead
            self._shown.put(key, known)
        return known

    async def _measure(self, served: ServedBundle, model: Model) -> Costs:
        bank = served.bundle.examples
        ahead = bank if len(bank) <= _COUNTED_AHEAD else served.pinned
        texts = [render_prompt(served.layout, served.bundle.prompt)]
        texts += [render_example(served.layout, example) for example in ahead]
        overhead = await self._count(model, "")
        counts = [None] * len(texts) if overhead is None else await self._count_all(model, texts)
        tokens = [
            estimated_tokens(text) if count is None else count - (overhead or 0)
            for text, count in zip(texts, counts, strict=True)
        ]
        by_id = {example.id: cost for example, cost in zip(ahead, tokens[1:], strict=True)}
        return Costs(tokens[0], by_id, None not in counts, asyncio.get_running_loop().time())

    async def _count_all(self, model: Model, texts: Sequence[str]) -> Sequence[int | None]:
        """The counts of `texts`, a few at a time: each is a request to the backend."""
        turns = asyncio.Semaphore(_COUNTED_AT_ONCE)

        async def count(text: str) -> int | None:
            async with turns:
                return await self._count(model, text)

        return await asyncio.gather(*(count(text) for text in texts))


def _is_outdated(costs: asyncio.Task[Costs]) -> bool:
    """Whether to count again: it failed, or the backend could not count for a moment and may by now."""
    if not costs.done() or costs.cancelled():
        return False
    if costs.exception() is not None:
        return True
    told = costs.result()
    return not told.counted and asyncio.get_running_loop().time() - told.at > _COUNTED_AGAIN_AFTER


def estimated_tokens(text: str) -> int:
    """Tokens of a text where no tokenizer can be asked: English has about four bytes to one, so this is high."""
    return len(text.encode("utf-8", "surrogatepass")) // 3 + 1
