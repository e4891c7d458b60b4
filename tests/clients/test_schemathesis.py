"""schemathesis sends requests that follow /openapi.json, and requests that violate it, to both kinds of models.

Two of its checks are left out: whether a request with a field that violates the schema is refused, and whether a
request that follows the schema is accepted. The backend decides both, and the backend of this test is a mock.
tests/proxy/api/test_properties.py tests what the proxy decides.
"""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from tests.clients.environments import clean_environment, python_of
from tests.differential.mock import ReflectiveMock, running
from tests.proxy.serving import served_bundle, serving
from tools.steps import Say

_CHECKS: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
)
_OPTIONS: Final = ("--max-examples", "50", "--workers", "2", "--generation-deterministic", "--no-color")
_WITHIN: Final = 500.0  # seconds


@pytest.mark.parametrize("kind", ["chat", "completion"])
async def test_openapi_json_describes_the_behaviour_of_the_proxy(kind: str, tmp_path: Path, say: Say) -> None:
    command = [str(python_of("schemathesis", say)), "-m", "schemathesis.cli", "run"]
    command += [*_OPTIONS, "--checks", ",".join(_CHECKS)]
    mock = ReflectiveMock(("tiny",), kind)
    async with running(mock) as url, serving(url, bundles={"tiny": served_bundle()}) as proxy:
        process = await asyncio.create_subprocess_exec(
            *(*command, f"{proxy.url}/openapi.json"),
            cwd=tmp_path,
            env=clean_environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(_WITHIN):
            printed, _ = await process.communicate()
    assert process.returncode == 0, printed[-4000:].decode()
    assert mock.posted, "schemathesis never got as far as the backend"
