"""Summarizes a run: prompts with their scores, levels, tuning, costs, and answers of the sealed evaluation.

The summary is computed from the events of the journal, whether the run is finished or not. This module writes no file.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from index.measures.confidence import Interval, bootstrap_mean
from optimizer.core.journal import DROPPED, ESTIMATED, JUDGE_TRUST, SPECIFICATION, STOPPED, UNUSABLE, Event
from optimizer.models.repeats import UNPARSABLE
from optimizer.models.task_model import REFUSED
from optimizer.rewards.pleading import PLEADING


@dataclass(frozen=True, slots=True)
class PromptNode:
    """A candidate of the prompt search.

    Attributes:
        id: The key of the candidate.
        parent: The key of the candidate from which this one was made; None for the first candidate.
        prompt: The text of the prompt.
        judged: The `score` events of the candidate.
        proposer: The name of the proposer that made the candidate; empty for the first candidate.
        change: What the proposer changed, in words.
    """

    id: str
    parent: str | None
    prompt: str
    judged: tuple[Event, ...]
    proposer: str = ""
    change: str = ""

    @property
    def mean(self) -> Interval | None:
        """The mean score with its interval; None if the candidate has no score."""
        scores = [event["score"] for event in self.judged]
        return bootstrap_mean(scores) if scores else None


@dataclass(frozen=True, slots=True)
class LevelSummary:
    """One level of the prompt search: new candidates are made from the leaders, and all of them are compared.

    Attributes:
        number: The number of the level, from 0.
        leader: The key of the candidate that the level ranks first.
        best: The key of the best candidate so far. The leader of a level replaces the best candidate only if the leader
            is clearly ahead of it.
        ahead: The leader's mean lead over the best candidate before the level, on the queries that both answered. It
            is 0 if the leader is that candidate.
        candidates: Number of candidates in the level.
        judgements: Number of scored answers in the level.
        proposers: For the name of each proposer: how many candidates the proposer has made up to this level, and how
            many of them beat their parents.
        won: The keys of the new candidates of the level that beat their parents.
    """

    number: int
    leader: str
    best: str
    ahead: Interval
    candidates: int
    judgements: int
    proposers: Mapping[str, Sequence[int]]
    won: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """The calls of the model of one role, and their cost.

    Attributes:
        calls: Number of calls with a reply.
        prompt_tokens: Prompt tokens of all calls together.
        completion_tokens: Completion tokens of all calls together.
        money: Cost of all calls together, in the currency of the prices in run.toml.
        seconds: Duration of all calls together, in seconds.
        without_reply: Number of requests that were sent but got no reply.
        unreadable: Number of replies that could not be read.
        is_estimate: Whether token counts are estimates, because the server reported none.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0
    seconds: float = 0.0
    without_reply: int = 0
    unreadable: int = 0
    is_estimate: bool = False


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Everything that a report shows.

    Attributes:
        name: The name of the bundle.
        recipe: The recipe of the search.
        nodes: All candidates of the prompt search: a mapping from key to candidate.
        levels: The levels of the prompt search.
        trials: The `trial` events of the tuning stage.
        sealed: The `sealed` event; None until the sealed evaluation is finished, or if the run has no sealed rows.
        bundle: The `bundle` event; None until the bundle is written.
        spent_out: The limit that ended the search early, such as `tokens`; None if the search was not ended early.
        usage: Calls and cost by role.
        minutes: Running time in minutes. If the run was resumed, the times of all its parts are added.
        answers: The `score` events of the sealed evaluation: for each query, a mapping from the compared variant to its
            event.
        left_out: The reason for each row that was left out, by the part and the name of the row.
        dropped: The number of dropped candidates. The key is what was proposed (such as `prompt`), and why it was
            dropped.
        judge_trust: The `judge_trust` events: how often the judge preferred the right answer.
        pleading: Number of answers that tried to influence the judge. The judge's reward for such an answer is 0.
        refused: Number of requests that the server refused only because of what a candidate put into them. Such a
            request counts as an answer with the score 0.
        specifications: The `specification` events: what people prefer, as the writer model stated it.
    """

    name: str
    recipe: str
    nodes: Mapping[str, PromptNode]
    levels: tuple[LevelSummary, ...]
    trials: tuple[Event, ...]
    sealed: Event | None
    bundle: Event | None
    spent_out: str | None
    usage: Mapping[str, ModelUsage]
    minutes: float
    answers: Mapping[str, Mapping[str, Event]] = field(repr=False)
    left_out: Mapping[tuple[str, str], str]
    dropped: Mapping[tuple[str, str], int]
    judge_trust: tuple[Event, ...]
    pleading: int
    refused: int
    specifications: tuple[Event, ...] = ()

    @property
    def proposers(self) -> Mapping[str, Sequence[int]]:
        """The number of candidates that each proposer tried, and the number that beat their parents."""
        return self.levels[-1].proposers if self.levels else {}

    @property
    def result(self) -> str | None:
        """The key of the best candidate after the last level; None if no level is finished.

        The published search has no such levels. Its result is the last candidate with the prompt of the bundle.
        """
        if self.levels or self.bundle is None:
            return self.levels[-1].best if self.levels else None
        prompt = self.bundle.get("prompt")
        return next((node.id for node in reversed(list(self.nodes.values())) if node.prompt == prompt), None)

    @property
    def is_found(self) -> bool:
        """Whether the run wrote the bundle that its search found, and not the baseline."""
        return self.bundle is not None and bool(self.bundle["found"])

    @property
    def kept_start(self) -> bool:
        """Whether the search kept the baseline, so that there is no new bundle."""
        return self.bundle is not None and bool(self.bundle["kept_start"])

    def winners(self, proposer: str) -> Sequence[PromptNode]:
        """Return the candidates of a proposer that beat their parents in the race that they were made for."""
        nodes = [self.nodes[key] for level in self.levels for key in level.won]
        return [node for node in nodes if node.proposer == proposer]

    def lead(self, node: PromptNode) -> float:
        """Return the mean lead of a candidate over its parent, on the queries on which both have scores; 0 if none."""
        parent = self.nodes.get(node.parent or "")
        scores = {event["query"]: event["score"] for event in parent.judged} if parent else {}
        leads = [event["score"] - scores[event["query"]] for event in node.judged if event["query"] in scores]
        return sum(leads) / len(leads) if leads else 0.0

    def children(self, parent: str | None) -> list[PromptNode]:
        """Return the candidates whose parent has the key `parent`. For None, return the candidates without a parent."""
        return [node for node in self.nodes.values() if node.parent == parent]


def summarize_run(events: Sequence[Event]) -> RunSummary:
    """Summarize the events of a journal."""
    notes: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if "note" in event:
            notes[event["note"]].append(event)
    nodes = _nodes(notes["candidate"], notes["score"])
    run = notes["run"][0] if notes["run"] else {"bundle": "a run that has not begun", "recipe": ""}
    return RunSummary(
        name=run["bundle"],
        recipe=run["recipe"],
        nodes=nodes,
        levels=tuple(_level_summaries(notes["level"], next(iter(nodes), ""))),
        trials=tuple(notes["trial"]),
        sealed=notes["sealed"][-1] if notes["sealed"] else None,
        bundle=notes["bundle"][-1] if notes["bundle"] else None,
        spent_out=notes["spent"][-1]["what"] if notes["spent"] else None,
        usage=_model_usage(events),
        minutes=sum(event["seconds"] for event in events if event.get("tick")) / 60,
        answers=_sealed_answers(notes["score"]),
        left_out=_left_out(events),
        dropped=_dropped(notes[DROPPED]),
        judge_trust=tuple(notes[JUDGE_TRUST]),
        pleading=sum(any(PLEADING in part for part in event["parts"].values()) for event in notes["score"]),
        refused=sum(event.get("finish_reason") == REFUSED for event in notes["score"]),
        specifications=tuple(notes[SPECIFICATION]),
    )


def _left_out(events: Sequence[Event]) -> dict[tuple[str, str], str]:
    """Return why rows were left out, by the part and the name of the row.

    A run stops if too many rows are left out. Only the rows that were left out after the last such stop are returned.
    If the run was not resumed after this stop, the rows that were left out before it are returned.
    """
    notes = [event for event in events if "note" in event]
    stops = sum(event["note"] == STOPPED for event in notes[:-1])
    found = [event for event in notes if event["note"] == UNUSABLE and event["stops"] == stops]
    return {(event["part"], event["row"]): event["why"] for event in found}


def _dropped(notes: Sequence[Event]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for event in notes:
        counts[event["what"], event["why"]] += event["count"]
    return counts


def _nodes(candidates: Sequence[Event], scores: Sequence[Event]) -> dict[str, PromptNode]:
    judged: dict[str, list[Event]] = defaultdict(list)
    for event in scores:
        if event["stage"] == "prompt":
            judged[event["candidate"]].append(event)
    nodes: dict[str, PromptNode] = {}
    for event in candidates:
        if event["id"] not in nodes:
            made = event.get("proposer", ""), event.get("change", "")
            scored = tuple(judged[event["id"]])
            nodes[event["id"]] = PromptNode(event["id"], event["parent"], event["prompt"], scored, *made)
    return nodes


def _level_summaries(events: Sequence[Event], best: str) -> Iterator[LevelSummary]:
    """Yield the summaries of all levels. `best` is the key of the first candidate."""
    for event in events:
        yield _level_summary(event, best)
        best = event["best"]


def _level_summary(event: Event, best_before: str) -> LevelSummary:
    """Summarize a level. All candidates have their scores in the same order of queries, but some have fewer scores."""
    scores = {one["id"]: one["scores"] for one in event["ranked"]}
    leader = event["ranked"][0]["id"]
    ahead = [one - other for one, other in zip(scores[leader], scores[best_before], strict=False)]
    return LevelSummary(
        number=event["number"],
        leader=leader,
        best=event["best"],
        ahead=bootstrap_mean(ahead),
        candidates=len(event["ranked"]),
        judgements=sum(map(len, scores.values())),
        proposers=event["proposers"],
        won=tuple(event["won"]),
    )


def _sealed_answers(scores: Sequence[Event]) -> dict[str, dict[str, Event]]:
    found: dict[str, dict[str, Event]] = defaultdict(dict)
    for event in scores:
        if event["stage"] == "sealed":
            found[event["query"]][event["candidate"]] = event
    return dict(found)


def _model_usage(events: Sequence[Event]) -> dict[str, ModelUsage]:
    replies: dict[str, list[Event]] = defaultdict(list)
    sent: Counter[str] = Counter()
    estimated = {event["role"] for event in events if event.get("note") == ESTIMATED}
    for event in events:
        if event.get("call") == "reply":
            replies[event["role"]].append(event)
        elif event.get("call") == "sent":
            sent[event["role"]] += 1
    return {
        role: ModelUsage(
            calls=len(replies[role]),
            prompt_tokens=sum(event["tokens"][0] for event in replies[role]),
            completion_tokens=sum(event["tokens"][1] for event in replies[role]),
            money=sum(event["money"] for event in replies[role]),
            seconds=sum(event["seconds"] for event in replies[role]),
            without_reply=count - len(replies[role]),
            unreadable=sum(UNPARSABLE in event["kept"] for event in replies[role]),
            is_estimate=role in estimated,
        )
        for role, count in sent.items()
    }
