"""Guards that a drpo-proxy as a backend is recognized, whatever the kind of its model.

Otherwise a proxy of a base model looks like a base model, because it relays /tokenize, and each variant looks like a
model. The outer proxy would send text completions, to which the inner one adds no prompt, and would list MODEL@raw@raw.
"""

import pytest

from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.serving import serving


async def _answer(reply: Reply, _: Received) -> None:
    await reply.whole(completion("Because."))


@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_drpo_proxy_as_a_backend_is_refused_with_advice(kind: str) -> None:
    async with (
        scripted_backend(_answer, kind=kind) as model_server,
        serving(model_server.url) as inner,
        serving(inner.url) as outer,
    ):
        (backend,) = outer.gateway.pool.backends
        assert not backend.healthy
        assert not backend.models
        assert backend.problem.startswith("It is a drpo-proxy")
        assert "--backend" in backend.problem


async def test_model_with_a_variant_suffix_in_its_name_is_listed() -> None:
    async with scripted_backend(_answer, model="mine@raw") as model_server, serving(model_server.url) as proxy:
        assert set(proxy.gateway.pool.models) == {"mine@raw"}
