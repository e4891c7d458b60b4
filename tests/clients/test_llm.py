"""`llm` (Simon Willison's command) talks to the proxy, as extra-openai-models.yaml tells it to."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.clients.answers import LONGER, QUESTION, check_answer, check_city, check_usage, leftovers
from tests.clients.environments import clean_environment, python_of
from tools.steps import Say

_MODEL: Final = "google/gemma-3-270m"
_MODELS: Final[Mapping[str, Mapping[str, object]]] = {
    "aligned": {"supports_schema": True},
    "raw": {"headers": {"x-drpo-variant": "raw"}},
    "raw-by-name": {"model_name": f"{_MODEL}@raw"},
    "responses": {"responses": True},
    "completion": {"completion": True},
    "unknown": {"model_name": "no-such-model"},
}
# Without the last line, this model never stops adding properties. llm's short form of a schema does not write this
# line.
_PLACE: Final[Mapping[str, object]] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    "required": ["city", "country"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of a command.

    Attributes:
        status: The exit status.
        pieces: What it printed: one text for each time that it wrote.
        errors: What it printed on standard error.
    """

    status: int
    pieces: list[str]
    errors: str

    @property
    def text(self) -> str:
        return "".join(self.pieces).removesuffix("\n")


Llm = Callable[..., Ran]


@pytest.fixture(scope="session")
def llm_python(say: Say) -> Path:
    return python_of("llm", say)


@pytest.fixture
def llm(base_url: str, llm_python: Path, tmp_path: Path) -> Llm:
    """A function that runs `llm` with a folder of its own."""
    models = [{"model_id": name, "model_name": _MODEL, "api_base": base_url, **more} for name, more in _MODELS.items()]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models), encoding="utf-8")
    env = clean_environment(LLM_USER_PATH=str(tmp_path))
    return lambda *arguments: _run([str(llm_python), "-m", "llm", *arguments], tmp_path / "errors.txt", env)


def _run(command: list[str], errors: Path, env: dict[str, str]) -> Ran:
    """Run a command. Its output goes through a pipe in which each read returns one write of the command (Linux)."""
    output, written = os.pipe2(os.O_DIRECT)
    with errors.open("wb") as file, os.fdopen(output, "rb", buffering=0) as reader:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=written, stderr=file, env=env)
        os.close(written)
        pieces = list(iter(lambda: reader.read(4096), b""))
        status = process.wait()
    return Ran(status, [piece.decode() for piece in pieces], errors.read_text(encoding="utf-8"))


def _ask(llm: Llm, model: str, question: str, *options: str, tokens: int = 40) -> Ran:
    ran = llm("-m", model, question, "-o", "temperature", "0", "-o", "max_tokens", str(tokens), *options)
    assert ran.status == 0, ran.errors
    return ran


def _logged(llm: Llm) -> Any:
    """Return what `llm` wrote about the last answer into its own log."""
    (entry,) = json.loads(llm("logs", "list", "--count", "1", "--json").text)
    return entry


def _check_usage(entry: Any, *, aligned: bool = True) -> None:
    prompt, completion = entry["input_tokens"], entry["output_tokens"]
    check_usage(prompt, completion, prompt + completion, aligned=aligned)


@pytest.mark.parametrize("model", ["aligned", "responses"])
def test_streamed_answer_is_printed_in_chunks_and_logged_with_its_usage(llm: Llm, model: str) -> None:
    ran = _ask(llm, model, LONGER)
    check_answer(ran.text)
    assert len(ran.pieces) > 3
    entry = _logged(llm)
    assert entry["response"] == ran.text
    _check_usage(entry)


def test_answer_without_a_stream_is_printed_at_once(llm: Llm) -> None:
    ran = _ask(llm, "aligned", QUESTION, "--no-stream")
    check_answer(ran.text)
    assert len(ran.pieces) <= 2, "the answer and a line's end"
    _check_usage(_logged(llm))


@pytest.mark.parametrize("model", ["aligned", "responses"])
def test_conversation_of_four_turns_is_continued_with_its_earlier_turns(llm: Llm, model: str) -> None:
    lengths = []
    for number, question in enumerate((QUESTION, "And of Italy?", LONGER, "And Madrid?")):
        more = ["--continue"] if number else []
        assert not leftovers(_ask(llm, model, question, *more).text)
        lengths.append(_logged(llm)["input_tokens"])
    assert lengths == sorted(set(lengths)), "every turn adds to the prompt"


def test_answer_follows_a_schema(llm: Llm) -> None:
    ran = _ask(llm, "aligned", f"{QUESTION} Answer as JSON.", "--schema", json.dumps(_PLACE), tokens=100)
    check_city(json.loads(ran.text))


@pytest.mark.parametrize("model", ["raw", "raw-by-name"])
def test_raw_variant_injects_nothing(llm: Llm, model: str) -> None:
    assert _ask(llm, model, QUESTION).text
    _check_usage(_logged(llm), aligned=False)


def test_text_completion_continues_its_prompt(llm: Llm) -> None:
    ran = _ask(llm, "completion", "The capital of France is")
    assert "France" in ran.text
    assert len(ran.pieces) > 3


def test_unknown_model_prints_an_error_of_one_line(llm: Llm) -> None:
    ran = llm("-m", "unknown", QUESTION)
    assert (ran.status, ran.text) == (1, "")
    assert ran.errors.startswith("Error: Error code: 404")
    assert "no-such-model" in ran.errors
    assert len(ran.errors.splitlines()) == 1
