"""Tests real model files: which kind they are, how a chat model of 1.5 billion parameters is served, and damaged files.

A base model with a chat template is google/gemma-3-270m with the template ChatML written into a copy of its file.
"""

import io
import json
import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from rich.console import Console

from proxy.backends.embedded.gguf import _Reader
from proxy.backends.embedded.weights import GEMMA, default_cache, prepare_weights
from proxy.core.errors import EmbeddedError
from proxy.server.check import check
from tests.model_files import CHAT, SMALL_CHAT, PackagedFile, model_file
from tests.proxy.serving import make_settings
from tests.quality.served import served_proxy

pytestmark = [pytest.mark.slow, pytest.mark.network]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA_TURNS = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PLAIN_TURNS = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def with_template(source: Path, target: Path, template: str) -> Path:
    """Copy a model file, with a chat template added at the beginning of its header."""
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(data)
        reader.header()
        end = reader._position
        key, text = b"tokenizer.chat_template", template.encode()
        pair = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(text)) + text
        version, tensors, pairs = struct.unpack_from("<IQQ", data, 4)
        head = b"GGUF" + struct.pack("<IQQ", version, tensors, pairs + 1) + pair + data[24:end]
        with target.open("wb") as copy:
            copy.write(head + bytes(-len(head) % 32))
            copy.write(data[-(-end // 32) * 32 :])
    return target


async def _gemma() -> Path:
    return await prepare_weights(GEMMA, default_cache(), lambda _: None)


async def _checked(path: Path) -> str:
    output = io.StringIO()
    settings = make_settings(model_file=str(path), model_name="m", context=512, bundle=("default",))
    code = await check(settings, lambda _: None, Console(file=output, width=200))
    assert code == 0, output.getvalue()
    print(output.getvalue())
    return output.getvalue()


async def test_base_model_without_a_template_is_a_completion_model() -> None:
    printed = await _checked(await _gemma())
    assert "m is a completion model: the model file has no chat template." in printed
    assert "warning" not in printed


@pytest.mark.parametrize("template", [CHATML, GEMMA_TURNS, PLAIN_TURNS], ids=["ChatML", "gemma", "plain"])
async def test_base_model_with_a_template_is_a_completion_model(template: str, tmp_path: Path) -> None:
    printed = await _checked(with_template(await _gemma(), tmp_path / "gemma.gguf", template))
    assert re.search(r"m is a completion model: .* short chat answers ", printed)


@pytest.mark.parametrize("model", [SMALL_CHAT, CHAT], ids=lambda model: model.name)
async def test_chat_model_is_a_chat_model(model: PackagedFile) -> None:
    printed = await _checked(model_file(model, print))
    assert re.search(r"m is a chat model: .* short chat answers ", printed)


async def test_damaged_files_are_reported_in_one_line(tmp_path: Path) -> None:
    whole = await _gemma()
    data = whole.read_bytes()
    for name, content, says in (
        ("cut.gguf", data[: len(data) // 2], "cut short"),
        ("architecture.gguf", data.replace(b"gemma3", b"gemmaX"), "architecture 'gemmaX'"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EmbeddedError) as found:
            await _checked(tmp_path / name)
        assert says in str(found.value)
        assert "\n" not in str(found.value)


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    """A client of the proxy that serves the chat model of 1.5 billion parameters with the default bundle."""
    path = model_file(CHAT, print)
    with served_proxy("--model-file", str(path), "--model-name", "qwen", "--context", "2048") as url:
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300) as one:
            yield one


def test_chat_model_answers_several_turns_aligned_raw_and_as_a_stream(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
    short = {"max_tokens": 8, "temperature": 0}
    raw = client.chat.completions.with_raw_response.create(model="qwen@raw", messages=messages, **short)
    assert "x-drpo-examples" not in raw.headers or not raw.headers["x-drpo-examples"]
    assert re.fullmatch(r"Paris\.?", raw.parse().choices[0].message.content)
    aligned = client.chat.completions.with_raw_response.create(model="qwen", messages=messages, **short)
    answer = aligned.parse()
    assert aligned.headers["x-drpo-variant"] == "aligned"
    assert aligned.headers["x-drpo-examples"]
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 300 > raw.parse().usage.prompt_tokens
    messages += [
        {"role": "assistant", "content": answer.choices[0].message.content},
        {"role": "user", "content": "And of Italy? One word."},
    ]
    stream = client.chat.completions.create(model="qwen", messages=messages, stream=True, **short)
    assert "Rome" in "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)


def test_chat_model_takes_a_json_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    reply = client.chat.completions.create(
        model="qwen@raw",
        messages=[{"role": "user", "content": "The capital of Italy, as JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        max_tokens=24,
        temperature=0,
    )
    assert json.loads(reply.choices[0].message.content) == {"city": "Rome"}
