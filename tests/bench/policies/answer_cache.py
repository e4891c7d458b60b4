"""Caches the replies of a model server by a hash of the request, so that no bench generates an answer twice.

    python -m tests.bench.policies.answer_cache export answers.jsonl.gz      writes hashes and replies, but no requests
    python -m tests.bench.policies.answer_cache import answers.jsonl.gz      adds the replies that the cache lacks

All benches share one SQLite file: answers.sqlite in the cache folder of the user, or $DRPO_ANSWERS. `caching` puts a
relay between a proxy and its backend. If the cache has the reply to a request for an answer that is not streamed, the
client gets this reply. Otherwise, the relay sends the request on, and keeps the reply. If equal requests arrive at the
same time, only one of them is sent on. Requests of other kinds are always sent on, and their replies are not kept. The
hash covers the path, the body and an identity of the model, such as the hash of its weights.
"""

import argparse
import asyncio
import gzip
import hashlib
import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from proxy.backends.backend import Backend
from proxy.backends.embedded.weights import default_cache

_GENERATING: Final = ("/v1/completions", "/v1/chat/completions")
_NOT_RELAYED: Final = frozenset({"content-length", "content-encoding", "transfer-encoding", "connection", "host"})


class AnswerCache:
    """The kept replies. Several processes can use one file.

    Attributes:
        found: The number of requests whose reply was kept.
        generated: The number of requests whose reply was generated and is kept now.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Open the file at `path`, which is made if it is missing; None means the shared file of the user."""
        place = path or Path(os.environ.get("DRPO_ANSWERS") or default_cache() / "answers.sqlite")
        place.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(place, timeout=60, isolation_level=None)
        self._database.execute("CREATE TABLE IF NOT EXISTS replies (hash TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        self.found = self.generated = 0

    def close(self) -> None:
        self._database.close()

    def get(self, key: str) -> str | None:
        """Return the kept reply to the request with this hash; None if there is none."""
        row = self._database.execute("SELECT reply FROM replies WHERE hash = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, reply: str) -> None:
        """Keep a reply. The first reply to a request stays."""
        self._database.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, reply))

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield the hashes and the replies, by hash."""
        yield from self._database.execute("SELECT hash, reply FROM replies ORDER BY hash")


def request_key(identity: str, path: str, body: bytes) -> str | None:
    """Return the hash of a request; None if its reply cannot be kept, because it is streamed or asks for no answer.

    The order of the body's keys does not matter. A key with the value null counts as absent.
    """
    if path not in _GENERATING:
        return None
    fields = json.loads(body)
    if not isinstance(fields, dict) or fields.get("stream"):
        return None
    plain = {name: value for name, value in sorted(fields.items()) if value is not None and name != "stream"}
    return hashlib.sha256(json.dumps([identity, path, plain], sort_keys=True).encode()).hexdigest()


@asynccontextmanager
async def caching(backend: Backend, cache: AnswerCache, identity: str) -> AsyncIterator[Backend]:
    """Yield a backend whose replies come from the cache, or from `backend`. `identity` names the exact model."""
    locks: defaultdict[str | None, asyncio.Lock] = defaultdict(asyncio.Lock)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=True) as session:

        async def relay(request: web.Request) -> web.Response:
            body = await request.read()
            key = request_key(identity, request.path, body) if request.method == "POST" else None
            if key is None:
                return await answer(request, body, None)
            async with locks[key]:
                return await answer(request, body, key)

        async def answer(request: web.Request, body: bytes, key: str | None) -> web.Response:
            if key is not None and (kept := cache.get(key)) is not None:
                cache.found += 1
                return web.Response(text=kept, content_type="application/json")
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_RELAYED}
            url = f"{backend.url}{request.path_qs}"
            async with session.request(request.method, url, data=body or None, headers=headers) as reply:
                content = await reply.read()
                if key is not None and reply.status == 200:
                    cache.put(key, content.decode())
                    cache.generated += 1
                relayed = {name: value for name, value in reply.headers.items() if name.lower() not in _NOT_RELAYED}
                return web.Response(status=reply.status, body=content, headers=relayed)

        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", relay)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            url = f"http://{host}:{port}"
            yield Backend(url, backend.api_key, backend.kinds, takes_client_keys=backend.takes_client_keys)
        finally:
            await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("export", "import"))
    parser.add_argument("file", type=Path, help="JSONL, compressed with gzip")
    options = parser.parse_args()
    with closing(AnswerCache()) as cache:
        if options.command == "export":
            lines = [f"{json.dumps(item)}\n" for item in cache.items()]
            with gzip.open(options.file, "wt", encoding="utf-8") as file:
                file.writelines(lines)
        else:
            with gzip.open(options.file, "rt", encoding="utf-8") as file:
                lines = list(file)
            for line in lines:
                cache.put(*json.loads(line))
    print(f"{options.file}: {len(lines):,} replies")


if __name__ == "__main__":
    main()
