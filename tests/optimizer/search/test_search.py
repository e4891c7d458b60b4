"""Tests the two recipes: `drpo` makes exactly the calls of the published algorithm, and `raced` finds the best prompt.

The expected calls of `drpo` come from a second implementation, which was written from the paper and its authors' code
and does not use our search. `raced` keeps parents, drops duplicates, and compares candidates on shared queries.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from optimizer.core.config import read_config
from optimizer.core.errors import BudgetSpentError
from optimizer.core.journal import Journal
from optimizer.data.split import read_split
from optimizer.search.levels import RacedSettings
from optimizer.search.published import PublishedSettings, search_published
from optimizer.search.race import RaceSettings
from optimizer.search.raced import search_raced
from optimizer.search.space import Outcome
from optimizer.search.space import Path as SearchPath
from optimizer.stages.run import run
from tests.optimizer.scripted_models import PROMPT, ScriptedModels, default_scores, open_scripted_models, write_run

W, M, D, DEEPER = 2, 3, 5, 10


class Paper:
    """The published algorithm with the rules of the scripted models. It lists its calls: (role, prompt, query)."""

    def __init__(self, scores: object, depth: int, queries: int) -> None:
        self.scores, self.depth, self.queries = scores, depth, queries
        self.calls: list[tuple[str, str, int]] = []
        self.chosen: set[int] = set()

    def output_and_evaluate(self, prompt: str, query: int) -> Sequence[int] | None:
        if query not in self.chosen:
            self.chosen.add(query)
            self.calls.append(("choose", "", query))
        self.calls += [("answer", prompt, query), ("evaluate", prompt, query)]
        scores = self.scores(prompt.count("+"), query)
        return None if scores is None else list(scores.values())

    def run(self) -> str:
        beam = [([PROMPT], self.output_and_evaluate(PROMPT, 0), [])]
        done, depth, deepest = [], 0, self.depth
        while depth < deepest + 1:
            grown, deepened = [], False
            for prompts, said, rewards in beam:
                if len(prompts) >= deepest or len(prompts) >= self.queries:
                    done.append((prompts, rewards))
                    continue
                enough = said is None or sum(said) / len(said) > 4.5
                if enough and not deepened and deepest < self.depth + DEEPER:
                    deepest, deepened = deepest + 1, True
                if enough:
                    actions = [prompts[-1]]
                else:
                    self.calls.append(("rewrite", prompts[-1], len(prompts) - 1))
                    last = prompts[-1]
                    actions = [last + "+", last.replace("+", "", 1) + "-", last + "."][:M]
                for action in actions:
                    query = len(prompts)
                    told = self.output_and_evaluate(action, query)
                    reward = [sum(told) / len(told)] if told is not None else []
                    grown.append(([*prompts, action], told, [*rewards, *reward]))
            beam = sorted(grown, key=lambda one: -sum(one[2]) / max(1, len(one[2])))[:W]
            depth += 1
        return max(done, key=lambda one: sum(one[1]) / max(1, len(one[1])))[0][-1]


def asked_of(models: ScriptedModels, rows: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return the calls to the models in the form that `Paper` has, up to the first sealed query."""
    told = []
    for model, text in models.requests:
        if "sealed" in text:
            break
        if model == "task":
            system, query = text.split("\n")[0], rows.index(text.split("\n")[-1])
            told.append(("answer", system, query))
        elif model == "optimizer":
            prompt = text.split("Current system prompt:\n")[1].split("\n\nWhat")[0]
            query = rows.index(re.findall(r"^Query: (.*)$", text, re.MULTILINE)[0])
            told.append(("rewrite", prompt, query))
        elif text.startswith("You set the standard"):
            told.append(("choose", "", rows.index(text.split("Query:\n")[1].split("\n")[0])))
        else:
            told.append(("evaluate", "", rows.index(text.split("Query:\n")[1].split("\n")[0])))
    return told


def harsh(worth: int, query: str) -> Mapping[str, int]:
    """Return scores that are never enough to keep a prompt."""
    return {"helpfulness": min(4, 1 + worth), "clarity": 3}


