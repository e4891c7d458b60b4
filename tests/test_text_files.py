"""Tests that one rule reads all text files that people write, whichever editor saved them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from index.errors import DrpoError
from optimizer.core.config import read_config
from proxy.api.auth import read_keys
from proxy.core.key_file import read_key
from proxy.experiments.config import read_experiment

RUN: Final = """
[models.task]
base_url = "http://127.0.0.1:1/v1"
model = "müller"
kind = "chat"
[data]
train = "t.jsonl"
sealed = "s.jsonl"
[reward]
weights = { rules = 1 }
[bundle]
name = "b"
"""
EXPERIMENT: Final = """
name = "one"
metrics = ["thumbs_up"]
models = ["müller"]
[[arms]]
name = "a"
variant = "raw"
weight = 50
[[arms]]
name = "b"
variant = "raw-matched"
weight = 50
"""
READERS: Final[Mapping[str, tuple[str, Callable[[Path], Any]]]] = {
    "run.toml": (RUN, lambda file: read_config(file, Path())),
    "an experiment": (EXPERIMENT, lambda file: read_experiment(file).experiment),
    "keys of clients": (f"# müller\nalice {'a' * 64}\nbob {'b' * 64}\n", read_keys),
    "a key": ("sekret-ü\n", lambda file: read_key(str(file), "--judge-api-key-file")),
}
KINDS = pytest.mark.parametrize(("text", "read"), READERS.values(), ids=READERS)


@KINDS
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_byte_order_mark_and_line_ends_do_not_matter(
    text: str, read: Callable[[Path], Any], encoding: str, line_end: str, tmp_path: Path
) -> None:
    (plain := tmp_path / "plain").write_bytes(text.encode())
    (saved := tmp_path / "saved").write_bytes(text.replace("\n", line_end).encode(encoding))
    assert read(saved) == read(plain)


@KINDS
@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_another_encoding_is_named_with_what_to_do(
    text: str, read: Callable[[Path], Any], encoding: str, tmp_path: Path
) -> None:
    (file := tmp_path / "file").write_bytes(text.encode(encoding))
    with pytest.raises(DrpoError, match=r"byte \d+ is not UTF-8\. Save the file as UTF-8") as raised:
        read(file)
    assert str(file) in str(raised.value)
    assert "sekret" not in str(raised.value)
