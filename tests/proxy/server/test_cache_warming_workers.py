"""Guards how the real command with two workers warms prefix caches: one worker does it, and nothing waits for it."""

import asyncio
import signal

from proxy.inference.injection.model_bundles import load_bundles
from tests.faults.process import command
from tests.faults.scripted import say_yes, scripted_backend
from tests.proxy.server.test_cache_warming import warming_requests
from tests.proxy.serving import until


async def test_slow_warming_delays_neither_the_start_nor_the_shutdown() -> None:
    async with scripted_backend(lambda *_: asyncio.sleep(3600)) as backend:
        flags = ("--bundle", "scripted=default", "--workers", "2", "--drain-timeout", "3600")
        async with command("--backend", backend.url, *flags) as server:
            assert (await server.get("/health/ready"))[0] == 200
            await until(lambda: warming_requests(backend))
            server.process.terminate()
            assert await server.ended() == 0
            assert len(warming_requests(backend)) == 1, "one of the two workers"


async def test_one_of_several_workers_warms_at_the_start_and_at_a_reload() -> None:
    sets = len(load_bundles(("scripted=default",), ()).of({}).bundles["scripted"].bundle.sets)
    async with scripted_backend(say_yes) as backend:
        flags = ("--bundle", "scripted=default", "--workers", "2", "--health-interval", "0.2")
        async with command("--backend", backend.url, *flags) as server:
            await server.logged('"cache warmed"')
            assert len(warming_requests(backend)) == sets
            server.process.send_signal(signal.SIGHUP)
            await until(lambda: len(warming_requests(backend)) == 2 * sets)
            sent = f'drpo_warmed_prefixes_total{{result="sent"}} {2.0 * sets}'
            async with asyncio.timeout(60):
                while sent not in (await server.get("/metrics"))[1]:
                    await asyncio.sleep(0.05)
