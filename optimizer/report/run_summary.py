"""What a journal tells, gathered for people: stages, candidates with their parents and scores, what was tried, what it
cost, answers side by side. Knows the journal's notes; writes nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optimizer.core.confidence import Interval, bootstrap_mean
from optimizer.core.journal import Event


@dataclass(frozen=True, slots=True)
class Node:
    """A candidate of the prompt search: its prompt, its parent's id, its scores by query as they were journaled."""

    id: str
    parent: str | None
    prompt: str
    judged: tuple[Event, ...]

    @property
    def mean(self) -> Interval | None:
        """Of its scores; None where it has none."""
        scores = [event["score"] for event in self.judged]
        return bootstrap_mean(scores) if scores else None


@dataclass(frozen=True, slots=True)
class LevelSummary:
    """One level: the leader and by how much it is ahead of the first prompt, on the queries that both were judged on;
    how many candidates and judgements."""

    number: int
    leader: str
    ahead: Interval
    candidates: int
    judgements: int


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What a role's model cost. repeated: requests that were sent and never answered, or failed."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0
    seconds: float = 0.0
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class RunSummary:
    """All that a report shows."""

    name: str
    recipe: str
    nodes: Mapping[str, Node]
    levels: tuple[LevelSummary, ...]
    trials: tuple[Event, ...]
    sealed: Event | None
    spent_out: str | None
    spending: Mapping[str, ModelUsage]
    minutes: float
    answers: Mapping[str, Mapping[str, Event]] = field(repr=False)
    """Sealed answers: by query, by variant."""

    @property
    def result(self) -> str | None:
        """The id of the last level's leader."""
        return self.levels[-1].leader if self.levels else None

    def children(self, id_: str | None) -> list[Node]:
        """The candidates made from one; of None: those that the search began with."""
        return [node for node in self.nodes.values() if node.parent == id_]


def tell(events: Sequence[Event]) -> RunSummary:
    """The story of a journal, finished or not."""
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
        levels=tuple(_level(event, nodes) for event in notes["level"]),
        trials=tuple(notes["trial"]),
        sealed=notes["sealed"][-1] if notes["sealed"] else None,
        spent_out=notes["spent"][-1]["what"] if notes["spent"] else None,
        spending=_spending(events),
        minutes=sum(event["seconds"] for event in events if event.get("tick")) / 60,
        answers=_answers(notes["score"]),
    )


def _nodes(candidates: Sequence[Event], scores: Sequence[Event]) -> dict[str, Node]:
    judged: dict[str, list[Event]] = defaultdict(list)
    for event in scores:
        if event["stage"] == "prompt":
            judged[event["candidate"]].append(event)
    nodes: dict[str, Node] = {}
    for event in candidates:
        if event["id"] not in nodes:
            nodes[event["id"]] = Node(event["id"], event["parent"], event["prompt"], tuple(judged[event["id"]]))
    return nodes


def _level(event: Event, nodes: Mapping[str, Node]) -> LevelSummary:
    leader = nodes[event["ranked"][0]["id"]]
    first = {one["query"]: one["score"] for one in next(iter(nodes.values())).judged}
    ahead = [one["score"] - first[one["query"]] for one in leader.judged if one["query"] in first]
    judgements = sum(len(one["scores"]) for one in event["ranked"])
    return LevelSummary(event["number"], leader.id, bootstrap_mean(ahead), len(event["ranked"]), judgements)


def _answers(scores: Sequence[Event]) -> dict[str, dict[str, Event]]:
    found: dict[str, dict[str, Event]] = defaultdict(dict)
    for event in scores:
        if event["stage"] == "sealed":
            found[event["query"]][event["candidate"]] = event
    return dict(found)


def _spending(events: Sequence[Event]) -> dict[str, ModelUsage]:
    replies: dict[str, list[Event]] = defaultdict(list)
    sent: Counter[str] = Counter()
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
            repeated=count - len(replies[role]),
        )
        for role, count in sent.items()
    }


def criteria(story: RunSummary) -> dict[str, dict[str, Interval]]:
    """Means of what the rewards are made of on the sealed rows, by name, by variant: criteria of a judge from 1 to 5,
    parts of rules from 0 to 1."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for variants in story.answers.values():
        for variant, event in variants.items():
            for name, value in _details(event["parts"]):
                values[name][variant].append(value)
    return {
        name: {variant: bootstrap_mean(found) for variant, found in by_variant.items()}
        for name, by_variant in values.items()
    }


def _details(parts: Mapping[str, Any]) -> list[tuple[str, float]]:
    found = []
    for reward, part in parts.items():
        for name, told in part.items():
            value = told["score"] if isinstance(told, dict) else told
            found.append((reward if name == "value" else f"{reward}: {name}", float(value)))
    return found
