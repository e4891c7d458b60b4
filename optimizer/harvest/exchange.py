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
class JudgeComparison:
    """The shadow judge's comparison of the answer that the user got with the answer of another arm.

    Attributes:
        score: The judge sees the two answers twice, in both orders. The score is 1 if it preferred the user's answer
            both times, 0 if it preferred the other answer both times, else 0.5.
        other: The other answer. None if it was not kept.
    """

    score: float
    other: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request, its reply, and what the store knows about them.

    Attributes:
        unit: Digest of the user or the conversation. Without the store, it cannot be traced back to a person.
        time: Start of the request, Unix seconds.
        turns: The turns of the request. The last one is a user turn.
        answer: The text of the reply, without reasoning.
        rating: The rating. None if nobody rated the answer by the wanted metric.
        comments: What users wrote about the answer.
        verdict: The shadow judge's verdict. None if the judge did not compare the answer.
        knows_person: Whether equal conversations of this unit certainly come from the same person. It is False if the
            request names no user and contains no answer yet. The unit is then a digest of the first question, so all
            people who ask this question have the same unit.
    """

    unit: bytes = field(repr=False)
    time: float
    turns: tuple[Message, ...] = field(repr=False)
    answer: str = field(repr=False)
    rating: Rating | None = None
    comments: tuple[str, ...] = field(default=(), repr=False)
    verdict: JudgeComparison | None = None
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
