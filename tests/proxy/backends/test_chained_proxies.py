"""Guards a drpo-proxy given as another one's backend: it is told apart from a model server, whatever kind its model is.

Taken for one, a base model's proxy looked like a base model (it relays /tokenize), and each variant like a model: the
outer one sent it text completions, which no prompt of the inner one goes into, and listed MODEL@raw@raw.
"""

import pytest

from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.serving import serving


async def _answer(reply: Reply, _: Received) -> None:
    await reply.whole(completion("Because."))


@pytest.mark.parametrize("kind", ["completion", "chat"])
async def test_a_proxy_is_no_backend_and_the_error_says_what_to_name_instead(kind: str) -> None:
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


async def test_a_model_whose_name_has_a_suffix_of_its_own_is_a_model() -> None:
    async with scripted_backend(_answer, model="mine@raw") as model_server, serving(model_server.url) as proxy:
        assert set(proxy.gateway.pool.models) == {"mine@raw"}
