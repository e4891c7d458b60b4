"""Tests how a model file is served, and that each fault of a file is one clear line, on small files and random ones."""

import os
import struct
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.embedded.memory import available_memory
from proxy.backends.embedded.model_file import MODEL_NAME, ModelFile, file_problem, open_model_file, with_embedded_model
from proxy.core.errors import EmbeddedError, StartupError
from tests.proxy.backends.embedded.gguf_files import BYTES_PER_TOKEN, LLAMA, gguf, write
from tests.proxy.serving import make_settings

GIB = 2**30
TENSORS = [("a", (64, 4), 0), ("b", (100,), 0)]


def _open(content: bytes, folder: Path, name: str = "", context: int = 0, memory: int = 64 * GIB) -> ModelFile:
    return open_model_file(write(folder, content), name, context, memory)


def _problem(path: str, context: int = 0, memory: int = 64 * GIB) -> str:
    with pytest.raises(EmbeddedError) as found:
        open_model_file(path, "", context, memory)
    message = str(found.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("version", [2, 3])
def test_context_and_name_are_those_of_the_file(version: int, tmp_path: Path) -> None:
    file = _open(gguf(version=version, tensors=TENSORS), tmp_path)
    assert (file.name, file.context, file.slots, file.has_template) == ("Tiny-Llama-v2", 16384, 4, False)


@pytest.mark.parametrize(
    ("named", "given_", "name"),
    [
        ("Qwen2.5 Coder 1.5B", "", "Qwen2.5-Coder-1.5B"),
        ("org/model:latest", "", "org/model:latest"),
        ("a, b=c @ d", "", "a-b-c-d"),
        ("模型 7B", "", "模型-7B"),
        (" . ", "", "tiny"),
        ("", "", "tiny"),
        (None, "", "tiny"),
        ("\x1b[31m\nred", "", "31m-red"),
        ("x" * 1000, "", "x" * 100),
        ("anything", "my/own name", "my/own name"),
    ],
)
def test_model_is_named_by_the_flag_the_header_or_the_file_name(
    named: str | None, given_: str, name: str, tmp_path: Path
) -> None:
    values = {**LLAMA, "general.name": named}
    if named is None:
        del values["general.name"]
    assert _open(gguf(values), tmp_path, given_).name == name


@pytest.mark.parametrize(("template", "has"), [("{{ messages }}", True), ("", False), ("  \n", False)])
def test_blank_chat_template_counts_as_none(template: str, has: bool, tmp_path: Path) -> None:
    assert _open(gguf({**LLAMA, "tokenizer.chat_template": template}), tmp_path).has_template == has


@pytest.mark.parametrize(
    ("free_tokens", "context", "slots"),
    [
        (10_000_000, 16384, 4),
        (140_000, 16384, 4),
        (70_000, 8704, 4),
        (40_000, 9984, 2),
        (20_000, 9984, 1),
        (1_500, 512, 1),
        (600, 512, 1),
    ],
)
def test_context_and_slots_fit_into_the_memory(free_tokens: int, context: int, slots: int, tmp_path: Path) -> None:
    needed = 300 * 2**20 + 4 * 512 * (3 + 4 * 512) + len(gguf())
    file = _open(gguf(), tmp_path, memory=needed + free_tokens * BYTES_PER_TOKEN)
    assert (file.context, file.slots) == (context, slots)


@pytest.mark.parametrize(("asked", "slots"), [(2048, 4), (16384, 2)])
def test_requested_context_is_served_with_as_many_slots_as_fit(asked: int, slots: int, tmp_path: Path) -> None:
    file = _open(gguf(), tmp_path, context=asked, memory=310 * 2**20 + 40_000 * BYTES_PER_TOKEN)
    assert (file.context, file.slots) == (asked, slots)


@pytest.mark.parametrize("asked", [100, 511, 16385])
def test_context_that_the_model_does_not_have_is_refused(asked: int, tmp_path: Path) -> None:
    message = _problem(write(tmp_path, gguf()), asked)
    assert message == f"--context {asked}: this model takes 512 to 16384 tokens."


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"llama.attention.head_count_kv": [2, 0, 2, 0, 0, 0, 0, 0]}, 16384),
        ({"llama.attention.key_length": 0}, 16384),
        ({"llama.attention.head_count_kv": "many", "llama.block_count": 4_000_000_000}, None),
        ({"llama.context_length": -1 & 0xFFFFFFFF}, None),
    ],
)
def test_odd_numbers_in_a_header_are_ignored_or_are_one_clear_error(
    changed: Mapping[str, Any], expected: int | None, tmp_path: Path
) -> None:
    path = write(tmp_path, gguf({**LLAMA, **changed}))
    try:
        file = open_model_file(path, "", 0, 64 * GIB)
    except EmbeddedError:
        assert expected is None
    else:
        assert expected is None or file.context == expected


