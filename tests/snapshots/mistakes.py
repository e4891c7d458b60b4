"""Mistakes of clients. Each changes a valid request."""

from random import Random
from typing import Any, Final

from tests.snapshots.cases import encoded

Json = dict[str, Any]

_FIELDS: Final[tuple[tuple[str, Json], ...]] = (
    ("unknown-model", {"model": "nobody/knows"}),
    ("unknown-variant", {"model": "base-4096@other"}),
    ("no-bundle", {"model": "plain-base@aligned"}),
    ("no-string-model", {"model": 7}),
    ("stream-text", {"stream": "yes"}),
    ("options-list", {"stream": True, "stream_options": []}),
    ("stop-number", {"stop": 3}),
    ("messages-empty", {"messages": []}),
    ("messages-text", {"messages": "hello"}),
    ("message-text", {"messages": ["hello"]}),
    ("input-number", {"input": 3}),
    ("input-image", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
    ("image", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
    ("content-number", {"messages": [{"role": "user", "content": 3}]}),
    ("tool-role", {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}),
    ("no-role", {"messages": [{"content": "x"}]}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("functions", {"functions": [{"name": "f"}]}),
    ("audio", {"modalities": ["audio"]}),
    ("suffix", {"suffix": "x"}),  # only one refused field, because the order in which the proxy names two is undefined
    ("previous", {"previous_response_id": "resp_1"}),
    ("background", {"background": True}),
    ("instructions-number", {"instructions": 4}),
    ("n-two", {"n": 2}),
    ("prompt-list", {"prompt": ["a", "b"]}),
    ("bad-format", {"response_format": {"type": "xml"}}),
    ("regex", {"structured_outputs": {"regex": "a"}}),
    ("max-text", {"max_tokens": "many"}),
    ("include-text", {"include": "message.output_text.logprobs"}),
)
_BODIES: Final[tuple[tuple[str, bytes], ...]] = (
    ("no-json", b"{"),
    ("empty-body", b""),
    ("list", b"[]"),
    ("surrogate", b'{"messages": [{"role": "user", "content": "\\ud800"}]}'),
    ("no-utf-8", b'{"model": "\xff"}'),
    ("deep", b'{"messages": [{"role": "user", "content": "x"}], "x": ' + b"[" * 300 + b"]" * 300 + b"}"),
)
_HEADERS: Final[tuple[tuple[str, dict[str, str]], ...]] = (
    ("header-unknown", {"X-Drpo-Variant": "other"}),
    ("header-aligned", {"X-Drpo-Variant": "aligned"}),
    ("text-plain", {"Content-Type": "text/plain"}),
)


def with_mistake(rng: Random, body: Json, headers: dict[str, str], tags: list[str]) -> tuple[bytes, dict[str, str]]:
    """Return the body and headers with one mistake. Its name is added to the tags."""
    return rng.choices([_field, _body, _header], [80, 10, 10])[0](rng, body, headers, tags)


def _field(rng: Random, body: Json, headers: dict[str, str], tags: list[str]) -> tuple[bytes, dict[str, str]]:
    name, changed = rng.choice(_FIELDS)
    tags.append(f"!{name}")
    return encoded(rng, {**body, **changed}), headers


def _body(rng: Random, _body: Json, headers: dict[str, str], tags: list[str]) -> tuple[bytes, dict[str, str]]:
    name, changed = rng.choice(_BODIES)
    tags.append(f"!{name}")
    return changed, headers


def _header(rng: Random, body: Json, headers: dict[str, str], tags: list[str]) -> tuple[bytes, dict[str, str]]:
    name, changed = rng.choice(_HEADERS)
    tags.append(f"!{name}")
    return encoded(rng, body), {**headers, **changed}
