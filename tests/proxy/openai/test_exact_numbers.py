"""Tests that decoding and encoding a body changes no number in it."""

from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import BadRequestError
from proxy.openai.exact_numbers import decode
from tests.faults.scripted import Received, Reply, completion, scripted_backend
from tests.proxy.serving import serving

LITERALS = (
    "123456789012345678901234567890",
    "-9223372036854775809",
    "18446744073709551616",
    "9" * 5000,
    "1e400",
    "-1E+400",
    "1e-400",
    "0.1234567890123456789",
    "3.14159265358979323846264338327950288",
    "0.30000000000000001",
    "9007199254740993.0",
    "123456789.123456789",
    "-0.0",
    "0.1",
    "1e5",
    "18446744073709551615",
    "-9223372036854775808",
    "0",
)


@pytest.mark.parametrize("literal", LITERALS)
@pytest.mark.parametrize("text", ["", "word " * 2_000])  # a long body is searched for floats before its bytes are
def test_number_keeps_its_value(literal: str, text: str) -> None:
    encoded = orjson.dumps(decode(b'{"a": [%s], "b": "%s"}' % (literal.encode(), text.encode()))).decode()
    kept = encoded.removeprefix('{"a":[').removesuffix(f'],"b":"{text}"}}')
    assert Decimal(kept) == Decimal(literal)


@pytest.mark.parametrize("literal", ["0.12345678901234567890", "1e400", "7", '"7"'])
def test_value_that_is_no_object_is_decoded(literal: str) -> None:
    assert orjson.dumps(decode(literal.encode())).decode() == literal


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_every_decimal_keeps_its_value(number: Decimal) -> None:
    encoded = orjson.dumps(decode(f'{{"a":{number:e}}}'.encode())).decode()
    assert Decimal(encoded.removeprefix('{"a":').removesuffix("}")) == number


@given(
    st.recursive(
        st.floats(allow_nan=False, allow_infinity=False)
        | st.integers(-(2**63), 2**64 - 1)
        | st.text()
        | st.booleans()
        | st.none(),
        lambda one: st.lists(one) | st.dictionaries(st.text(), one),
    )
)
def test_numbers_that_a_computer_writes_stay_numbers(value: Any) -> None:
    assert decode(orjson.dumps(value)) == value


def test_digits_in_a_text_are_left_alone() -> None:
    text = '{"a":"1234567890123456789012 1e999 0.12345678901234567890","b":7}'
    assert decode(text.encode()) == {"a": "1234567890123456789012 1e999 0.12345678901234567890", "b": 7}


@pytest.mark.parametrize("data", [b'{"a": NaN}', b'{"a": 1e400', b'{"a": Infinity, "b": 12345678901234567890123}', b""])
def test_data_that_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises((orjson.JSONDecodeError, BadRequestError)):
        decode(data)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", '"messages": [{"role": "user", "content": "hi"}]'),
        ("/v1/completions", '"prompt": "hi"'),
    ],
)
@pytest.mark.parametrize("kind", ["chat", "completion"])
@pytest.mark.parametrize("literal", ["123456789012345678901234567890", "1e400", "0.12345678901234567890123"])
async def test_number_reaches_the_backend_as_the_client_wrote_it(
    kind: str, path: str, field: str, literal: str
) -> None:
    async def answer(reply: Reply, request: Received) -> None:
        await reply.whole(completion("Yes."))

    body = f'{{"model": "scripted@aligned", "seed": {literal}, "vllm_xargs": {{"x": [{literal}]}}, {field}}}'
    async with scripted_backend(answer, kind=kind) as backend, serving(backend.url) as proxy:
        headers = {"Content-Type": "application/json"}
        async with proxy.session.post(path, data=body, headers=headers) as response:
            assert response.status == 200, await response.text()
        sent = backend.generating[-1].body.decode()
    assert f'"seed":{literal}' in sent
    assert f'"x":[{literal}]' in sent
