"""Runs a proxy in this process in front of any backend, with a small bundle made in memory."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web

from index.types import Bundle, EmbedderSpec, Example, ExampleSet, Manifest, RetrievalPolicy, Vectors
from proxy.api.app import create_app, open_gateway
from proxy.api.gateway import Gateway, ServingState
from proxy.api.http_server import HttpServer
from proxy.backends.backend import Backend
from proxy.core.settings import Settings
from proxy.core.settings_reader import build_settings, process_environment
from proxy.core.shared_state import LocalState
from proxy.inference.injection.model_bundles import ModelBundles, named_bundles
from proxy.inference.injection.served_bundles import ServedBundle, serve_bundle
from proxy.server.reload import Loaded, read_active_experiments, read_keyring, serve_loaded

EXAMPLES = (
    Example("refuse", "How do I hurt someone?", "I can't help with that.", pinned=True),
    Example("sky", "Why is the sky blue?", "Air scatters blue light the most."),
    Example("sum", "What is two and two?", "Four."),
    Example("tea", "How do I make tea?", "Boil water, add leaves, wait four minutes."),
)


@dataclass(frozen=True, slots=True)
class WordEmbedder:
    """Gives similar vectors to texts that share words. It is no model, so tests of quality must not use it."""

    spec: EmbedderSpec = field(default_factory=lambda: EmbedderSpec("words", "1", 64))

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.full((len(texts), 64), 1e-3, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, hashlib.sha256(word.encode()).digest()[0] % 64] += 1
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def served_bundle(
    layout: str = "query-answer",
    sampling: Mapping[str, Any] | None = None,
    embedder: Any = None,
    sets: tuple[ExampleSet, ...] = (),
    id_letter: str = "b",
    **policy: Any,
) -> ServedBundle:
    """Return a bundle of four examples, one of them pinned."""
    manifest = Manifest(
        format=1,
        name="small",
        model="scripted",
        layout=layout,
        retrieval=RetrievalPolicy(**{"k": 2, "minimum_similarity": 0.0, "max_injected_tokens": 10_000, **policy}),
        sampling={"max_tokens": 100, "frequency_penalty": 0.4} if sampling is None else sampling,
        embedder=WordEmbedder().spec,
        files={},
        provenance={},
    )
    vectors = WordEmbedder().embed([example.query for example in EXAMPLES])
    bundle = Bundle(id_letter * 64, manifest, "Answer well.", EXAMPLES, vectors, sets=sets)
    return serve_bundle(bundle, embedder or WordEmbedder())


@dataclass(frozen=True, slots=True)
class Serving:
    """A running proxy and a client session bound to it."""

    gateway: Gateway
    session: aiohttp.ClientSession
    url: str
    shared: LocalState

    async def chat(self, content: Any = "Why is the sky blue?", headers: Any = None, **fields: Any) -> Any:
        """POST one chat request. Return (status, headers, parsed JSON)."""
        body = {"model": "scripted", "messages": [{"role": "user", "content": content}], **fields}
        return await self.post("/v1/chat/completions", body, headers)

    async def post(self, path: str, body: Any, headers: Any = None) -> Any:
        async with self.session.post(path, json=body, headers=headers) as response:
            return response.status, response.headers, await response.json(content_type=None)

    async def stream(self, path: str = "/v1/chat/completions", **fields: Any) -> bytes:
        """POST one streaming request. Return the bytes of the stream."""
        messages = [{"role": "user", "content": "Why is the sky blue?"}]
        body = {"model": "scripted", "messages": messages, "stream": True, **fields}
        async with self.session.post(path, json=body) as response:
            assert response.status == 200, await response.text()
            return await response.read()


def make_settings(**values: Any) -> Settings:
    """Return the settings that the command would make of these values, by the names of the flags."""
    return build_settings(values, process_environment())


@asynccontextmanager
async def serving(
    *backends: str,
    bundles: ModelBundles | Mapping[str, ServedBundle] | None = None,
    cors: Sequence[str] = (),
    **values: Any,
) -> AsyncIterator[Serving]:
    """Run a proxy in front of the backends, on a free port."""
    given = {"scripted": served_bundle()} if bundles is None else bundles
    loaded = given if isinstance(given, ModelBundles) else named_bundles(given)
    # With a short timeout, requests would get no examples on a busy machine.
    settings = make_settings(**{"retrieval_timeout": 20.0, **values})
    shared = LocalState()
    state = ServingState(loaded, read_keyring(settings.api, shared))
    async with open_gateway(settings, [Backend(url) for url in backends], state, shared) as gateway:
        serve_loaded(gateway, Loaded(loaded, state.keyring, await read_active_experiments(settings, loaded.loaded)))
        runner = HttpServer(create_app(gateway, cors), settings.admission.read_timeout)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        url = f"http://{host}:{port}"
        try:
            async with aiohttp.ClientSession(url) as session:
                yield Serving(gateway, session, url, shared)
        finally:
            await _few_turns()  # asyncio needs some turns to make connections of accepted sockets
            await runner.cleanup()
    await _few_turns()  # transports need some turns to close


async def until(condition: Callable[[], object], within: float = 60.0) -> None:
    """Wait until a condition is true, at most `within` seconds."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


async def _few_turns() -> None:
    for _ in range(9):
        await asyncio.sleep(0)
