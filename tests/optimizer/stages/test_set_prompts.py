"""A run whose bundle has example sets with prompts of their own: a new prompt replaces all of them, if it is better."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index.bundle.bundle import load_bundle, read_bundle, write_bundle
from index.bundle.sets_file import with_prompts
from index.embedders.registry import DEFAULT_EMBEDDER, open_embedder
from index.types import Bundle, Example, ExampleSet, RetrievalPolicy
from optimizer.core.candidate import as_bundle, from_bundle
from optimizer.core.journal import SET_PROMPTS, read_journal
from tests.index.words import bundle_input
from tests.optimizer.scripted_models import PROMPT, open_scripted_models, run_config, write_run

EXAMPLES = tuple(Example(f"e{n}", f"Example question {n}", f"Example answer {n}.") for n in range(4))
SETS = (ExampleSet("first", ("e0", "e1"), ("e0", "e1")), ExampleSet("second", ("e2",), ("e2", "e3"), "refusal"))
OWN = {"other": "Answer the first kind.", "refusal": "Refuse the second kind."}


def write_start(folder: Path, prompts: Mapping[str, str]) -> Bundle:
    policy = RetrievalPolicy("set", minimum_similarity=-1.0)
    source = replace(bundle_input(EXAMPLES, PROMPT, policy, {"max_tokens": 64}), sets=with_prompts(SETS, prompts))
    folder.mkdir(exist_ok=True)
    return write_bundle(folder / "start", source, open_embedder(DEFAULT_EMBEDDER))


async def run(folder: Path, prompts: Mapping[str, str], **settings: Any) -> tuple[Bundle, list[str]]:
    """Return the bundle that a run writes, and the prompts of the requests to the task model."""
    write_start(folder, prompts)
    async with open_scripted_models(**settings) as (models, url):
        result = await run_config(write_run(folder, url, tune={"k": [], "order": []}), folder / "out")
    return read_bundle(result.bundle), [text.partition("\n")[0] for model, text in models.requests if model == "task"]


@pytest.mark.parametrize("prompts", [OWN, {"first": "Answer the first kind."}, {}])
async def test_better_prompt_replaces_the_prompts_of_all_sets(tmp_path: Path, prompts: Mapping[str, str]) -> None:
    bundle, sent = await run(tmp_path, prompts)
    assert (bundle.prompt, bundle.set_prompts) == (PROMPT + "+++", {})
    assert [one.shown for one in bundle.sets] == [one.shown for one in SETS]
    assert set(prompts.values()) <= set(sent), "the bundle that the run starts from is measured with all its prompts"
    notes = [event["sets"] for event in read_journal(tmp_path / "out") if event.get("note") == SET_PROMPTS]
    assert notes == [list(load_bundle(tmp_path / "start", open_embedder(DEFAULT_EMBEDDER)).set_prompts)] * bool(prompts)


async def test_prompts_of_sets_stay_if_no_prompt_is_better(tmp_path: Path) -> None:
    bundle, _ = await run(tmp_path, OWN, scores=lambda _quality, query: {"helpfulness": 3, "clarity": 4})
    assert bundle.prompt == PROMPT
    assert bundle.set_prompts == {"first": OWN["other"], "second": OWN["refusal"]}


def test_candidates_with_other_prompts_of_sets_are_other_candidates(tmp_path: Path) -> None:
    bundles = [write_start(tmp_path / str(n), prompts) for n, prompts in enumerate(({}, OWN, {"refusal": "No."}))]
    candidates = [from_bundle(bundle) for bundle in bundles]
    assert len({one.key for one in candidates}) == 3
    assert [dict(as_bundle(one).set_prompts) for one in candidates] == [dict(one.set_prompts) for one in bundles]
    children = [one.with_prompt("Be good.") for one in candidates]
    assert len({one.key for one in children}) == 1
    assert children[0].bank is candidates[0].bank, "a bank without prompts of sets stays the same object"