def _swapped(content: bytes) -> bytes:
    return content[:4] + struct.pack(">I", 3) + content[8:]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"no model at all", "no GGUF file"),
        (b"PK\x03\x04" + bytes(90), "PyTorch checkpoint"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00" + b'{"a": {"dtype": 1}}', "safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b'{"error": "gated"}', "JSON"),
        (b"tjgg" + bytes(60), "GGJT"),
        (b"GGUF", "cut short"),
        (gguf(version=1), "version 1"),
        (gguf(version=4), "version 4"),
        (_swapped(gguf()), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63), "cut short"),
        (gguf()[:100], "cut short"),
        (gguf(tensors=TENSORS)[:-17], "cut short. It has"),
        (gguf(tensors=TENSORS)[:-1000], "cut short. It has"),
        (gguf({**LLAMA, "general.type": "adapter"}), "adapter"),
        (gguf({**LLAMA, "general.type": "mmproj"}), "mmproj"),
        (gguf({"general.architecture": "clip"}), "clip"),
        (gguf({"general.architecture": "llama"}), "no vocabulary"),
        (gguf({"a": 1}), "no architecture"),
        (gguf({**LLAMA, "llama.attention.causal": False}), "embedding model"),
        (gguf({**LLAMA, "llama.pooling_type": 2}), "embedding model"),
        (gguf({**LLAMA, "split.no": 1, "split.count": 3}), "part 2 of a model in 3 files"),
    ],
)
def test_fault_of_a_file_is_one_clear_line(content: bytes, says: str, tmp_path: Path) -> None:
    message = _problem(write(tmp_path, content))
    assert message.startswith(f"--model-file {tmp_path}/tiny.gguf: ")
    assert says in message


def test_path_that_is_no_file_is_one_clear_line(tmp_path: Path) -> None:
    assert "no such file or directory" in _problem(str(tmp_path / "none.gguf"))
    (tmp_path / "models").mkdir()
    write(tmp_path / "models", gguf())
    assert "Give a .gguf file in it: tiny.gguf" in _problem(str(tmp_path / "models"))
    os.mkfifo(tmp_path / "pipe")
    assert "this is not a regular file" in _problem(str(tmp_path / "pipe"))


def test_split_model_is_served_from_its_first_file_with_all_others_beside_it(tmp_path: Path) -> None:
    first, second = (f"m-0000{n}-of-00002.gguf" for n in (1, 2))
    one = write(tmp_path, gguf({**LLAMA, "split.no": 0, "split.count": 2}), first)
    assert second in _problem(one)
    two = write(tmp_path, gguf({**LLAMA, "split.no": 1, "split.count": 2}), second)
    assert first in _problem(two)
    assert open_model_file(one, "", 0, 64 * GIB).path.name == first


@pytest.mark.parametrize(("context", "says"), [(0, "smaller model"), (16384, "--context")])
def test_model_that_does_not_fit_into_memory_is_refused_with_both_figures(
    context: int, says: str, tmp_path: Path
) -> None:
    message = _problem(write(tmp_path, gguf()), context, memory=200 * 2**20)
    assert "does not fit into memory. It needs 0." in message
    assert "0.2 GB are available" in message
    assert says in message


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(1, 255))
def test_any_content_is_read_or_is_one_clear_error(tail: bytes, at: int, flip: int) -> None:
    content = bytearray(gguf(tensors=TENSORS))
    content[at % len(content)] ^= flip
    with tempfile.TemporaryDirectory() as folder:
        for data in (bytes(content), b"GGUF" + struct.pack("<I", 3) + tail):
            with suppress(EmbeddedError):
                open_model_file(write(Path(folder), data), "", 0, 64 * GIB)


@pytest.mark.parametrize(
    ("log", "status", "says"),
    [
        ("error loading model: unknown model architecture: 'mamba9'", 1, "architecture 'mamba9'"),
        ("error loading model vocabulary: unknown pre-tokenizer type: 'x-bpe'", 1, "pre-tokenizer type 'x-bpe'"),
        ("tensor 'a' data is not within the file bounds, model is corrupted or incomplete", 1, "damaged"),
        ("missing tensor 'output_norm.weight'", 1, "damaged"),
        ("ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 9", 1, "memory"),
        ("", -9, "memory"),
    ],
)
def test_reason_in_the_log_of_llama_cpp_becomes_a_clear_line(log: str, status: int, says: str) -> None:
    file = ModelFile(Path("/m.gguf"), "m", 512, 1, has_template=False)
    message = file_problem(file, f"load: a line\n{log}\nmore", status)
    assert message.startswith("--model-file /m.gguf: ")
    assert says in message
    assert file_problem(file, "something else", 1) == ""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 2048 kB\n"}, 2048 * 1024),
        (
            {
                "proc/meminfo": "MemAvailable: 2048 kB\n",
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": "1000000\n",
                "sys/fs/cgroup/a/memory.current": "700000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 100000\nactive_file 50000\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/b/memory.current": "5\n",
            },
            450_000,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 2048 kB\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "500000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "600000\n",
            },
            0,
        ),
    ],
)
def test_available_memory_is_the_least_of_machine_and_groups(
    files: Mapping[str, str], expected: int | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == expected
    assert (available_memory() or 0) > 0


def test_default_bundle_is_for_the_model_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, gguf())
    settings = with_embedded_model(make_settings(model_file=path))
    assert (settings.injection.bundle, settings.backends.model_name) == (("Tiny-Llama-v2=default",), "Tiny-Llama-v2")
    settings = make_settings(model_file=path, model_name="m", bundle=("default", "a=default", "/b"))
    assert with_embedded_model(settings).injection.bundle == ("default", "a=default", "/b")


def test_without_a_bundle_only_the_embedded_model_gets_the_default() -> None:
    settings = with_embedded_model(make_settings(backend=("embedded", "http://h:1")))
    assert settings.injection.bundle == (f"{MODEL_NAME}=default",)
    settings = make_settings(backend=("http://h:1",))
    assert with_embedded_model(settings) == settings


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model_name": "m"}, "--model-file. Give both"),
        ({"model_file": "/m.gguf", "backend": ("http://h:1",)}, "--backend embedded serves it. Give both"),
    ],
)
def test_flags_that_belong_together_are_given_together(values: Mapping[str, Any], says: str) -> None:
    with pytest.raises(StartupError, match=says):
        make_settings(**values)
