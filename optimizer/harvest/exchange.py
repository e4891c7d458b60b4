"""One recorded request with its reply and its feedback, as the store or an export holds it."""

from dataclasses import dataclass, field

from index.types import Message


@dataclass(frozen=True, slots=True)
class Rating:
    """Whether a value of the harvested metric means that an answer was liked or disliked.

    Attributes:
        liked: Whether the value reaches the limit for liked answers (`StoreQuery.at_least`).
        disliked: Whether the value is at or below the limit for disliked answers (`StoreQuery.at_most`). A value
            between the two limits means neither.
    """

    liked: bool
    disliked: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The shadow judge's comparison of the answer with the answer of another arm.

    Attributes:
        score: 1 if the judge preferred the answer in both orders, 0 if it preferred the other one, 0.5 otherwise.
        other: The other answer. None if it was not kept.
    """

    score: float
    other: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request, its reply, and what the store knows about them.

    Attributes:
        unit: Digest of the user or the conversation. It identifies nobody outside the store.
        time: Start of the request, Unix seconds.
        turns: The turns of the request. The last one is a user turn.
        answer: The text of the reply, without reasoning.
        rating: The rating. None if nobody rated the answer by the wanted metric.
        comments: What users wrote about the answer.
        verdict: The shadow judge's verdict. None if the judge did not compare the answer.
        knows_person: Whether two equal conversations of this unit are certainly from the same person. This is uncertain
            if the request named no user and asks a first question: other people who ask this question have the same
            unit.
    """

    unit: bytes = field(repr=False)
    time: float
    turns: tuple[Message, ...] = field(repr=False)
    answer: str = field(repr=False)
    rating: Rating | None = None
    comments: tuple[str, ...] = field(default=(), repr=False)
    verdict: Verdict | None = None
    knows_person: bool = True

    @property
    def query(self) -> str:
        """The text of the last user turn."""
        return self.turns[-1].text

    @property
    def history(self) -> tuple[Message, ...]:
        """The turns before the query."""
        return self.turns[:-1]

    @property
    def is_opening(self) -> bool:
        """Whether the query is the first user turn, so that its meaning depends on no other turn."""
        return all(turn.role == "system" for turn in self.history)
