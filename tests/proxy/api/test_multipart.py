"""Tests that the field `model` of a form is found and replaced, and that no other byte changes."""

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.api.multipart import form_model
from proxy.core.errors import BadRequestError
from tests.faults.scripted import Received, Reply, scripted_backend
from tests.proxy.serving import serving


def form(parts: list[tuple[str, bytes]], boundary: str = "edge") -> bytes:
    body = b""
    for disposition, value in parts:
        body += f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + value + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


@given(st.binary(max_size=200).filter(lambda data: b"--edge" not in data), st.text("abc/@-.", min_size=1, max_size=20))
def test_replacing_the_model_changes_no_other_byte(file: bytes, model: str) -> None:
    parts = [('name="file"; filename="model"', file), ('name="model"', model.encode()), ('name="language"', b"en")]
    body = form(parts)
    found = form_model("multipart/form-data; boundary=edge", body)
    assert found.value == model
    assert found.replaced(body, "other") == form([parts[0], ('name="model"', b"other"), parts[2]])


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", form([('name="model"', b"m")])),
        ("multipart/form-data; boundary=edge", form([('name="file"', b"m")])),
        ("multipart/form-data; boundary=edge", b"--edge\r\nbroken"),
        ("multipart/form-data; boundary=edge", form([('name="model"; filename="x"', b"m")])),
    ],
)
def test_form_without_a_model_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(BadRequestError):
        form_model(content_type, body)


async def test_audio_upload_reaches_the_backend_of_its_model() -> None:
    async def script(reply: Reply, request: Received) -> None:
        await reply.whole({"text": "hello"})

    async with scripted_backend(script) as backend, serving(backend.url) as proxy:
        data = aiohttp.FormData()
        data.add_field("file", b"RIFF\x00\xff", filename="a.wav")
        data.add_field("model", "scripted@raw")
        async with proxy.session.post("/v1/audio/transcriptions", data=data) as response:
            assert (response.status, await response.json()) == (200, {"text": "hello"})
        assert form_model(backend.generating[0].headers["Content-Type"], backend.generating[0].body).value == "scripted"
        assert b"RIFF\x00\xff" in backend.generating[0].body
        async with proxy.session.post("/v1/audio/transcriptions", json={"model": "scripted"}) as response:
            assert response.status == 415
