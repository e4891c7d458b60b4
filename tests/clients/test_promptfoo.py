"""promptfoo evaluates the proxy: a conversation of four turns, one with tools that may not be called."""

import json
import platform
import sys
from collections.abc import Callable
from typing import Any, Final

import pytest

from proxy.backends.embedded.model_file import MODEL_NAME
from tests.clients.answers import leftovers
from tests.clients.environments import clean_environment, node_packages, node_shortcoming
from tools.steps import Say, run_step

Found = list[dict[str, Any]]
_TOOL: Final = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
_WITHIN: Final = 400.0  # seconds
_QUESTIONS: Final = ("What is the capital of France?", "And of Italy?", "Which country is Berlin in?", "And Madrid?")
_PROMPT: Final = """[
  {"role": "system", "content": "Answer in one sentence."},
  {% for turn in _conversation %}
  {"role": "user", "content": {{ turn.input | dump }}},
  {"role": "assistant", "content": {{ turn.output | dump }}},
  {% endfor %}
  {"role": "user", "content": {{ question | dump }}}
]"""


@pytest.fixture(scope="module")
def evaluate(base_url: str, tmp_path_factory: pytest.TempPathFactory, say: Say) -> Callable[..., Found]:
    """A function that runs `promptfoo eval` with settings of a provider, and returns the four results."""
    if reason := node_shortcoming():
        pytest.skip(f"JavaScript clients: {reason}")
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("the pinned binary of promptfoo's database is that for Linux on x86-64")
    program = node_packages(say, "promptfoo", "--omit=optional") / "promptfoo" / "dist" / "src" / "main.js"
    folder = tmp_path_factory.mktemp("promptfoo")
    (folder / "prompt.json").write_text(_PROMPT, encoding="utf-8")
    env = clean_environment(
        PROMPTFOO_CONFIG_DIR=str(folder / "state"), PROMPTFOO_DISABLE_TELEMETRY="1", PROMPTFOO_DISABLE_UPDATE="1"
    )

    def run(model: str = MODEL_NAME, **told: object) -> Found:
        told = {"apiBaseUrl": base_url, "apiKey": "any", "temperature": 0, "max_tokens": 3800, **told}
        tests = [{"vars": {"question": question}} for question in _QUESTIONS]
        providers = [{"id": f"openai:chat:{model}", "config": told}]
        config, output = folder / "promptfooconfig.json", folder / "output.json"
        config.write_text(
            json.dumps({"prompts": ["file://prompt.json"], "providers": providers, "tests": tests}), encoding="utf-8"
        )
        command = ["node", str(program), "eval", "--config", str(config), "--output", str(output), "--no-cache"]
        command += ["--max-concurrency", "1", "--no-progress-bar", "--no-table"]
        run_step("promptfoo", command, folder / "promptfoo.log", say, _WITHIN, env)
        found: Found = json.loads(output.read_text(encoding="utf-8"))["results"]["results"]
        return found

    return run


@pytest.mark.parametrize("told", [{}, {"tools": [_TOOL], "tool_choice": "none"}], ids=["plain", "tools-none"])
def test_each_turn_of_a_conversation_is_answered(evaluate: Callable[..., Found], told: dict[str, Any]) -> None:
    results = evaluate(**told)
    assert len(results) == len(_QUESTIONS)
    for result in results:
        assert result["response"]["output"], result["response"]
        assert not leftovers(result["response"]["output"])
    lengths = [result["response"]["tokenUsage"]["prompt"] for result in results]
    assert lengths == sorted(set(lengths)), "every turn adds to the prompt"


def test_unknown_model_is_reported_with_the_proxys_message(evaluate: Callable[..., Found]) -> None:
    results = evaluate("no-such-model")
    assert "model_not_found" in results[0]["response"]["error"]
    assert "no-such-model" in results[0]["response"]["error"]
