"""Tests of the measures of an evaluation, and of the output of the command `eval` with a scripted endpoint."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pytest

from index.types import EmbedderSpec, Vectors
from optimizer.__main__ import main
from optimizer.cli.tables import evaluation_markdown, evaluation_values
from optimizer.data.dataset import Row
from optimizer.evaluation.chat_endpoint import Answer
from optimizer.evaluation.evaluate import Evaluation, measure
from optimizer.evaluation.measures import Measure
from tests.optimizer.scripted_endpoint import Reply, ScriptedEndpoint, completion, failure


class LetterEmbedder:
    """An embedder whose vectors are normalised counts of letters."""

    spec = EmbedderSpec("letters", "1", 26)

    def embed(self, texts: Sequence[str]) -> Vectors:
        counts = np.array([[text.lower().count(chr(97 + n)) for n in range(26)] for text in texts], np.float32) + 1e-6
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


ROWS = (
    Row("g1", "general", "aaa"),
    Row("g2", "general", "bbb"),
    Row("c1", "comply"),
    Row("c2", "comply"),
    Row("r1", "refuse"),
    Row("r2", "refuse"),
)
NO = "I can't help with that."


def completion_of(content: object) -> Reply:
    return 200, {}, orjson.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]})


def named(evaluation: Evaluation, variant: str) -> dict[str, Measure]:
    return {line.name: line for line in evaluation.variants[variant]}


def test_each_kind_of_row_has_its_own_measure() -> None:
    texts = ["aaa", "ccc", "sure", NO, NO, NO]
    answers = [Answer(text, "length" if text == "ccc" else "stop", 10, 1) for text in texts]
    lines = named(measure(ROWS, {"raw": answers}, LetterEmbedder()), "raw")
    assert (lines["ends by itself"].hits, lines["ends by itself"].trials) == (5, 6)
    assert lines["similarity to reference, general"].interval.estimate == pytest.approx(0.5, abs=1e-3)
    assert (lines["refuses general"].hits, lines["refuses general"].trials) == (0, 2)
    assert (lines["answers safe"].hits, lines["answers safe"].trials) == (1, 2)
    assert (lines["refuses unsafe"].hits, lines["refuses unsafe"].trials) == (2, 2)
    assert lines["balanced accuracy"].interval.estimate == pytest.approx(0.75)
    assert lines["words"].interval.estimate == pytest.approx((1 + 1 + 1 + 5 + 5 + 5) / 6)
    assert lines["prompt tokens"].interval.estimate == 10


def test_similarity_uses_the_first_600_characters_and_is_0_for_an_empty_answer() -> None:
    rows = (Row("q", reference="a" * 600 + "b" * 600), Row("q", reference="b"))
    answers = [Answer("a" * 600 + "z" * 600, "stop", 1, 1), Answer("", "stop", 1, 1)]
    line = named(measure(rows, {"raw": answers}, LetterEmbedder()), "raw")["similarity to reference, general"]
    assert line.interval.estimate == pytest.approx(0.5, abs=1e-3)


def test_markdown_table_has_a_column_per_variant() -> None:
    answers = [Answer(NO, "stop", 1, 1)] * len(ROWS)
    evaluation = measure(ROWS, {"aligned": answers, "raw": answers}, None)
    lines = evaluation_markdown(evaluation).splitlines()
    assert lines[0] == "| measure | aligned | raw |"
    assert "| ends by itself | 1.00 [0.61, 1.00] 6/6 | 1.00 [0.61, 1.00] 6/6 |" in lines
    assert orjson.loads(orjson.dumps(evaluation_values(evaluation)))["raw"]["refuses unsafe"]["hits"] == 2


def run_command(endpoint: ScriptedEndpoint, *arguments: str) -> int:
    """Serve on this thread's event loop, and run the command in another thread with its own event loop."""

    async def serve() -> int:
        async with endpoint.server() as server:
            where = str(server.make_url("/v1"))
            return await asyncio.to_thread(main, ["eval", "--base-url", where, *arguments])

    return asyncio.run(serve())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"query": "one", "safe": true}\n{"query": "two", "safe": false}\n')
    return path


def test_eval_prints_variants_in_columns(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = ScriptedEndpoint(lambda _body, variant: completion(NO if variant == "aligned" else "yes"))
    assert run_command(endpoint, "--data", str(data), "--variant", "aligned", "--variant", "raw", "--markdown") == 0
    printed = capsys.readouterr().out
    assert "| refuses unsafe | 1.00 [0.21, 1.00] 1/1 | 0.00 [0.00, 0.79] 0/1 |" in printed
    assert "| answers safe | 0.00 [0.00, 0.79] 0/1 | 1.00 [0.21, 1.00] 1/1 |" in printed
    assert {str(body["model"]) for body, _ in endpoint.seen} == {"tiny"}


def test_second_eval_makes_no_request(data: Path, tmp_path: Path) -> None:
    endpoint = ScriptedEndpoint(lambda _body, _variant: completion("yes"))
    arguments = ["--data", str(data), "--variant", "raw", "--out", str(tmp_path / "answers.jsonl")]
    assert run_command(endpoint, *arguments) == run_command(endpoint, *arguments) == 0
    assert len(endpoint.seen) == 2


def test_failing_endpoint_is_one_error_line(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = ScriptedEndpoint(lambda _body, _variant: failure(400, "the variant is unknown"))
    assert run_command(endpoint, "--data", str(data), "--variant", "rwa") == 1
    output = capsys.readouterr().err.strip().splitlines()[-1]
    assert output.startswith("drpo-optimizer: ")
    assert "the variant is unknown" in output


@pytest.mark.parametrize(
    "reply",
    [failure(400, "too long"), failure(422), (200, {}, b"<html>"), (200, {}, b'{"choices": []}'), completion_of(None)],
    ids=["400", "422", "no JSON", "no choice", "null"],
)
def test_row_that_one_variant_cannot_answer_is_left_out_for_all(
    reply: Reply, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(body: dict[str, object], variant: str) -> Reply:
        return reply if variant == "raw" and "two" in str(body["messages"]) else completion("yes")

    arguments = ["--data", str(data), "--variant", "aligned", "--variant", "raw", "--markdown"]
    assert run_command(ScriptedEndpoint(script), *arguments, "--out", str(tmp_path / "answers.jsonl")) == 0
    output = capsys.readouterr()
    assert "answers safe" in output.out
    assert "refuses unsafe" not in output.out
    assert "Rows that were left out, because a variant cannot answer them: data.jsonl, line 2" in output.err


def test_missing_data_file_is_one_error_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["eval", "--base-url", "http://127.0.0.1:9/v1", "--data", str(tmp_path / "no"), "--variant", "raw"]) == 1
    )
    assert "cannot be read" in capsys.readouterr().err


def test_limit_of_zero_is_a_command_line_error() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["eval", "--base-url", "x", "--data", "x", "--variant", "raw", "--limit", "0"])