def soon_enough(worth: int, query: str) -> Mapping[str, int]:
    """Return scores that are enough to keep a prompt from a worth of 2 on."""
    return {"helpfulness": 5 if worth >= 2 else 3, "clarity": 5 if worth >= 2 else 2 + worth}


@pytest.mark.parametrize(("scores", "depth"), [(harsh, D), (default_scores, D), (soon_enough, D), (soon_enough, 3)])
async def test_recipe_drpo_makes_the_papers_calls_in_the_same_order(scores: object, depth: int, tmp_path: Path) -> None:
    async with open_scripted_models(scores=scores) as (models, url):
        search = {"algorithm": "published", "beam": W, "actions": M, "depth": depth}
        config = read_config(write_run(tmp_path, url, search=search, tune={"k": [], "order": []}))
        with Journal(tmp_path / "out") as journal:
            await run(config, tmp_path / "out", journal, print)
    rows = [row.query for row in read_split(config.data, 0).train]
    by_number = lambda worth, query: scores(worth, rows[query])  # noqa: E731
    paper = Paper(by_number, depth, len(rows))
    paper.run()
    wanted = [(who, "" if who == "evaluate" else prompt, query) for who, prompt, query in _once(paper.calls)]
    assert asked_of(models, rows) == wanted


def _once(calls: Sequence[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Return each call once. Two walks may come to the same prompt on the same query, but it is paid only once."""
    return list(dict.fromkeys(calls))


async def test_unparsable_judgement_is_not_a_score_and_keeps_the_prompt(tmp_path: Path) -> None:
    space = Numbers({})
    space.unreadable = {0, 1}
    path = await search_published(space, 0, 20, PublishedSettings(1, 2, 3, max_extra_depth=0), nobody)
    assert [step.candidate for step in path] == [0, 0, 0]
    assert space.expanded == []


class Numbers:
    """A space whose candidates are whole numbers. A score is a tenth of the number, plus a noise of the query."""

    def __init__(self, noise: Mapping[int, float]) -> None:
        self.noise, self.expanded, self.scored, self.unreadable = (
            noise,
            list[int](),
            list[tuple[int, int]](),
            set[int](),
        )

    def key(self, candidate: int) -> str:
        return str(candidate)

    async def expand(self, path: SearchPath[int], count: int, again: int) -> Sequence[int]:
        self.expanded.append(path[-1].candidate)
        return [path[-1].candidate + step for step in (1, -1, 1)][:count]

    async def score(self, candidate: int, query: int) -> Outcome:
        self.scored.append((candidate, query))
        readable = query not in self.unreadable
        return Outcome(query, candidate / 10 + self.noise.get(query, 0.0) if readable else 0.0, readable=readable)


async def nobody(_level: object) -> None:
    """Watches nothing."""


SMALL = RacedSettings(beam=2, actions=3, depth=4, race=RaceSettings(first_look=4, block_size=2, max_queries=12))


@pytest.mark.parametrize(("counts_unreadable", "winner"), [(True, -1), (False, 1)])
async def test_unreadable_judgement_counts_as_zero_or_excludes_its_query_for_all_paths(
    counts_unreadable: bool, winner: int
) -> None:
    class Unjudged(Numbers):
        """The candidate 1 cannot be judged. All others have the score 2."""

        async def score(self, candidate: int, query: int) -> Outcome:
            return Outcome(query, 0.0, readable=False) if candidate == 1 else Outcome(query, 2.0)

    settings = PublishedSettings(beam=1, actions=2, depth=2, counts_unreadable=counts_unreadable)
    path = await search_published(Unjudged({}), 0, 2, settings, nobody)
    assert path[1].candidate == winner


@pytest.mark.parametrize(
    ("unusable", "best"),
    [(set(), [0, 1, 2]), ({1}, [0, -1, 0]), ({1, -1}, [0, 1])],
    ids=["none", "one path", "all paths"],
)
async def test_path_whose_rewrites_cannot_be_used_is_dropped_unless_all_are(
    unusable: set[int], best: list[int]
) -> None:
    class Unwritten(Numbers):
        """No rewrite of the unusable candidates can be read."""

        async def expand(self, path: SearchPath[int], count: int, again: int) -> Sequence[int]:
            return [] if path[-1].candidate in unusable else await super().expand(path, count, again)

    path = await search_published(Unwritten({}), 0, 3, PublishedSettings(2, 2, 3, max_extra_depth=0), nobody)
    assert [step.candidate for step in path] == best


async def test_raced_improves_keeps_parents_and_lists_no_candidate_twice() -> None:
    space = Numbers({query: query % 3 for query in range(20)})
    best, levels = await search_raced(space, 0, 20, SMALL, nobody)
    assert best.candidate == 4
    assert [level.ranked[0].candidate for level in levels] == [1, 2, 3, 4]
    assert all(len({step.candidate for step in level.ranked}) == len(level.ranked) for level in levels)
    assert 0 in [step.candidate for step in levels[0].ranked], "the parent races with its children"


@pytest.mark.parametrize("first", [0, 7, 19])
async def test_each_level_races_on_the_queries_after_those_of_the_level_before(first: int) -> None:
    space = Numbers({query: query % 3 for query in range(20)})
    _, levels = await search_raced(space, 0, 20, SMALL, nobody, first_query=first)
    begin = first
    for level in levels:
        used = [outcome.query for outcome in level.ranked[0].outcomes]
        assert used == [(begin + one) % 20 for one in range(level.queries)]
        begin += level.queries
    assert len(levels) > 2


async def test_interrupted_race_has_reported_its_leader() -> None:
    class Interrupted(Numbers):
        async def score(self, candidate: int, query: int) -> Outcome:
            if query >= 8:
                raise BudgetSpentError("calls")
            return Outcome(query, 0.04 * candidate + 0.04 * ((query + candidate) % 2))

    kept: list[int] = []

    async def keep(candidate: int) -> None:
        kept.append(candidate)

    race = RaceSettings(alpha=0.001, indifference=0.0, first_look=4, max_queries=12)
    with pytest.raises(BudgetSpentError):
        await search_raced(Interrupted({}), 0, 20, RacedSettings(1, 2, 1, race=race), nobody, keep)
    assert kept == [1, 1], "ahead of the first candidate at both looks, although not beyond chance"


async def test_query_unreadable_for_one_candidate_counts_for_none() -> None:
    space = Numbers({})
    space.unreadable = {1, 5}
    best, levels = await search_raced(space, 0, 20, SMALL, nobody)
    assert best.candidate == 4
    assert all(
        outcome.query not in space.unreadable for level in levels for step in level.ranked for outcome in step.outcomes
    )


async def test_raced_ends_without_a_new_leader() -> None:
    class Flat(Numbers):
        async def score(self, candidate: int, query: int) -> Outcome:
            return Outcome(query, 0.5 if candidate == 0 else 0.1)

    best, levels = await search_raced(Flat({}), 0, 20, SMALL, nobody)
    assert (best.candidate, len(levels)) == (0, 2)


async def test_leader_by_chance_enters_the_beam_but_is_no_new_best_candidate() -> None:
    class Chance(Numbers):
        """The mean leads over candidate 0 are far smaller than the differences on single queries."""

        async def score(self, candidate: int, query: int) -> Outcome:
            return Outcome(query, 0.5 + 0.02 * candidate + (0.4 * (-1) ** query if candidate else 0.0))

    settings = replace(SMALL, beam=1, actions=1, patience=3)
    space = Chance({})
    best, levels = await search_raced(space, 0, 20, settings, nobody)
    assert space.expanded == [0, 1, 2], "the beam follows the ranking, and the search ends by patience"
    assert [level.best for level in levels] == [0, 0, 0]
    assert all(0 in [step.candidate for step in level.ranked] for level in levels), "the best candidate still races"
    assert (best.candidate, len(best.outcomes)) == (0, 12)
