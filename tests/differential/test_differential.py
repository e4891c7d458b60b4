"""Runs the openai package's own tests against a server, and through the proxy in front of it.

The tests are those of chat, completions, embeddings, models and responses, synchronous and asynchronous. A test that
passes against the server must also pass through the proxy, and the server must get the same requests. The proxy refuses
some requests for a base model by design (suite.NOT_FOR_TEXT).
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pytest

from tests.differential.mock import ReflectiveMock, running
from tests.differential.suite import NOT_FOR_TEXT, UNSERVED, pinned_version, run_suite, suite_folder
from tests.proxy.serving import served_bundle, serving

pytestmark = [pytest.mark.timeout(600, func_only=True)]

# The names of models in the suite. A request without a model gets the first one.
MODELS: Final = ("gpt-6-astra", "gpt-3.5-turbo-instruct", "text-embedding-3-small", "model")
SOME: Final = 150  # at least this many tests must pass


@pytest.fixture(scope="session")
def folder() -> Path:
    return suite_folder(print)


def test_suite_version_matches_the_types_of_the_mock() -> None:
    assert pinned_version() == version("openai")


async def test_suite_passes_through_the_proxy_with_the_same_requests(folder: Path) -> None:
    mock = ReflectiveMock(MODELS, "chat")
    kinds = tuple(f"{model}=chat" for model in MODELS)  # so that the proxy sends no requests of its own
    async with running(mock) as url, serving(url, bundles={}, kind=kinds) as proxy:
        directly, of_direct = await run_suite(folder, f"{url}/v1", UNSERVED)
        asked = _asked(mock)
        through, of_proxy = await run_suite(folder, f"{proxy.url}/v1", UNSERVED)
    assert len(directly) >= SOME, of_direct
    assert " failed" not in of_direct, of_direct
    assert through == directly, of_proxy
    assert _asked(mock)[len(asked) :] == asked


async def test_suite_passes_with_injected_examples(folder: Path) -> None:
    mock = ReflectiveMock(MODELS, "chat")
    bundles = {model: served_bundle() for model in MODELS}
    async with running(mock) as url, serving(url, bundles=bundles) as proxy:
        passed, said = await run_suite(folder, f"{proxy.url}/v1", UNSERVED)
    assert len(passed) >= SOME, said
    assert " failed" not in said, said
    assert any("Answer well." in str(body) for _, body in mock.posted)


async def test_suite_passes_through_a_base_model_except_for_chat_features(folder: Path) -> None:
    mock = ReflectiveMock(MODELS, "completion")
    bundles = {model: served_bundle() for model in MODELS}
    async with running(mock) as url, serving(url, bundles=bundles) as proxy:
        passed, said = await run_suite(folder, f"{proxy.url}/v1", (*UNSERVED, *NOT_FOR_TEXT))
    assert len(passed) >= SOME - 50, said
    assert " failed" not in said, said


def _asked(mock: ReflectiveMock) -> list[tuple[str, Any]]:
    """Return every request without what the proxy changes.

    The proxy requests the usage of streams, and fills in a missing model.
    """
    return [(path, {"model": MODELS[0], **body, "stream_options": None}) for path, body in mock.posted]
