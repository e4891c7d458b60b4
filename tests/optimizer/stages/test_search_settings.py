"""Tests of settings that apply only to the search, and do not change the bundle."""

from dataclasses import replace
from pathlib import Path

from index.bundle.bundle import read_bundle
from optimizer.core.config_tables import SearchTable
from optimizer.stages.prompt_stage import as_searched, as_served
from tests.optimizer.scripted_models import PROMPT, open_scripted_models, run_config, write_run
from tests.optimizer.stages.proposers.candidates import make_candidate


def test_candidate_is_served_with_its_own_settings() -> None:
    candidate = make_candidate(k=3)
    for table in (SearchTable(), SearchTable(k=1), SearchTable(max_tokens=9), SearchTable(k=1, max_tokens=9)):
        searched = as_searched(candidate, table)
        assert searched.retrieval.k == (3 if table.k is None else table.k)
        assert searched.sampling["max_tokens"] == (table.max_tokens or 64)
        assert as_served(searched, candidate, table) == candidate


def test_number_of_nearest_examples_that_the_search_found_is_served() -> None:
    candidate, table = make_candidate(k=0), SearchTable(k=2)
    searched = as_searched(candidate, table)
    for found in (searched.with_nearest(6), replace(searched, retrieval=replace(searched.retrieval, policy="set"))):
        assert as_served(found, candidate, table) == found


async def test_answers_are_cut_in_the_search_alone(tmp_path: Path) -> None:
    seen: dict[str, set[object]] = {"train": set(), "sealed": set()}

    def fault(body: object) -> None:
        assert isinstance(body, dict)
        if body["model"] == "task":
            seen[body["messages"][-1]["content"].split()[0]].add(body["max_tokens"])

    async with open_scripted_models(fault=fault) as (_, url):
        config = write_run(tmp_path, url, search={"max_tokens": 11}, tune={"k": [], "order": []})
        result = await run_config(config, tmp_path / "out")
    bundle = read_bundle(result.bundle)
    assert bundle.prompt == PROMPT + "+++"
    assert bundle.manifest.sampling["max_tokens"] == 64
    assert 11 in seen["train"]
    assert 11 not in seen["sealed"]
