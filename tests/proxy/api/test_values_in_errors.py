"""Guards that a value of any JSON type in place of a role or a type is refused with a message that can be read."""

from typing import Any

import pytest

from tests.faults.scripted import say_yes, scripted_backend
from tests.proxy.serving import serving

VALUES = {
    "[]": "a list",
    "{}": "an object",
    "null": "null",
    "true": "true",
    "5": "a number",
    "1e400": "a number",
    "123456789012345678901234567890": "a number",
    '"\\udcaa"': "'\ufffd'",
    f'"{"x" * 70}"': f"'{'x' * 60}...'",
}
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
PLACES = {
    "a role": (CHAT, '"messages": [{"role": %s, "content": "hi"}]'),
    "a type of a part": (CHAT, '"messages": [{"role": "user", "content": [{"type": %s, "image": "x"}]}]'),
    "a part": (CHAT, '"messages": [{"role": "user", "content": [%s]}]'),
    "a type of an item": (RESPONSES, '"input": [{"type": %s, "role": "user", "content": "hi"}]'),
    "an item": (RESPONSES, '"input": [%s]'),
    "a role of an item": (RESPONSES, '"input": [{"role": %s, "content": "hi"}]'),
    "a type of a part of an item": (RESPONSES, '"input": [{"role": "user", "content": [{"type": %s}]}]'),
    "a part of an item": (RESPONSES, '"input": [{"role": "user", "content": [%s]}]'),
}


@pytest.mark.parametrize(("literal", "shown"), VALUES.items(), ids=[literal[:9] for literal in VALUES])
@pytest.mark.parametrize("place", PLACES)
async def test_value_of_another_type_is_named_in_the_error(place: str, literal: str, shown: str) -> None:
    path, field = PLACES[place]
    body: Any = '{"model": "scripted", %s}' % (field % literal)
    async with scripted_backend(say_yes) as backend, serving(backend.url) as proxy:
        async with proxy.session.post(path, data=body, headers={"Content-Type": "application/json"}) as response:
            reply = await response.json()
    if response.status == 200:  # null is no type, and a text may stand for a text part
        assert literal == "null" or (place.startswith("a part") and literal.startswith('"'))
        return
    message = reply["error"]["message"]
    assert (response.status, reply["error"]["type"]) == (400, "invalid_request_error")
    if place == "an item" and literal.startswith('"'):
        shown = "a text"
    assert shown in message or (place, literal) in {("an item", "{}"), ("a part", "{}"), ("a part of an item", "{}")}
    assert place != "an item" or "x" * 9 not in message, "the text of a user is in no error"
    assert not any(word in message for word in ("Fragment", "NoneType", "'list'", "'dict'", "0x", "{}"))
