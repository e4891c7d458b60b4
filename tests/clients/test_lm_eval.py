"""lm-eval talks to the proxy: a task of four questions, through chat and through text completions."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.clients.environments import clean_environment, python_of
from tools.steps import Say, StepError, run_step

_CAPITALS: Final = {"France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid"}
_WITHIN: Final = 500.0  # seconds


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        exact_match: The share of questions whose answer names the capital.
        replies: The replies that lm-eval received.
    """

    exact_match: float
    replies: Sequence[str]


Evaluate = Callable[..., Evaluation]


def _task(rows: Path) -> dict[str, Any]:
    """Return a task as lm-eval reads it.

    The stop string `?` ends a reply, because the raw model would repeat the question.
    """
    named = {"function": "regex", "regex_pattern": f"({'|'.join(_CAPITALS.values())})"}
    return {
        "task": "capitals",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(rows)},
        "test_split": "train",
        "fewshot_split": "train",
        "output_type": "generate_until",
        "doc_to_text": "What is the capital of {{country}}?",
        "doc_to_target": "{{capital}}",
        "generation_kwargs": {"max_gen_toks": 40, "temperature": 0, "until": ["?"]},
        "filter_list": [{"name": "named", "filter": [named, {"function": "take_first"}]}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "output.log"


@pytest.fixture
def evaluate(base_url: str, tmp_path: Path, log: Path, say: Say) -> Evaluate:
    """A function that runs lm-eval's command on the task. Raises StepError."""
    python = python_of("lm-eval", say)
    rows, tasks, output = tmp_path / "capitals.jsonl", tmp_path / "tasks", tmp_path / "output"
    rows.write_text("\n".join(json.dumps({"country": c, "capital": w}) for c, w in _CAPITALS.items()), encoding="utf-8")
    tasks.mkdir()
    (tasks / "capitals.yaml").write_text(json.dumps(_task(rows)), encoding="utf-8")
    env = clean_environment(OPENAI_API_KEY="any", HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="1")

    def run(kind: str, path: str, model: str, *options: str, **arguments: object) -> Evaluation:
        told = {"model": model, "base_url": f"{base_url}/{path}", "tokenizer_backend": "none", "max_retries": 1}
        told |= {"tokenized_requests": False, **arguments}
        command = [str(python), "-m", "lm_eval", "run", "--model", kind, "--tasks", "capitals", *options]
        command += ["--model_args", ",".join(f"{name}={value}" for name, value in told.items())]
        command += ["--include_path", str(tasks), "--output_path", str(output), "--log_samples"]
        run_step(f"lm-eval with {kind}", command, log, say, _WITHIN, env)
        return _evaluation(output)

    return run


def _evaluation(output: Path) -> Evaluation:
    (results,) = output.glob("*/results_*.json")
    (samples,) = output.glob("*/samples_*.jsonl")
    measured = json.loads(results.read_text(encoding="utf-8"))["results"]["capitals"]["exact_match,named"]
    lines = samples.read_text(encoding="utf-8").splitlines()
    return Evaluation(measured, [json.loads(line)["resps"][0][0] for line in lines])


def _check(evaluation: Evaluation) -> None:
    assert len(evaluation.replies) == len(_CAPITALS)
    assert not [reply for reply in evaluation.replies if "?" in reply], "a stop string was shown"
    assert evaluation.exact_match >= 0.5


def test_chat_answers_a_task_from_several_requests_at_once(evaluate: Evaluate) -> None:
    chat = ("local-chat-completions", "chat/completions", "google/gemma-3-270m", "--apply_chat_template")
    evaluation = evaluate(*chat, num_concurrent=2)
    _check(evaluation)
    assert all(reply == reply.strip() for reply in evaluation.replies)


def test_examples_of_a_task_are_sent_as_earlier_turns(evaluate: Evaluate) -> None:
    """With three examples, each request has four user turns."""
    chat = ("local-chat-completions", "chat/completions", "google/gemma-3-270m", "--apply_chat_template")
    _check(evaluate(*chat, "--num_fewshot", "3", "--fewshot_as_multiturn"))


def test_text_completions_answer_a_task_in_one_batch(evaluate: Evaluate) -> None:
    raw = ("local-completions", "completions", "google/gemma-3-270m@raw", "--batch_size", "4")
    _check(evaluate(*raw))


def test_unknown_model_ends_the_run_with_the_proxys_message(evaluate: Evaluate, log: Path) -> None:
    with pytest.raises(StepError, match="404"):
        evaluate("local-chat-completions", "chat/completions", "no-such-model", "--apply_chat_template")
    assert "model_not_found" in log.read_text(encoding="utf-8")
